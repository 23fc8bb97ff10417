"""Outcomes on their way to OUTCOME: durable first, then whatever waits for that."""

import asyncio
import itertools
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from nats.aio.client import Client
from nats.errors import Error

from schemas import subjects
from schemas.codec import packed
from schemas.jetstream import (
    BATCH_BYTES,
    BATCH_MESSAGES,
    NotStored,
    Outgoing,
    heed_cancellation,
    publish_atomically,
    publish_one,
)
from schemas.job import Attempt
from schemas.outcome import Failed, Outcome, Report, ResponseTooLarge, Succeeded
from workers.metrics import Metrics

log = logging.getLogger(__name__)
LARGEST_BODY = 7 * 1024 * 1024
"""Bytes of a response, however large the server's messages may be."""
_BESIDE = 64 * 1024
"""Bytes of a report that are neither request nor response, and headers."""
_RETRY_S = 0.2
_LONGEST_RETRY_S = 5.0
_numbers = itertools.count(1)


@dataclass(slots=True)
class Pending:
    report: Report
    message: Outgoing
    stored: Callable[[], Awaitable[None]]
    """Called once the stream has it."""

    @property
    def message_id(self) -> str:
        return f"{self.report.job}.{self.report.attempt}.{self.report.delivery}"


class Reporter:
    """Publishes what is ready together as one atomic batch, and again until it is stored."""

    def __init__(self, nc: Client, metrics: Metrics) -> None:
        self._nc = nc
        self._metrics = metrics
        self._pending: list[Pending] = []
        self._ready = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def __repr__(self) -> str:
        return f"Reporter(pending={len(self._pending)})"

    def add(self, report: Report, stored: Callable[[], Awaitable[None]]) -> None:
        message = Outgoing(subjects.outcome(report.deployment), packed(report))
        self._pending.append(Pending(report, message, stored))
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
                batch = self._take()
                await self._store(batch)
                for one in batch:
                    await _done(one)
                heed_cancellation()
            self._idle.set()

    def _take(self) -> Sequence[Pending]:
        size, count = 0, 0
        for one in self._pending[:BATCH_MESSAGES]:
            size += len(one.message.payload)
            if count and size > BATCH_BYTES:
                break
            count += 1
        batch, self._pending = self._pending[:count], self._pending[count:]
        return batch

    async def _store(self, batch: Sequence[Pending]) -> None:
        name = f"{os.getpid():x}-{os.urandom(6).hex()}-{next(_numbers):x}"
        wait = _RETRY_S
        began = asyncio.get_running_loop().time()
        while True:
            try:
                if len(batch) == 1:
                    await publish_one(self._nc, batch[0].message, message_id=batch[0].message_id)
                else:
                    await publish_atomically(self._nc, [one.message for one in batch], batch_id=name)
            except (Error, NotStored) as error:
                log.warning("outcomes wait count=%d error=%s", len(batch), str(error) or type(error).__name__)
                heed_cancellation()
                await asyncio.sleep(wait)
                wait = min(_LONGEST_RETRY_S, wait * 2)
            else:
                self._metrics.stored.observe(asyncio.get_running_loop().time() - began)
                return


async def _done(one: Pending) -> None:
    try:
        await one.stored()
    except Error as error:
        log.warning("not told error=%s", str(error) or type(error).__name__)


def within_limit(outcome: Outcome, limit_bytes: int) -> Outcome:
    """A response that no message can carry is a failure; what it cost stays."""
    if isinstance(outcome, Succeeded) and len(outcome.body) > limit_bytes:
        return Failed(ResponseTooLarge(len(outcome.body), limit_bytes), outcome.usage)
    return outcome


def largest_body(max_payload: int, attempt: Attempt) -> int:
    """Bytes of a response that fit into one message beside everything else that its report carries."""
    return max(0, min(LARGEST_BODY, max_payload - len(attempt.body) - _BESIDE))
