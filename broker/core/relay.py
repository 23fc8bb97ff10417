"""Decides what follows each event of an interactive request, from its admission to its one end.

    events    its turn came, or cannot come · NATS stored an attempt or not · a worker sent a message · the caller left,
              or reads too slowly · time passed · the broker stops
    actions   publish an attempt · abort one · tell the caller · rule on the request

A request that finds every slot taken waits for its turn, as long as its deadline allows (see `core.line`). It has one
attempt at a time. A worker without a free slot turns the attempt back: it has not begun, and the request waits again. If
the attempt fails in a way that another deployment might not, or if its worker is lost, the next deployment gets an attempt,
as long as nothing has been streamed and the policy of its model allows one. While that is full, the request waits for it.
An abandoned attempt is aborted.

The caller is told one end, unless it left. A success is recorded by its worker's report. Every other end is ruled on
here, so that the record ends even if no worker reports, or reports in words that this version does not know. A report
that `ends_request` says more than the ruling beside it, and is stored before it. If the broker is killed, nobody rules:
only such a report is recorded.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import assert_never

from broker.core import reserve, retry
from broker.core.records import Entry
from schemas import subjects
from schemas.api import Problem
from schemas.catalog import Retry
from schemas.job import Attempt
from schemas.outcome import (
    Cancelled,
    EngineFault,
    EngineLost,
    Expired,
    Failed,
    Failure,
    Outcome,
    Released,
    Succeeded,
    counts,
    retryable,
)
from schemas.subjects import WorkerId
from schemas.units import Ms

STORE_MS = Ms(10_000)
"""How long NATS may take to store an attempt. A cluster elects a new leader within that when a node was killed."""
AGAIN_MS = Ms(1_000)
"""How long after NATS could not store an attempt to publish it again, under the same id: it is stored once."""
UNHEARD_MS = Ms(3_000)
"""How long without an acknowledgement before an attempt is published again."""
PICK_UP_MS = Ms(10_000)
"""How long it may take until a worker picks an attempt up: from then on it sends a keepalive each second."""
KEEPALIVE_MS = Ms(1_000)
"""How often the caller of a request is told that it is alive while it waits."""
SILENCE_MS = Ms(5_000)
"""How long a worker may send nothing: it has missed several keepalives by then, so it is gone."""


def ends_request(outcome: Outcome) -> bool:
    """Tell whether a worker's report ends an interactive request. If not, the relay goes on or has ended it itself."""
    match outcome:
        case Succeeded():
            return True
        case Failed(failure):
            return not retryable(failure)
        case Expired() | Cancelled() | Released():  # when its time is up, the relay says
            return False
        case _:
            assert_never(outcome)


@dataclass(frozen=True, slots=True)
class Started:
    """The answer begins; its first piece follows."""


@dataclass(frozen=True, slots=True)
class Streamed:
    """A piece of the answer arrived: one OpenAI streaming object."""

    data: bytes
    sequence: str | None


@dataclass(frozen=True, slots=True)
class KeptAlive:
    """A worker is at work on the request."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer is complete: this is the whole OpenAI response."""

    body: bytes
    sequence: str | None


@dataclass(frozen=True, slots=True)
class Erred:
    """There will be no answer."""

    problem: Problem
    sequence: str | None = None
    failure: Failure | None = None
    """Set by a worker if another deployment might succeed."""


@dataclass(frozen=True, slots=True)
class TurnedBack:
    """The worker has no free slot: it has not begun the attempt, and will not."""


End = Answered | Erred
WorkerMessage = Streamed | KeptAlive | TurnedBack | End
CallerMessage = Started | Streamed | KeptAlive | End


@dataclass(frozen=True, slots=True)
class Said:
    """A worker sent a message about the attempt of this token."""

    token: str
    message: WorkerMessage


@dataclass(frozen=True, slots=True)
class Stored:
    """NATS has stored the attempt of this token."""

    token: str


@dataclass(frozen=True, slots=True)
class Unstored:
    """NATS refused the attempt of this token."""

    token: str
    why: str
    passes: bool = False
    """The stream has no leader now, so publishing again may help."""


@dataclass(frozen=True, slots=True)
class CallerLeft:
    """Nobody waits for the answer any more."""


@dataclass(frozen=True, slots=True)
class CallerBehind:
    """The caller reads more slowly than pieces come, and its buffer is full."""


@dataclass(frozen=True, slots=True)
class CancelAsked:
    """Somebody of its tenant cancelled the request by its id."""


@dataclass(frozen=True, slots=True)
class Ticked:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class WorkerDied:
    """The worker that had the attempt of this token has died."""

    token: str


