"""Relays interactive requests: it stays in the middle between a caller and the workers.

door ── ask ──► relay ── attempt ──► NOW ──► worker ── pieces, end ──► infermq.reply.… ──► relay ──► caller

It does not know who calls. `core.relay` decides what follows each event; this role turns messages and the passing of
time into events, and carries the decisions out in order.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import assert_never
from uuid import UUID

import msgspec

from broker.bus.notices import announce_abort
from broker.bus.request_cancels import decode_request_cancel
from broker.bus.runs import Rulings
from broker.core import reserve
from broker.core.line import Depth
from broker.core.presence import Departed, Presence, Process, lost_executions, process_of
from broker.core.records import Entry
from broker.core.relay import (
    Abort,
    Action,
    Answered,
    Assignment,
    CallerBehind,
    CallerLeft,
    CallerMessage,
    CancelAsked,
    Erred,
    Event,
    KeptAlive,
    Publish,
    RequestState,
    Rule,
    Said,
    Started,
    Stopping,
    Stored,
    Streamed,
    Tell,
    Ticked,
    TurnCame,
    TurnDenied,
    TurnedBack,
    Unstored,
    WorkerDied,
    WorkerMessage,
)
from broker.core.request_suspects import RequestSuspects, had_begun, request_key, was_with
from broker.core.seals import sealed_request
from broker.ports import Caller, Clock
from broker.roles.failure_log import SummedLog
from broker.roles.reserves import Reserves
from broker.roles.tasks import Tasks
from broker.roles.waiting import Waiting
from schemas import subjects
from schemas.api import ErrorBody, Problem
from schemas.codec import FAILURE, KIND, MSG_ID, OFFER, SEQ, UNREADABLE, packed
from schemas.jetstream import Kind, Message, NatsConnection, NatsError, NotStored, acknowledged, header_number
from schemas.outcome import EngineLost, Failure
from schemas.ruling import EndRequest
from schemas.units import Ms
from schemas.worker import SlotOffer

log = logging.getLogger(__name__)
TICK_S = 0.25
FINISH_S = 10.0
"""How long requests under way may take to finish when the broker stops."""
_FLUSH_S = 1.0
"""How long the last messages and rulings may take after that."""
_RECENT_MS = 10_000
"""How long a request that ended without a word of its worker is remembered: longer than a death goes unnoticed."""
DEPTH = Depth(requests=1000, size=64 * 1024 * 1024)
"""How much may wait for a slot of one model at one broker. A guess: more requests than a busy pool starts in a minute."""
BUFFER_BYTES = 1024 * 1024
"""Bytes of pieces that may wait for one caller. A caller that is further behind has stopped reading."""
_failure = msgspec.json.Decoder(Failure)
_problem = msgspec.json.Decoder(ErrorBody)
_offer: msgspec.msgpack.Decoder[SlotOffer] = msgspec.msgpack.Decoder(SlotOffer)


class RelayedRequest:
    """A request while it is answered: its state, and the actions and messages that are still to be carried out."""

    def __init__(self, state: RequestState, caller: Caller, *, buffer_bytes: int) -> None:
        self.state = state
        self.caller = caller
        self.actions: deque[Action] = deque()
        """Actions still to be carried out, in order."""
        self.is_acting = False
        self.has_end = False
        """The end has been enqueued for the caller."""
        self.delivery: asyncio.Task[None] | None = None
        self._buffer_bytes = buffer_bytes
        self._messages: deque[CallerMessage] = deque()
        self._came: asyncio.Future[None] | None = None
        """Done when a message comes for which the caller waits. A queue of asyncio's takes several times as long."""
        self._waiting_bytes = 0

    def enqueue(self, message: CallerMessage) -> bool:
        """Keep a message until the caller takes it. False: the buffer has no room for this piece."""
        if isinstance(message, Streamed):
            if self._waiting_bytes + len(message.data) > self._buffer_bytes:
                return False
            self._waiting_bytes += len(message.data)
        self._messages.append(message)
        if self._came is not None and not self._came.done():
            self._came.set_result(None)
        if isinstance(message, Answered | Erred):
            self.has_end = True
        return True

    async def deliver(self) -> None:
        """Pass the enqueued messages to the caller, until its request ends."""
        while True:
            while not self._messages:
                self._came = asyncio.get_running_loop().create_future()
                await self._came
            match message := self._messages.popleft():
                case Started():
                    await self.caller.start()
                case Streamed():
                    await self.caller.piece(message)
                    self._waiting_bytes -= len(message.data)
                case KeptAlive():
                    await self.caller.alive()
                case Answered() | Erred():
                    await self.caller.end(message)
                    return


