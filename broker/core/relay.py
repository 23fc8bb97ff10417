"""The relay's decisions: what follows each event of an interactive request, from its admission to its one end.

    events    NATS stored an attempt or not · a worker said something · the caller left, or reads too slowly ·
              time passed · the broker stops
    actions   publish an attempt · abort one · tell the caller · rule on the request

A request has one attempt at a time. If it fails in a way that another deployment may not, or its worker is lost, the next
deployment gets an attempt, as long as nothing has been streamed. An attempt that is given up on is aborted.

The caller is told one end, unless it left. A success is recorded by its worker's report; every other end is ruled here,
so that the record ends even if no worker reports, or reports what this version does not know. A report that `is_an_end`
says more than the ruling beside it, and is stored before it.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import assert_never

from broker.core import reserve
from broker.core.records import Entry
from schemas import subjects
from schemas.api import Problem
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
    retryable,
)
from schemas.units import Ms

STORE_MS = Ms(5_000)
"""How long NATS may take to say that it has stored an attempt."""
FIRST_WORD_MS = Ms(10_000)
"""How long a worker may take to be heard of: its keepalive comes each second once it has the request."""
SILENCE_MS = Ms(5_000)
"""Several keepalives missed: the worker is gone."""


def is_an_end(outcome: Outcome) -> bool:
    """Whether a worker's report ends an interactive request. If not, the relay goes on or has ended it."""
    match outcome:
        case Succeeded() | Expired():
            return True
        case Failed(failure):
            return not retryable(failure)
        case Cancelled() | Released():
            return False
        case _:
            assert_never(outcome)


@dataclass(frozen=True, slots=True)
class Started:
    """The answer begins: a piece of it follows."""


@dataclass(frozen=True, slots=True)
class Streamed:
    """A piece of the answer: one OpenAI streaming object."""

    data: bytes
    sequence: str | None


@dataclass(frozen=True, slots=True)
class KeptAlive:
    """A worker is at work on the request."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The whole answer: the OpenAI response."""

    body: bytes
    sequence: str | None


@dataclass(frozen=True, slots=True)
class Erred:
    """There is no answer."""

    problem: Problem
    sequence: str | None = None
    failure: Failure | None = None
    """From a worker: what failed, if another deployment may do better."""


End = Answered | Erred
WorkerWord = Streamed | KeptAlive | End
CallerWord = Started | Streamed | KeptAlive | End


@dataclass(frozen=True, slots=True)
class Said:
    """A worker's word on the attempt of this token."""

    token: str
    word: WorkerWord


@dataclass(frozen=True, slots=True)
class Stored:
    """NATS has the attempt of this token."""

    token: str


@dataclass(frozen=True, slots=True)
class Unstored:
    """NATS refused the attempt of this token."""

    token: str
    why: str


@dataclass(frozen=True, slots=True)
class CallerLeft:
    """Nobody waits for the answer any more."""


@dataclass(frozen=True, slots=True)
class CallerBehind:
    """The caller takes the pieces more slowly than they come, and no more of them can be kept for it."""


@dataclass(frozen=True, slots=True)
class Ticked:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class Stopping:
    """The broker waits no longer for what runs."""


Event = Said | Stored | Unstored | CallerLeft | CallerBehind | Ticked | Stopping


@dataclass(frozen=True, slots=True)
class Publish:
    """Hand the attempt to a worker of its deployment."""

    handed: "Handed"


@dataclass(frozen=True, slots=True)
class Abort:
    """Have the worker of this attempt end it."""

    handed: "Handed"


@dataclass(frozen=True, slots=True)
class Tell:
    """Tell the caller."""

    word: CallerWord


@dataclass(frozen=True, slots=True)
class Rule:
    """Record the end of the request, unless a worker's report has ended it."""

    attempt: Attempt
    """The last one."""
    outcome: Failed | Expired | Cancelled


Action = Publish | Abort | Tell | Rule
Place = Callable[[str, Collection[str]], reserve.Placed | reserve.Unplaced]
"""Chooses where a request of a model goes that some deployments have failed."""


@dataclass(frozen=True, slots=True)
class Handed:
    """An attempt, as it was handed to a deployment."""

    token: str
    """Names it among all attempts of all requests; the worker answers on a subject that ends with it."""
    attempt: Attempt
    at_ms: Ms


