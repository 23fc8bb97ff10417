"""Outcomes on their way to OUTCOME: durable first, then whatever waits for that."""

import asyncio
import contextlib
import itertools
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from nats.aio.client import Client
from nats.errors import Error

from schemas import subjects
from schemas.codec import bundled, bundles, packed
from schemas.jetstream import ACK, NotStored, Outgoing, answer_all, heed_cancellation, publish_one
from schemas.job import Attempt
from schemas.outcome import Failed, Outcome, Report, ResponseTooLarge, Succeeded
from workers.metrics import Metrics
from workers.ports import LARGEST_BODY

log = logging.getLogger(__name__)
_BESIDE = 64 * 1024
"""Bytes of a report that are neither request nor response, and headers."""
_LONGEST_RETRY_S = 5.0
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Waits:
    """How long outcomes wait: for others to travel with, and until they are published again.

    Each message on its own costs NATS, broker and Postgres several milliseconds of CPU between them, which an engine on
    the same machine would use.
    """

    share: float = 1 / 4
    """Of the time that a dispatched attempt took to run, its outcome waits for others."""
    longest_s: float = 1.0
    """But at most so long."""
    grace_s: float = 0.01
    """Once a slot has been free for so long, outcomes wait no more: somebody may wait for them, and with many of them the
    slot may be free because the broker does not know yet that it is. A few results of the bulk lane wait on.
    """
    enough: int = 16
    """So many outcomes wait for no more of them."""
    retry_s: float = 0.2
    """An outcome that could not be stored is published again after this; then after twice as long, and so on."""


WAITS = Waits()


@dataclass(slots=True)
class Pending:
    payload: bytes
    due_s: float
    """When it is to be sent, by the loop's clock."""
    grace_s: float
    """When it is to be sent if a slot is free then."""
    can_wait: bool
    """Beside free slots too, with a few others."""
    stored: Callable[[], Awaitable[str | None]]
    """Called once the stream has it; says which message may go then, by its ack subject."""


class Reporter:
    """Publishes what is ready together as one message, and again until it is stored. `free` are the slots that wait for
    an attempt, `running` the dispatched attempts that have not ended yet; with `few` outcomes unheard, the broker still
    dispatches.
    """

    def __init__(
        self,
        nc: Client,
        deployment: str,
        metrics: Metrics,
        *,
        free: Callable[[], int],
        running: Callable[[], int],
        few: Callable[[], int],
        waits: Waits,
    ) -> None:
        self._nc = nc
        self._subject = subjects.outcome(deployment)
        self._metrics = metrics
        self._free = free
        self._running = running
        self._few = few
        self._waits = waits
        self._pending: list[Pending] = []
        self._ready = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def __repr__(self) -> str:
        return f"Reporter(pending={len(self._pending)})"

    def add(self, report: Report, stored: Callable[[], Awaitable[str | None]], *, can_wait: bool) -> None:
        now = asyncio.get_running_loop().time()
        due, grace = now + wait_s(report, self._waits), now + self._waits.grace_s
        self._pending.append(Pending(packed(report), due, grace, can_wait, stored))
        self._idle.clear()
        self._ready.set()

    async def flushed(self) -> None:
        """Wait until everything is stored."""
        await self._idle.wait()

    async def serve(self) -> None:
        """For ever."""
        while True:
            heed_cancellation()
            await self._ready.wait()
            self._ready.clear()
            while self._pending:
                await self._gather()
                bundle = self._take()
                await self._store([one.payload for one in bundle])
                await self._let_go([await _told(one) for one in bundle])
                heed_cancellation()
            self._idle.set()

    async def _gather(self) -> None:
        """Until what is pending is due; that of callers comes first."""
        while (left := self._left_s()) > 0:
            self._ready.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._ready.wait()
        self._pending.sort(key=lambda one: one.due_s)

    def _left_s(self) -> float:
        if not self._running() or len(self._pending) >= self._waits.enough:
            return 0.0
        due = min(one.due_s for one in self._pending)
        if self._free() > 0:
            is_few = len(self._pending) <= self._few()
            graces = [one.grace_s for one in self._pending if not (is_few and one.can_wait)]
            due = min(due, max(graces, default=due))
        return due - asyncio.get_running_loop().time()

    def _take(self) -> Sequence[Pending]:
        count = len(next(bundles(one.payload for one in self._pending)))
        bundle, self._pending = self._pending[:count], self._pending[count:]
        return bundle

    async def _let_go(self, acks: Sequence[str | None]) -> None:
        try:
            await answer_all(self._nc, [ack for ack in acks if ack is not None], ACK)
        except Error as error:
            log.warning("not let go error=%s", str(error) or type(error).__name__)

    async def _store(self, payloads: Sequence[bytes]) -> None:
        name = f"{os.getpid():x}-{os.urandom(6).hex()}-{next(_numbers):x}"
        message = Outgoing(self._subject, bundled(payloads))
        wait = self._waits.retry_s
        began = asyncio.get_running_loop().time()
        while True:
            try:
                await publish_one(self._nc, message, message_id=name)
            except (Error, NotStored) as error:
                log.warning("outcomes wait count=%d error=%s", len(payloads), str(error) or type(error).__name__)
                heed_cancellation()
                await asyncio.sleep(wait)
                wait = min(_LONGEST_RETRY_S, wait * 2)
            else:
                self._metrics.stored.observe(asyncio.get_running_loop().time() - began)
                return


def wait_s(report: Report, waits: Waits) -> float:
    """How long an outcome may wait for others. The caller of an interactive one waits for it already."""
    return 0.0 if report.live is not None else min(waits.longest_s, waits.share * report.timings.run_ms / 1000)


async def _told(one: Pending) -> str | None:
    try:
        return await one.stored()
    except Error as error:
        log.warning("not told error=%s", str(error) or type(error).__name__)
        return None


def within_limit(outcome: Outcome, limit_bytes: int) -> Outcome:
    """A response that no message can carry is a failure; what it cost stays."""
    if isinstance(outcome, Succeeded) and len(outcome.body) > limit_bytes:
        return Failed(ResponseTooLarge(len(outcome.body), limit_bytes), outcome.usage, outcome.charge)
    return outcome


def largest_body(max_payload: int, attempt: Attempt) -> int:
    """Bytes of a response that fit into one message beside everything else that its report carries."""
    return max(0, min(LARGEST_BODY, max_payload - len(attempt.body) - _BESIDE))