async def _tell_nobody(_: str, __: int | None) -> None:
    """Keep to oneself which requests are suspected."""


class Relay:
    """The interactive requests that this broker answers."""

    def __init__(
        self,
        nc: NatsConnection,
        *,
        name: str,
        reserves: Reserves,
        rulings: Rulings,
        seal_key: Callable[[], bytes],
        clock: Clock,
        presence: Presence | None = None,
        tell: Callable[[str, int | None], Awaitable[None]] = _tell_nobody,
        lost: Callable[[int], object] = lambda _: None,
        waited: Callable[[str, float], object] = lambda _, __: None,
        waiting: Callable[[Mapping[str, int]], object] = lambda _: None,
        depth: Depth = DEPTH,
        tick_s: float = TICK_S,
        finish_s: float = FINISH_S,
        buffer_bytes: int = BUFFER_BYTES,
    ) -> None:
        """`name` is the broker's name; no two brokers that run may share one. `tell` tells brokers of suspected requests.

        `lost` counts executions that died workers held. `waited` is called with the model of each request that waited for a
        slot, and the seconds until it had one; `waiting`, now and then, with how many wait for each model. `depth` is how
        much may wait for one.
        """
        self._nc = nc
        self._name = name
        self._reserves = reserves
        self._rulings = rulings
        self._seal_key = seal_key
        self._clock = clock
        self._presence = Presence() if presence is None else presence
        self._tell = tell
        self._lost = lost
        self._mourned: set[Process] = set()
        """The workers whose deaths have been seen to."""
        self._recent: deque[tuple[Ms, str, Assignment]] = deque()
        """Requests that ended a moment ago without a word of their worker: it may have died of them."""
        self._tick_s = tick_s
        self._finish_s = finish_s
        self._buffer_bytes = buffer_bytes
        self._acks = nc.new_inbox()
        """The inbox in which NATS answers whether it stored an attempt."""
        self._moves = SummedLog[tuple[str, str, str]](now_s=lambda: clock() / 1000)
        self._by_job: dict[UUID, RelayedRequest] = {}
        self._by_token: dict[str, RelayedRequest] = {}
        """Requests by the token of their current attempt. Messages about earlier attempts are ignored."""
        self._tasks = Tasks()
        self._count_waiting = waiting
        self.waiting = Waiting(nc, relay=name, depth=depth, clock=clock, tasks=self._tasks, waited=waited)
        self._idle = asyncio.Event()

    def __repr__(self) -> str:
        return f"Relay(requests={len(self._by_job)}, {self._reserves})"

    @property
    def suspects(self) -> RequestSuspects:
        return self._reserves.suspects

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Listen to workers. On leaving, when no door admits requests any more, let those under way finish."""
        replies = await self._nc.subscribe(subjects.replies_to(self._name), cb=self._replied)
        acks = await self._nc.subscribe(f"{self._acks}.*", cb=self._acknowledged)
        cancels = await self._nc.subscribe(subjects.CTL_CANCEL_REQUESTS, cb=self._cancel_asked)
        try:
            yield
        finally:
            if not self._nc.is_closed:
                await self._finish()
                await replies.unsubscribe()
                await acks.unsubscribe()
                await cancels.unsubscribe()

    async def watch(self) -> None:
        """End requests and attempts that take too long. Runs until cancelled."""
        while True:
            await asyncio.sleep(self._tick_s)
            self._tasks.check()
            self._log_moves()
            self._reserves.tick()
            now = self._clock()
            departed = list(self._presence.departed)
            for gone in departed:
                if gone.has_died and process_of(gone.beat) not in self._mourned:
                    await self._worker_died(gone, now)
            self._mourned = {process_of(gone.beat) for gone in departed}
            if self.waiting.is_known:
                await self._look_at_waiting()
            for request in list(self._by_job.values()):
                await self._handle(request, Ticked(), now)

    def has_anothers(self, job: UUID, tenant: str) -> bool:
        """Tell whether a request of another tenant is under way here by this id."""
        request = self._by_job.get(job)
        return request is not None and request.state.tenant != tenant

    async def ask(self, entry: Entry, caller: Caller) -> None:
        """Begin to answer an admitted request. Returns once it is under way; the `caller` gets the rest."""
        if entry.id in self._by_job:
            await caller.end(Erred(reserve.in_use(entry.id)))
            return
        place = partial(self._reserves.place, entry, wanted=self.waiting.line.wanted)
        placed = place(entry.model, ())
        full: tuple[str, ...] = ()
        if isinstance(placed, reserve.NoRoom) and placed.full:
            full = placed.full
            placed = reserve.Placement(full[0], self._reserves.token())
        if not isinstance(placed, reserve.Placement):
            await caller.end(Erred(reserve.problem_of(placed, entry.model, now=self._clock())))
            return
        state = RequestState(
            entry,
            placed,
            relay=self._name,
            place=place,
            policy=self._reserves.policy,
            now=self._clock(),
            waits=bool(full),
        )
        request = self._by_job[entry.id] = RelayedRequest(state, caller, buffer_bytes=self._buffer_bytes)
        request.delivery = self._tasks.spawn(request.deliver())
        if full:
            await self._enter(state, full)
            return
        self._take_slot(request)
        await self._act(request, state.begin())

    async def _enter(self, state: RequestState, full: tuple[str, ...]) -> None:
        """Let a request wait. If too many do now, refuse one."""
        for job, waiting in self.waiting.enter(state, full):
            model = state.entry.model
            why = reserve.no_more_wait(
                model, waiting=waiting, retry_after_ms=self.waiting.retry_after_ms(model, waiting)
            )
            if (request := self._by_job.get(job)) is not None:
                await self._handle(request, TurnDenied(why))

    async def _offered(self, message: Message) -> None:
        """Give the slots that a worker offers to the requests whose turn it is."""
        try:
            key, worker, count = _offer.decode(message.data)
            deployment = subjects.replying_deployment(message.subject)
        except (ValueError, *UNREADABLE) as error:
            log.warning("offer ignored bytes=%d error=%s", len(message.data), error)
            return
        offering = subjects.worker_id(deployment, key, worker)
        for _ in range(count):
            if (job := self.waiting.take(deployment)) is None:
                return
            request = self._by_job[job]
            entry = request.state.entry
            placed = self._reserves.place_offered(
                entry, entry.model, request.state.tried, deployment=deployment, worker=offering
            )
            await self._had_turn(request, placed)

    async def _had_turn(self, request: RelayedRequest, placed: reserve.Placement | reserve.NotPlaced) -> None:
        """Begin an attempt of a request that waited, or refuse it."""
        entry = request.state.entry
        if isinstance(placed, reserve.Placement):
            self.waiting.started(entry.id, entry.model)
            await self._handle(request, TurnCame(placed))
        else:
            problem = reserve.problem_of(placed, entry.model, now=self._clock())
            await self._handle(request, TurnDenied(problem))

    async def _look_at_waiting(self) -> None:
        """Look whose slots each request may take that waits, and refuse what no deployment takes any more."""
        found: dict[tuple[str, str, Collection[str]], reserve.Placement | reserve.NotPlaced] = {}
        for job in list(self.waiting.line.jobs):
            if job not in self.waiting.line:
                continue  # it has gone meanwhile
            state = self._by_job[job].state
            entry = state.entry
            alike = entry.model, entry.tenant, state.tried
            where = found.get(alike)
            if where is None or self.suspects:
                where = self._reserves.look_again(entry, entry.model, state.tried)
                found[alike] = where
            if isinstance(where, reserve.NoRoom) and where.full:
                self.waiting.line.move(job, where.full)
            else:
                self.waiting.leave(job)
                await self._had_turn(self._by_job[job], where)
        await self.waiting.say_again()
        self._count_waiting(self.waiting.line.by_model)

    async def _worker_died(self, gone: Departed, now: Ms) -> None:
        """Suspect the requests that it may have had, and go on with them: apart, if they may. What it ran is lost."""
        mine = [
            (one, one.state.assignment)
            for one in self._by_job.values()
            if not one.state.waits and was_with(one.state.assignment, gone, self._presence.here, now)
        ]
        suspected = [(_key(one.state), assignment) for one, assignment in mine]
        for ended in list(self._recent):
            ended_ms, key, assignment = ended
            if now - ended_ms > _RECENT_MS:
                self._recent.remove(ended)
            elif was_with(assignment, gone, self._presence.here, now):
                self._recent.remove(ended)
                suspected.append((key, assignment))
        lost = lost_executions(gone, {(one.attempt.job, one.attempt.number) for _, one in suspected})
        if lost:
            self._tasks.spawn(self._rulings.publish(lost))
            self._lost(len(lost))
        suspects = self.suspects
        for key, assignment in suspected:
            deaths = suspects.deaths_alone(key, now) or 0
            if assignment.is_apart and had_begun(assignment, gone):
                deaths += 1
            log.warning("suspected request key=%s deaths_alone=%d", key, deaths)
            suspects.suspected(key, deaths, now)
            await self._tell(key, deaths)
        for request, assignment in mine:
            suspects.is_over(assignment.token)  # so that it may run apart once more
            await self._handle(request, WorkerDied(assignment.token), now)

    async def _clear(self, key: str) -> None:
        """Suspect a request no longer: its run apart has ended, and its worker lives."""
        self.suspects.cleared(key)
        await self._tell(key, None)

    async def caller_left(self, job: UUID) -> None:
        """End the request whose caller is gone."""
        if (request := self._by_job.get(job)) is not None:
            log.info("caller left job=%s", job)
            await self._handle(request, CallerLeft())

    async def _cancel_asked(self, message: Message) -> None:
        """End the requests that the message names, and answer which of them were under way here."""
        if (named := decode_request_cancel(message.data)) is None:
            return
        tenant, jobs = named
        found = [job for job in jobs if (one := self._by_job.get(job)) is not None and one.state.tenant == tenant]
        for job in found:
            log.info("cancelled job=%s", job)
            await self._handle(self._by_job[job], CancelAsked())
        if found and message.reply:
            await self._nc.publish(message.reply, packed(found))

    async def _replied(self, message: Message) -> None:
        try:
            token = subjects.reply_token(message.subject)
        except ValueError as error:
            log.warning("reply ignored error=%s", error)
            return
        if token == subjects.OFFERS:
            if (message.headers or {}).get(KIND) == OFFER:
                await self._offered(message)
            return
        if (request := self._by_token.get(token)) is None:
            if message.reply:  # a broker of this name had the request, and was lost; or its attempt is over
                await self._nc.publish(message.reply, headers={"Status": "503"})
            return
        if message.subject != request.state.assignment.attempt.reply_to:
            log.warning("reply ignored: it is not of the deployment that was asked subject=%s", message.subject)
            return
        await self._handle(request, Said(token, worker_message(message)))

    async def _acknowledged(self, message: Message) -> None:
        token = message.subject.rpartition(".")[2]
        if (request := self._by_token.get(token)) is not None:
            await self._handle(request, stored_event(message, token))

    async def _handle(self, request: RelayedRequest, event: Event, now: Ms | None = None) -> None:
        """Decide what follows an event and do it. After the request's end nothing does."""
        if request.state.is_over:
            return
        state, before, waited = request.state, request.state.assignment, request.state.waits
        now = self._clock() if now is None else now
        actions = state.on(event, now)
        if state.is_over:
            self._ended(request, event, had_slot=not waited)
        elif state.waits and not waited:
            self._give_back_slot(before)
            self._wait_again(request, event)
        elif state.assignment is not before:
            if not waited:
                self._moved(before, state, event)
                self._give_back_slot(before)
            self._take_slot(request)
        await self._act(request, actions)

    def _ended(self, request: RelayedRequest, event: Event, *, had_slot: bool) -> None:
        """Let go of a request and of what it holds."""
        state, last = request.state, request.state.assignment
        if had_slot:
            if not isinstance(event, Said):
                self._recent.append((self._clock(), _key(state), last))
            elif last.is_apart:
                self._tasks.spawn(self._clear(_key(state)))
            self._give_back_slot(last)
        else:
            self.waiting.leave(last.attempt.job)
        del self._by_job[last.attempt.job]
        if not self._by_job:
            self._idle.set()

    def _wait_again(self, request: RelayedRequest, event: Event) -> None:
        """Let a request wait whose attempt is over: for the deployment that turned it back, or for others."""
        state, deployment = request.state, request.state.assignment.attempt.deployment
        if isinstance(event, Said) and isinstance(event.message, TurnedBack):
            self._reserves.turned_back(deployment)
        else:
            self._moved(state.assignment, state, event)
        entry = state.entry
        where = self._reserves.without_room(entry, entry.model, state.tried)
        full = where.full if isinstance(where, reserve.NoRoom) else ()
        self.waiting.come_back(state, full)  # nobody's slots, if it is held now: the next tick refuses it

    def _moved(self, before: Assignment, state: RequestState, event: Event) -> None:
        where = "the line" if state.waits else state.assignment.attempt.deployment
        self._log_moves([(before.attempt.deployment, where, _why_moved(event))])

    def _log_moves(self, moved: Sequence[tuple[str, str, str]] = ()) -> None:
        """Log which requests another deployment takes: from, to, and why."""
        for (former, later, why), count in self._moves.due(moved):
            log.warning("requests moved from=%s to=%s why=%s count=%d", former, later, why, count)

    def _take_slot(self, request: RelayedRequest) -> None:
        assignment = request.state.assignment
        self._by_token[assignment.token] = request
        self._reserves.take(assignment.token, assignment.attempt)

    def _give_back_slot(self, assignment: Assignment) -> None:
        del self._by_token[assignment.token]
        self._reserves.give_back(assignment.token, assignment.attempt)

    async def _act(self, request: RelayedRequest, actions: Sequence[Action]) -> None:
        """Carry out all actions in the order of the decisions, even if an event comes while one is carried out."""
        request.actions.extend(actions)
        if request.is_acting:
            return
        request.is_acting = True
        try:
            while request.actions:
                await self._do(request, request.actions.popleft())
        finally:
            request.is_acting = False
        if request.state.is_over and not request.has_end and request.delivery is not None:
            request.delivery.cancel()  # the caller has left

    async def _do(self, request: RelayedRequest, action: Action) -> None:
        match action:
            case Tell(message):
                if not request.enqueue(message):
                    await self._handle(request, CallerBehind())
            case Publish(assignment):
                sealed = packed(sealed_request(self._reserves.with_limit(assignment.attempt), self._seal_key()))
                try:
                    if assignment.worker is not None:
                        ward = subjects.ward(assignment.worker)
                        # only if nobody listens is there an answer
                        await self._nc.publish(ward, sealed, f"{self._acks}.{assignment.token}")
                        return
                    await self._nc.publish(
                        subjects.now(assignment.attempt.deployment),
                        sealed,
                        f"{self._acks}.{assignment.token}",
                        headers={MSG_ID: f"{assignment.attempt.job}.{assignment.token}"},
                    )
                except NatsError as error:
                    await self._handle(request, Unstored(assignment.token, _text(error)))
            case Abort(assignment):
                attempt = assignment.attempt
                await announce_abort(self._nc, attempt.deployment, str(attempt.reply_to))
            case Rule(attempt, outcome):
                self._tasks.spawn(self._rulings.publish([EndRequest(attempt, outcome)]))
            case _:
                assert_never(action)

    async def _finish(self) -> None:
        """Wait for the requests under way, then end those that are left."""
        try:
            async with asyncio.timeout(self._finish_s):
                while self._by_job:
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            for request in list(self._by_job.values()):
                await self._handle(request, Stopping())
        await self._tasks.finish(_FLUSH_S)