class Request:
    """One interactive request, while it is answered. Each event gives the actions to take, in their order."""

    def __init__(self, entry: Entry, placed: reserve.Placed, *, relay: str, place: Place, now: Ms) -> None:
        self._entry = entry
        self._relay = relay
        self._place = place
        self._began_ms = now
        self._tried: tuple[str, ...] = ()
        self._heard_ms: Ms | None = None
        """When the worker of the present attempt last said something."""
        self._is_stored = False
        self._has_streamed = False
        self._gone: Problem | None = None
        """Why no deployment can ever take it any more."""
        self.is_over = False
        self.handed = self._hand(placed, number=1, now=now)

    def __repr__(self) -> str:
        where = (
            "over" if self.is_over else f"attempt {self.handed.attempt.number} on {self.handed.attempt.deployment}"
        )
        return f"Request({self._entry.id}, {where})"

    def begin(self) -> Sequence[Action]:
        return [Publish(self.handed)]

    def on(self, event: Event, now: Ms) -> Sequence[Action]:
        """What follows. An event of an earlier attempt, or one after the end, changes nothing."""
        is_late = isinstance(event, Said | Stored | Unstored) and event.token != self.handed.token
        if self.is_over or is_late:
            return ()
        match event:
            case Said(_, word):
                self._heard_ms = now
                return self._heard(word, now)
            case Stored():
                self._is_stored = True
                return ()
            case Unstored(_, why):
                return () if self._heard_ms is not None else self._unstored(why)
            case CallerLeft():
                return self._give_up(Cancelled())
            case CallerBehind():
                return self._give_up(Cancelled(), Problem("too_slow", "the answer came faster than it was read"))
            case Stopping():
                return self._give_up(Cancelled(), Problem("broker_stopped", "the broker stopped: try again"))
            case Ticked():
                return self._look(now)
            case _:
                assert_never(event)

    def _heard(self, word: WorkerWord, now: Ms) -> Sequence[Action]:
        match word:
            case KeptAlive():
                return [Tell(word)]
            case Streamed():
                begins, self._has_streamed = not self._has_streamed, True
                return [Tell(Started()), Tell(word)] if begins else [Tell(word)]
            case Erred(_, _, failure) if failure is not None:
                return self._failed(failure, word, now)
            case Erred(problem):
                self.is_over = True
                return [Rule(self.handed.attempt, _outcome_of(problem)), Tell(word)]
            case Answered():
                self.is_over = True
                return [Tell(word)]
            case _:
                assert_never(word)

    def _failed(self, failure: Failure, word: Erred, now: Ms) -> Sequence[Action]:
        """The attempt is over: the next deployment takes the request, or this is its end."""
        if (publish := self._next(now)) is not None:
            return [publish]
        self.is_over = True
        return [Rule(self.handed.attempt, Failed(failure)), Tell(word)]

    def _look(self, now: Ms) -> Sequence[Action]:
        """End what took too long. Each attempt has its own time, the request its deadline."""
        waited = now - self.handed.at_ms
        if now >= self._entry.deadline_ms:
            within = self._entry.deadline_ms - self._began_ms
            return self._give_up(Expired(), Problem("timed_out", f"no answer within {within} ms"))
        if self._heard_ms is not None:
            if now - self._heard_ms >= SILENCE_MS:
                return self._lost(Problem("worker_lost", "the worker went silent: try again"), now)
        elif not self._is_stored and waited >= STORE_MS:
            return self._unstored("no acknowledgement in time")
        elif waited >= FIRST_WORD_MS:
            message = f"no worker took the request within {FIRST_WORD_MS} ms: try again"
            return self._lost(Problem("no_worker", message), now)
        return ()

    def _unstored(self, why: str) -> Sequence[Action]:
        problem = Problem("unavailable", f"NATS is away ({why}): try again")
        return self._give_up(Failed(EngineLost(problem.message, sent=False)), problem)

    def _lost(self, problem: Problem, now: Ms) -> Sequence[Action]:
        """Nothing more is heard of the attempt: the next deployment takes the request, or this is its end."""
        abort = Abort(self.handed)
        if (publish := self._next(now)) is not None:
            return [abort, publish]
        return self._give_up(Failed(EngineLost(problem.message)), self._gone or problem)

    def _give_up(self, outcome: Failed | Expired | Cancelled, problem: Problem | None = None) -> Sequence[Action]:
        """End the request from here. Without a problem there is no caller any more."""
        self.is_over = True
        ends: list[Action] = [Abort(self.handed), Rule(self.handed.attempt, outcome)]
        return [*ends, Tell(Erred(problem))] if problem is not None else ends

    def _next(self, now: Ms) -> Publish | None:
        """Hand the request to another deployment; None if it has begun to answer, or if no other can take it."""
        if self._has_streamed:
            return None
        tried = (*self._tried, self.handed.attempt.deployment)
        placed = self._place(self._entry.model, tried)
        if not isinstance(placed, reserve.Placed):
            self._gone = reserve.problem_of(placed, self._entry.model) if isinstance(placed, reserve.Gone) else None
            return None
        self._tried, self._heard_ms, self._is_stored = tried, None, False
        self.handed = self._hand(placed, number=self.handed.attempt.number + 1, now=now)
        return Publish(self.handed)

    def _hand(self, placed: reserve.Placed, *, number: int, now: Ms) -> Handed:
        entry = self._entry
        attempt = Attempt(
            job=entry.id,
            number=number,
            tenant=entry.tenant,
            lane=entry.lane,
            model=entry.model,
            deployment=placed.deployment,
            endpoint=entry.endpoint,
            body=entry.body,
            admitted_ms=entry.admitted_ms,
            deadline_ms=entry.deadline_ms,
            dispatched_ms=now,
            reply_to=subjects.reply(subjects.ReplyTo(placed.deployment, self._relay, placed.token)),
            key=entry.key,
            custom_id=entry.custom_id,
            metadata=entry.metadata,
            traceparent=entry.traceparent,
        )
        return Handed(placed.token, attempt, now)


def _outcome_of(problem: Problem) -> Failed | Expired | Cancelled:
    """What a worker's report says more precisely, if this version can read it."""
    match problem.code:
        case "expired":
            return Expired()
        case "cancelled":
            return Cancelled()
        case _:
            return Failed(EngineFault(problem.message))