@dataclass(frozen=True, slots=True)
class Stopping:
    """The broker stops and waits no longer for requests under way."""


@dataclass(frozen=True, slots=True)
class TurnCame:
    """There is a slot for the request, which waited for one."""

    placed: reserve.Placement


@dataclass(frozen=True, slots=True)
class TurnDenied:
    """The request waits in vain: no deployment takes it any more, or too many wait."""

    problem: Problem


Event = (
    TurnCame
    | TurnDenied
    | Said
    | Stored
    | Unstored
    | CallerLeft
    | CallerBehind
    | CancelAsked
    | Ticked
    | WorkerDied
    | Stopping
)


@dataclass(frozen=True, slots=True)
class Assignment:
    """An attempt that a deployment is to run."""

    token: str
    """Names the attempt among all attempts of all requests; the worker answers on a subject that ends with it."""
    attempt: Attempt
    assigned_ms: Ms
    worker: WorkerId | None = None
    """The worker that it goes to alone, since that offered a slot or runs it apart. None: any of the deployment."""
    is_apart: bool = False
    """Whether the worker is to run it apart from all others."""
    started_ms: Ms | None = None
    """When that worker started, by its own clock. None: it is not known."""


@dataclass(frozen=True, slots=True)
class Publish:
    """Publish the attempt for the workers of its deployment."""

    assignment: Assignment


@dataclass(frozen=True, slots=True)
class Abort:
    """Tell the worker of this attempt to end it."""

    assignment: Assignment


@dataclass(frozen=True, slots=True)
class Tell:
    """Tell the caller."""

    message: CallerMessage


@dataclass(frozen=True, slots=True)
class Rule:
    """Record the end of the request, unless a worker's report has ended it."""

    attempt: Attempt
    """The request's last attempt."""
    outcome: Failed | Expired | Cancelled


Action = Publish | Abort | Tell | Rule
Placer = Callable[[str, Collection[str]], reserve.Placement | reserve.NotPlaced]
"""Chooses where a request of this model goes next, given the deployments that have failed it."""


_WHY_ENDED: Mapping[type, Problem] = {
    CallerBehind: Problem("too_slow", "the answer came faster than it was read"),
    CancelAsked: Problem("cancelled", "the request was cancelled"),
    Stopping: Problem("broker_stopped", "the broker stopped: try again"),
}