def _key(state: RequestState) -> str:
    return request_key(state.tenant, state.body_hash)


def worker_message(message: Message) -> WorkerMessage:
    """Read what a worker sent. A kind that this broker does not know, from a newer worker, counts as a keepalive."""
    headers = message.headers or {}
    sequence = None if header_number(headers, SEQ) is None else headers[SEQ]
    match headers.get(KIND):
        case "chunk":
            return Streamed(message.data, sequence)
        case "final":
            return Answered(message.data, sequence)
        case "full":
            return TurnedBack()
        case "error":
            return Erred(_problem_in(message.data), sequence, _failure_in(headers.get(FAILURE)))
        case _:
            return KeptAlive()


def _problem_in(data: bytes) -> Problem:
    try:
        return _problem.decode(data).error
    except UNREADABLE:
        return Problem("engine_fault", "the worker failed, and its error cannot be read")


def _failure_in(text: str | None) -> Failure | None:
    """Read the failure of an attempt that another deployment may take. None: no other would do better."""
    try:
        return None if text is None else _failure.decode(text)
    except UNREADABLE:
        return EngineLost("the worker failed in a way that this broker does not know")


def stored_event(message: Message, token: str) -> Stored | Unstored:
    """Read NATS's answer to the publishing of an attempt."""
    if (message.headers or {}).get("Status") == "503":
        return Unstored(token, "no stream", passes=True)
    try:
        acknowledged(message)
    except NotStored as error:
        return Unstored(token, str(error), passes=error.kind is Kind.BUSY)
    return Stored(token)


def _text(error: NatsError) -> str:
    return str(error) or type(error).__name__


def _why_moved(event: Event) -> str:
    """Say in a word why a request goes to another deployment."""
    match event:
        case Said(_, Erred(problem)):
            return problem.code
        case WorkerDied():
            return "worker_died"
        case _:
            return "silent"
