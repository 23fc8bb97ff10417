"""The relay: the role in the middle of an interactive request.

door ── ask ──► relay ── attempt ──► NOW ──► worker ── pieces, end ──► infermq.reply.… ──► relay ──► caller

It does not know who calls. What follows each event is decided in `core.relay`; this role turns messages and time into
events and does what is decided, in order.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import assert_never
from uuid import UUID

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error

from broker.bus.runs import publish_rulings
from broker.core import reserve
from broker.core.records import Entry
from broker.core.relay import (
    Abort,
    Action,
    Answered,
    CallerBehind,
    CallerLeft,
    CallerWord,
    Erred,
    Event,
    Handed,
    KeptAlive,
    Publish,
    Request,
    Rule,
    Said,
    Started,
    Stopping,
    Stored,
    Streamed,
    Tell,
    Ticked,
    Unstored,
    WorkerWord,
)
from broker.ports import Caller, Clock
from broker.roles.reserves import Reserves
from broker.roles.tasks import Tasks
from schemas import subjects
from schemas.api import ErrorBody, Problem
from schemas.codec import FAILURE, KIND, MSG_ID, SEQ, UNREADABLE, packed
from schemas.jetstream import NotStored, acknowledged
from schemas.outcome import EngineLost, Failure
from schemas.ruling import EndRequest
from schemas.units import Ms

log = logging.getLogger(__name__)
TICK_S = 0.25
LAST_S = 10.0
"""How long running requests may finish when the broker stops."""
_FLUSH_S = 1.0
"""How long what the relay still has to say may take after that."""
BUFFER_BYTES = 1024 * 1024
"""Pieces that may wait for one caller: a caller that is so far behind has stopped reading."""
_failure = msgspec.json.Decoder(Failure)
_problem = msgspec.json.Decoder(ErrorBody)


class Asked:
    """A request while it is answered: its decisions, and what is still to be done for it."""

    def __init__(self, request: Request, caller: Caller, *, buffer_bytes: int) -> None:
        self.request = request
        self.caller = caller
        self.actions: deque[Action] = deque()
        """In their order."""
        self.is_acting = False
        self.has_end = False
        """The caller has been told the end, or will be."""
        self.telling: asyncio.Task[None] | None = None
        self._buffer_bytes = buffer_bytes
        self._words: asyncio.Queue[CallerWord] = asyncio.Queue()
        self._waiting_bytes = 0

    def keep(self, word: CallerWord) -> bool:
        """Keep a word for the caller until it takes it. False: it is too far behind for another piece."""
        if isinstance(word, Streamed):
            if self._waiting_bytes + len(word.data) > self._buffer_bytes:
                return False
            self._waiting_bytes += len(word.data)
        self._words.put_nowait(word)
        if isinstance(word, Answered | Erred):
            self.has_end = True
        return True

    def leave(self) -> None:
        """Tell the caller nothing more."""
        if self.telling is not None:
            self.telling.cancel()

    async def tell(self) -> None:
        """Tell the caller what is kept for it, up to the end of the request."""
        while True:
            match word := await self._words.get():
                case Started():
                    await self.caller.start()
                case Streamed():
                    await self.caller.piece(word)
                    self._waiting_bytes -= len(word.data)
                case KeptAlive():
                    await self.caller.alive()
                case Answered() | Erred():
                    await self.caller.end(word)
                    return


class Relay:
    def __init__(
        self,
        nc: Client,
        *,
        name: str,
        reserves: Reserves,
        clock: Clock,
        tick_s: float = TICK_S,
        last_s: float = LAST_S,
        buffer_bytes: int = BUFFER_BYTES,
    ) -> None:
        """`name`: the broker's, unique among those that run."""
        self._nc = nc
        self._name = name
        self._reserves = reserves
        self._clock = clock
        self._tick_s = tick_s
        self._last_s = last_s
        self._buffer_bytes = buffer_bytes
        self._acks = nc.new_inbox()
        """Where NATS says whether it stored an attempt."""
        self._by_job: dict[UUID, Asked] = {}
        self._by_token: dict[str, Asked] = {}
        """By the token of the present attempt. What an earlier one still says is not heard."""
        self._tasks = Tasks()
        self._idle = asyncio.Event()

    def __repr__(self) -> str:
        return f"Relay(requests={len(self._by_job)}, {self._reserves})"

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Hear workers. In the end, when no door lets requests in any more, what runs may finish."""
        replies = await self._nc.subscribe(subjects.replies_to(self._name), cb=self._replied)
        acks = await self._nc.subscribe(f"{self._acks}.*", cb=self._acknowledged)
        try:
            yield
        finally:
            if not self._nc.is_closed:
                await self._finish()
                await replies.unsubscribe()
                await acks.unsubscribe()

    async def watch(self) -> None:
        """End what takes too long. For ever."""
        while True:
            await asyncio.sleep(self._tick_s)
            self._tasks.look()
            self._reserves.tick()
            now = self._clock()
            for asked in list(self._by_job.values()):
                await self._on(asked, Ticked(), now)

    async def ask(self, entry: Entry, caller: Caller) -> None:
        """Answer a request that is admitted. Returns when it is under way; `caller` hears the rest."""
        if entry.id in self._by_job:
            await caller.end(Erred(reserve.in_use(entry.id)))
            return
        placed = self._reserves.place(entry.model, ())
        if not isinstance(placed, reserve.Placed):
            await caller.end(Erred(reserve.problem_of(placed, entry.model)))
            return
        request = Request(entry, placed, relay=self._name, place=self._reserves.place, now=self._clock())
        asked = self._by_job[entry.id] = Asked(request, caller, buffer_bytes=self._buffer_bytes)
        asked.telling = self._tasks.spawn(asked.tell())
        self._took(asked)
        await self._act(asked, request.begin())

    async def left(self, job: UUID) -> None:
        """The caller of this request is gone."""
        if (asked := self._by_job.get(job)) is not None:
            log.info("caller left job=%s", job)
            await self._on(asked, CallerLeft())

    async def _replied(self, message: Msg) -> None:
        try:
            token = subjects.parse_reply(message.subject).token
        except ValueError as error:
            log.warning("reply ignored error=%s", error)
            return
        if (asked := self._by_token.get(token)) is not None:
            await self._on(asked, Said(token, word_of(message)))

    async def _acknowledged(self, message: Msg) -> None:
        token = message.subject.rpartition(".")[2]
        if (asked := self._by_token.get(token)) is not None:
            await self._on(asked, stored_or_not(message, token))

    async def _on(self, asked: Asked, event: Event, now: Ms | None = None) -> None:
        """Decide what follows and do it."""
        request, before = asked.request, asked.request.handed
        if before.token not in self._by_token:
            return  # it is over
        actions = request.on(event, self._clock() if now is None else now)
        if request.is_over:
            self._gave_back(before)
            del self._by_job[before.attempt.job]
            if not self._by_job:
                self._idle.set()
        elif request.handed is not before:
            log.info("another deployment: %r", request)
            self._gave_back(before)
            self._took(asked)
        await self._act(asked, actions)

    def _took(self, asked: Asked) -> None:
        handed = asked.request.handed
        self._by_token[handed.token] = asked
        self._reserves.take(handed.attempt.deployment)

    def _gave_back(self, handed: Handed) -> None:
        del self._by_token[handed.token]
        self._reserves.give_back(handed.attempt.deployment)

    async def _act(self, asked: Asked, actions: Sequence[Action]) -> None:
        """Do everything in the order in which it was decided, also where an event comes while something is done."""
        asked.actions.extend(actions)
        if asked.is_acting:
            return
        asked.is_acting = True
        try:
            while asked.actions:
                await self._do(asked, asked.actions.popleft())
        finally:
            asked.is_acting = False
        if asked.request.is_over and not asked.has_end:
            asked.leave()

    async def _do(self, asked: Asked, action: Action) -> None:
        match action:
            case Tell(word):
                if not asked.keep(word):
                    await self._on(asked, CallerBehind())
            case Publish(handed):
                named = {MSG_ID: f"{handed.attempt.job}.{handed.token}"}
                try:
                    await self._nc.publish(
                        subjects.now(handed.attempt.deployment),
                        packed(handed.attempt),
                        f"{self._acks}.{handed.token}",
                        headers=named,
                    )
                except Error as error:
                    await self._on(asked, Unstored(handed.token, _said(error)))
            case Abort(handed):
                with _logged("not aborted", handed.attempt.job):
                    await self._nc.publish(subjects.CTL_ABORT, str(handed.attempt.reply_to).encode())
            case Rule(attempt, outcome):
                self._tasks.spawn(publish_rulings(self._nc, [EndRequest(attempt, outcome)]))
            case _:
                assert_never(action)

    async def _finish(self) -> None:
        """Let what runs finish; end what does not."""
        try:
            async with asyncio.timeout(self._last_s):
                while self._by_job:
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            for asked in list(self._by_job.values()):
                await self._on(asked, Stopping())
        await self._tasks.finish(_FLUSH_S)


def word_of(message: Msg) -> WorkerWord:
    """What a worker says. Of a newer worker's words, those that are unknown are signs of life."""
    headers = message.headers or {}
    sequence = headers.get(SEQ)
    match headers.get(KIND):
        case "chunk":
            return Streamed(message.data, sequence)
        case "final":
            return Answered(message.data, sequence)
        case "error":
            return Erred(_problem_in(message.data), sequence, _failure_in(headers.get(FAILURE)))
        case _:
            return KeptAlive()


def _problem_in(data: bytes) -> Problem:
    try:
        return _problem.decode(data).error
    except UNREADABLE:
        return Problem("engine_fault", "the worker failed, and what it says of that cannot be read")


def _failure_in(text: str | None) -> Failure | None:
    """None: no other deployment would do better."""
    try:
        return None if text is None else _failure.decode(text)
    except UNREADABLE:
        return EngineLost("the worker failed in a way that this broker does not know")


def stored_or_not(message: Msg, token: str) -> Stored | Unstored:
    """What NATS answers to the publishing of an attempt."""
    if (message.headers or {}).get("Status") == "503":
        return Unstored(token, "no stream")
    try:
        acknowledged(message)
    except NotStored as error:
        return Unstored(token, str(error))
    return Stored(token)


@contextmanager
def _logged(what: str, job: UUID) -> Iterator[None]:
    try:
        yield
    except Error as error:
        log.warning("%s job=%s error=%s", what, job, _said(error))


def _said(error: Error) -> str:
    return str(error) or type(error).__name__