class RequestState:
    """The state of one interactive request while it is answered. Each event returns the actions to take, in order."""

    def __init__(
        self,
        entry: Entry,
        placed: reserve.Placement,
        *,
        relay: str,
        place: Placer,
        policy: Callable[[str], Retry],
        now: Ms,
        waits: bool = False,
    ) -> None:
        """`waits`: there is no free slot. It is `placed` where it waits for one; a later placement may be elsewhere."""
        self._entry = entry
        self._relay = relay
        self._place = place
        self._policy = policy
        self._spent = 0
        """How many attempts failed in a way that counts."""
        self._began_ms = now
        self._tried: tuple[str, ...] = ()
        self._last_message_ms: Ms | None = None
        """When the worker of the current attempt last sent a message."""
        self._is_stored = False
        self._stored_ms = now
        self._again_ms = Ms(now + UNHEARD_MS)
        """When to publish the current attempt again, unless it is stored by then."""
        self._unrefused = 1
        """How often the current attempt was published and not refused."""
        self._unstored = "no acknowledgement in time"
        """Why the current attempt is not stored."""
        self._kept_alive_ms = now
        self._has_streamed = False
        self._never: Problem | None = None
        """Set when no deployment can ever take the request: the catalog has dropped the model, or it ends workers."""
        self._failure: Failure | None = None
        """How its last attempt failed that has ended."""
        self._next_number = 1
        """The number of the next attempt that begins."""
        self.waits = waits
        """Whether it waits for a slot. Its assignment is over then, or was never published."""
        self.is_over = False
        self.assignment = self._assign(placed, now=now)

    def __repr__(self) -> str:
        attempt = self.assignment.attempt
        where = f"attempt {attempt.number} on {attempt.deployment}"
        where = "over" if self.is_over else "waits" if self.waits else where
        return f"RequestState({self._entry.id}, {where})"

    @property
    def tenant(self) -> str:
        return self._entry.tenant

    @property
    def body_hash(self) -> bytes:
        return self._entry.body_hash

    @property
    def entry(self) -> Entry:
        return self._entry

    @property
    def tried(self) -> Collection[str]:
        """The deployments that have failed it."""
        return self._tried

    def begin(self) -> Sequence[Action]:
        return () if self.waits else [Publish(self.assignment)]

    def on(self, event: Event, now: Ms) -> Sequence[Action]:
        """Return what to do. An event of an earlier attempt, or one after the end, changes nothing."""
        is_late = isinstance(event, Said | Stored | Unstored | WorkerDied) and event.token != self.assignment.token
        if self.is_over or is_late:
            return ()
        if self.waits:
            return self._while_waiting(event, now)
        match event:
            case Said(_, message):
                self._last_message_ms = now
                return self._on_message(message, now)
            case Stored():
                self._is_stored, self._stored_ms = True, now
            case Unstored():
                return () if self._last_message_ms is not None else self._on_unstored(event, now)
            case CallerLeft() | CallerBehind() | CancelAsked() | Stopping():
                return self._give_up(Cancelled(), _WHY_ENDED.get(type(event)))
            case WorkerDied():
                return self._lost(Problem("worker_lost", "the worker died: try again"), now, counted=False)
            case Ticked():
                return self._check_time(now)
            case TurnCame() | TurnDenied():  # it waits no more
                pass
            case _:
                assert_never(event)
        return ()

    def _while_waiting(self, event: Event, now: Ms) -> Sequence[Action]:
        match event:
            case TurnCame(placed):
                return [self._begin_attempt(placed, now)]
            case TurnDenied(problem):
                return self._give_up(Failed(self._failure or EngineLost(problem.message, sent=False)), problem)
            case CallerLeft() | CancelAsked() | Stopping():
                return self._give_up(Cancelled(), _WHY_ENDED.get(type(event)))
            case Ticked() if now >= self._entry.deadline_ms:
                return self._time_is_up()
            case Ticked():
                return self._wait_on(now)
            case _:  # of an attempt that is over
                return ()

    def _time_is_up(self) -> Sequence[Action]:
        within, why = self._entry.deadline_ms - self._began_ms, ": every slot was taken" if self.waits else ""
        return self._give_up(Expired(), Problem("timed_out", f"no answer within {within} ms{why}"))

    def _begin_attempt(self, placed: reserve.Placement, now: Ms) -> Publish:
        self.waits = False
        self._last_message_ms, self._is_stored, self._unrefused = None, False, 1
        self._again_ms = Ms(now + UNHEARD_MS)
        self.assignment = self._assign(placed, now=now)
        return Publish(self.assignment)

    def _on_message(self, message: WorkerMessage, now: Ms) -> Sequence[Action]:
        match message:
            case KeptAlive():
                return [Tell(message)]
            case TurnedBack():
                self.waits = True
                return ()
            case Streamed():
                begins, self._has_streamed = not self._has_streamed, True
                return [Tell(Started()), Tell(message)] if begins else [Tell(message)]
            case Erred(_, _, failure) if failure is not None:
                self._spent += counts(failure)
                if (next_actions := self._reassign(failure, now)) is not None:
                    return next_actions
                self.is_over = True
                return [Rule(self.assignment.attempt, Failed(failure)), Tell(message)]
            case Erred(Problem("expired")):
                return self._worker_says_expired(now)
            case Erred(problem):
                self.is_over = True
                return [Rule(self.assignment.attempt, _outcome_of(problem)), Tell(message)]
            case Answered():
                self.is_over = True
                return [Tell(message)]
            case _:
                assert_never(message)

    def _worker_says_expired(self, now: Ms) -> Sequence[Action]:
        """Tell the caller the same whoever notices first that the time is up. A worker cannot say so before it is."""
        if now < self._entry.deadline_ms:
            return self._lost(Problem("engine_fault", "the worker ended the request before its time was up"), now)
        return self._time_is_up()

    def _check_time(self, now: Ms) -> Sequence[Action]:
        """End what took too long: the request at its deadline, an attempt when its worker is silent."""
        waited = now - self.assignment.assigned_ms
        if now >= self._entry.deadline_ms:
            return self._time_is_up()
        if self._last_message_ms is not None:
            if now - self._last_message_ms >= SILENCE_MS:
                return self._lost(Problem("worker_lost", "the worker went silent: try again"), now)
        elif self.assignment.is_apart:
            return self._wait_on(now)
        elif self.assignment.worker is not None:
            return self._wait_again() if waited >= UNHEARD_MS else ()
        elif not self._is_stored and waited >= STORE_MS:
            return self._not_stored()
        elif not self._is_stored:
            return self._publish_again(now)
        elif now - self._stored_ms >= PICK_UP_MS:
            message = f"no worker took the request within {PICK_UP_MS} ms: try again"
            return self._lost(Problem("no_worker", message), now)
        return ()

    def _on_unstored(self, event: Unstored, now: Ms) -> Sequence[Action]:
        if self.assignment.is_apart:
            return self._lost(Problem("worker_lost", "its worker is not there: try again"), now)
        if self.assignment.worker is not None:
            return self._wait_again()
        self._unstored, self._again_ms = event.why, Ms(now + AGAIN_MS)
        self._unrefused -= 1
        is_open = event.passes or self._unrefused > 0  # it was published again, and may be stored
        return () if is_open else self._not_stored()

    def _publish_again(self, now: Ms) -> Sequence[Action]:
        if now < self._again_ms:
            return ()
        self._again_ms = Ms(now + UNHEARD_MS)
        self._unrefused += 1
        return [Publish(self.assignment)]

    def _wait_again(self) -> Sequence[Action]:
        """Wait for a slot again: the worker that offered one did not take the attempt."""
        self.waits = True
        return [Abort(self.assignment)]

    def _wait_on(self, now: Ms) -> Sequence[Action]:
        """Keep the caller waiting: every slot is taken, or the attempt waits at its worker until what runs there is over."""
        if now - self._kept_alive_ms < KEEPALIVE_MS:
            return ()
        self._kept_alive_ms = now
        return [Tell(KeptAlive())]

    def _not_stored(self) -> Sequence[Action]:
        problem = Problem("unavailable", f"NATS is away ({self._unstored}): try again")
        return self._give_up(Failed(EngineLost(problem.message, sent=False)), problem)

    def _lost(self, problem: Problem, now: Ms, *, counted: bool = True) -> Sequence[Action]:
        """Abandon an attempt of which nothing is heard, and reassign the request if possible, else end it.

        As with jobs, that a worker died does not count: it is not the request's doing, unless it is convicted of it.
        """
        self._spent += counted
        abort, failure = Abort(self.assignment), EngineLost(problem.message)
        if (next_actions := self._reassign(failure, now)) is not None:
            return [abort, *next_actions]
        return self._give_up(Failed(failure), self._never or problem)

    def _give_up(self, outcome: Failed | Expired | Cancelled, problem: Problem | None = None) -> Sequence[Action]:
        """End the request on the broker's own decision. `problem` is for the caller; None if the caller has left."""
        self.is_over = True
        aborts: list[Action] = [] if self.waits else [Abort(self.assignment)]
        ends: list[Action] = [*aborts, Rule(self.assignment.attempt, outcome)]
        return [*ends, Tell(Erred(problem))] if problem is not None else ends

    def _reassign(self, failure: Failure, now: Ms) -> Sequence[Action] | None:
        """Assign the request to another deployment, or let it wait for one that is full. None: pieces were streamed already,
        the policy of the model allows no other attempt, or no other deployment can take it.
        """
        policy, most = self._policy(self._entry.model), self._entry.max_attempts
        end = retry.end_after(failure, policy, spent=self._spent, max_attempts=most)
        if self._has_streamed or end is not None:
            return None
        tried = (*self._tried, self.assignment.attempt.deployment)
        placed = self._place(self._entry.model, tried)
        if isinstance(placed, reserve.ModelGone | reserve.Poison):
            self._never = reserve.problem_of(placed, self._entry.model)
            return None
        if isinstance(placed, reserve.NoRoom) and not placed.full:
            return None
        self._tried, self._failure = tried, failure
        self._next_number += 1
        if isinstance(placed, reserve.NoRoom):
            self.waits = True
            return ()
        return [self._begin_attempt(placed, now)]

    def _assign(self, placed: reserve.Placement, *, now: Ms) -> Assignment:
        entry = self._entry
        attempt = Attempt(
            job=entry.id,
            number=self._next_number,
            tenant=entry.tenant,
            lane=entry.lane,
            model=entry.model,
            deployment=placed.deployment,
            endpoint=entry.endpoint,
            body=entry.body,
            admitted_ms=entry.admitted_ms,
            deadline_ms=entry.deadline_ms,
            dispatched_ms=now,
            left_ms=Ms(max(0, entry.deadline_ms - now)),
            reply_to=subjects.reply(subjects.ReplyTo(placed.deployment, self._relay, placed.token)),
            key=entry.key,
            custom_id=entry.custom_id,
            metadata=entry.metadata,
            traceparent=entry.traceparent,
            group=entry.id if placed.is_apart else None,
        )
        return Assignment(placed.token, attempt, now, placed.worker, placed.is_apart, placed.started_ms)


def _outcome_of(problem: Problem) -> Failed | Cancelled:
    """The outcome to rule. The worker's report is more precise, if this version can read it."""
    match problem.code:
        case "cancelled":
            return Cancelled()
        case _:
            return Failed(EngineFault(problem.message))
