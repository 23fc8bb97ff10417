"""Runs attempts that a broker sends to this worker alone, apart from all others: one of them may end its worker.

    a group arrives ──► take nothing else ──► let what runs finish ──► run the group ──► take others again, for a rest

They come over core NATS, in no stream and under no lease. The beats name those that wait here, too; what they do not name
a broker sends again. A beat of its own tells what begins just before it does.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Iterator
from dataclasses import dataclass
from uuid import UUID

import msgspec

from schemas.codec import UNREADABLE, unpacker
from schemas.jetstream import Message, NatsConnection, NatsError, Subscription
from schemas.job import Attempt
from schemas.units import Ms
from schemas.worker import BEGINNING, NOT_BEGUN, HeldExecution
from workers.pool import SlotPool

log = logging.getLogger(__name__)
REST_S = 1.0
"""How long others are taken after a group before the next group, so that they do not starve."""
_attempt = unpacker(Attempt)


@dataclass(frozen=True, slots=True)
class Waiting:
    attempt: Attempt
    since_s: float
    """When it arrived, by the loop's clock."""

    def after_waiting(self, now_s: float) -> Attempt:
        """Return the attempt with the time that is left to it now."""
        left = Ms(max(0, self.attempt.left_ms - int(1000 * (now_s - self.since_s))))
        return msgspec.structs.replace(self.attempt, left_ms=left)


class Ward:
    """The groups that wait to run here, and the one that runs.

    `start` runs an attempt in the engine, or only reports it as released. `offered` starts a request without a group, which
    does not run apart: it comes for a slot that the worker offered. `pulls_follow` adapts the pulls to what the pool says is
    free. `announce` sends a beat: brokers must know what begins even if the worker lives no longer.
    """

    def __init__(
        self,
        nc: NatsConnection,
        pool: SlotPool,
        *,
        subject: str,
        start: Callable[[Attempt], None],
        offered: Callable[[Attempt], None],
        pulls_follow: Callable[[], Awaitable[None]],
        announce: Callable[[], Awaitable[None]],
        rest_s: float = REST_S,
    ) -> None:
        self._nc = nc
        self._pool = pool
        self._subject = subject
        self._start = start
        self._offered = offered
        self._pulls_follow = pulls_follow
        self._announce = announce
        self._rest_s = rest_s
        self._waiting: dict[tuple[UUID, int, str | None], Waiting] = {}
        self._beginning: list[Attempt] = []
        self._has_work = asyncio.Event()
        self._subscription: Subscription | None = None

    def __repr__(self) -> str:
        return f"Ward(waiting={len(self._waiting)})"

    def held(self) -> Iterator[HeldExecution]:
        """Name what waits here, and what begins at once, for the beat."""
        for one in self._waiting.values():
            yield HeldExecution(one.attempt.job, one.attempt.number, NOT_BEGUN)
        for attempt in self._beginning:
            yield HeldExecution(attempt.job, attempt.number, BEGINNING)

    async def open(self) -> None:
        self._subscription = await self._nc.subscribe(self._subject, cb=self._take)

    async def close(self) -> None:
        """Take no more groups, and put back those that wait."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            with contextlib.suppress(NatsError):
                await subscription.drain()
        for one in self._taken(list(self._waiting)):
            self._start(one)

    async def serve(self) -> None:
        """Run one group after the other, until cancelled."""
        while True:
            await self._has_work.wait()
            await self._run_group()
            await asyncio.sleep(self._rest_s)

    def forget(self, reply_to: str) -> None:
        """Drop the interactive attempt that waits or begins under this subject of its reply: its relay has ended it."""
        for key, one in list(self._waiting.items()):
            if one.attempt.reply_to == reply_to:
                del self._waiting[key]
        self._beginning = [one for one in self._beginning if one.reply_to != reply_to]

    def release(self, attempts: Collection[tuple[UUID, int]]) -> None:
        """Start those of the leased attempts that wait here, at once: they are cancelled, so they are only reported."""
        for key in [(job, attempt, None) for job, attempt in attempts if (job, attempt, None) in self._waiting]:
            self._start(self._waiting.pop(key).attempt)

    async def _take(self, message: Message) -> None:
        try:
            attempt = _attempt.decode(message.data)
        except UNREADABLE as error:
            log.warning("undecodable attempt apart bytes=%d error=%s", len(message.data), error)
            return
        if attempt.group is None and attempt.reply_to is not None:
            self._offered(attempt)
            return
        if attempt.group is None:
            log.warning("ignored: an attempt apart without a group job=%s", attempt.job)
            return
        key = (attempt.job, attempt.number, attempt.reply_to)
        self._waiting.setdefault(key, Waiting(attempt, asyncio.get_running_loop().time()))
        self._has_work.set()

    async def _run_group(self) -> None:
        """Run the group that came first, or as much of it as there are slots for, once nothing else is held."""
        self._pool.is_apart = True
        try:
            await self._pulls_follow()
            await self._pool.emptied()
            first = next((one.attempt.group for one in self._waiting.values()), None)
            keys = [key for key, one in self._waiting.items() if one.attempt.group == first]
            self._beginning = self._taken(keys[: max(1, self._pool.leased.free)])
            if self._beginning:
                log.info("runs apart group=%s attempts=%d", first, len(self._beginning))
                await self._announce()
            beginning, self._beginning = self._beginning, []
            for attempt in beginning:
                self._start(attempt)
            await self._pool.emptied()
        finally:
            self._pool.is_apart = False
            if not self._waiting:
                self._has_work.clear()
            await self._pulls_follow()

    def _taken(self, keys: list[tuple[UUID, int, str | None]]) -> list[Attempt]:
        now = asyncio.get_running_loop().time()
        return [self._waiting.pop(key).after_waiting(now) for key in keys]
