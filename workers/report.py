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
from schemas.codec import bundled, bundles, packed
from schemas.jetstream import ACK, NotStored, Outgoing, answer_all, heed_cancellation, publish_one
from schemas.job import Attempt
from schemas.outcome import Failed, Outcome, Report, ResponseTooLarge, Succeeded
from workers.metrics import Metrics
from workers.ports import LARGEST_BODY

log = logging.getLogger(__name__)
_BESIDE = 64 * 1024
"""Bytes of a report that are neither request nor response, and headers."""
_RETRY_S = 0.2
_LONGEST_RETRY_S = 5.0
_numbers = itertools.count(1)


@dataclass(slots=True)
class Pending:
    payload: bytes
    stored: Callable[[], Awaitable[str | None]]
    """Called once the stream has it; says which message may go then, by its ack subject."""


class Reporter:
    """Publishes what is ready together as one message, and again until it is stored."""

    def __init__(self, nc: Client, deployment: str, metrics: Metrics) -> None:
        self._nc = nc
        self._subject = subjects.outcome(deployment)
        self._metrics = metrics
        self._pending: list[Pending] = []
        self._ready = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def __repr__(self) -> str:
        return f"Reporter(pending={len(self._pending)})"

    def add(self, report: Report, stored: Callable[[], Awaitable[str | None]]) -> None:
        self._pending.append(Pending(packed(report), stored))
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
                bundle = self._take()
                await self._store([one.payload for one in bundle])
                await self._let_go([await _told(one) for one in bundle])
                heed_cancellation()
            self._idle.set()

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
        wait = _RETRY_S
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
