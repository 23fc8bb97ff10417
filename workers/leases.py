"""The leases of a worker: the messages of RUN that it has not acked yet."""

import asyncio
import logging
import math
from collections import OrderedDict
from collections.abc import Sequence

from schemas.jetstream import ACK, EXTEND, TERM, NatsConnection, NatsError, answer_all
from schemas.units import Ms
from workers.core.leases import extend_every_ms
from workers.metrics import WorkerMetrics
from workers.pool import HeldAttempt, Key, Slots

log = logging.getLogger(__name__)
_REMEMBERED = 100_000
"""Released attempts."""


class Leases:
    """Extends the lease of every attempt that is held, and acks the message of every outcome that is stored.

    Nothing here is confirmed: an answer that is lost means a redelivery, which the worker recognises.
    """

    def __init__(self, nc: NatsConnection, slots: Slots, *, lease_ms: Ms, metrics: WorkerMetrics) -> None:
        self._nc = nc
        self._slots = slots
        self._extend_every_s = extend_every_ms(lease_ms) / 1000
        self._extended_at = -math.inf
        self._metrics = metrics
        self.released: OrderedDict[Key, None] = OrderedDict()
        """Attempts whose message was acked, the last of them at least: a redelivery is not run again."""
        self._to_ack: list[str] = []
        self._to_end: list[str] = []
        self._is_due = asyncio.Event()

    def __repr__(self) -> str:
        return f"Leases({self._slots}, to_ack={len(self._to_ack)})"

    def release(self, held: HeldAttempt) -> None:
        """Ack the attempt's message soon, together with others of this moment: its outcome is stored."""
        self.released[held.key] = None
        if len(self.released) > _REMEMBERED:
            self.released.popitem(last=False)
        if not self._to_ack:
            self._is_due.set()
        self._to_ack.append(held.ack_subject)

    def skip(self, ack_subject: str) -> None:
        """Ack the redelivery of an attempt that was released before."""
        self._metrics.skipped.inc()
        self._to_ack.append(ack_subject)
        self._is_due.set()

    def terminate(self, ack_subject: str) -> None:
        """Have a message that nobody can read delivered no more; the server tells the broker of it."""
        self._to_end.append(ack_subject)
        self._is_due.set()

    async def serve(self) -> None:
        """Send the answers that are due, until cancelled."""
        while True:
            await self._is_due.wait()
            self._is_due.clear()
            await self.flush()

    async def flush(self) -> None:
        """Send the answers that are due now."""
        acks, self._to_ack = self._to_ack, []
        ends, self._to_end = self._to_end, []
        await self._answer(acks, ACK)
        await self._answer(ends, TERM)

    async def extend(self) -> None:
        """Extend every lease, if that is due."""
        now = asyncio.get_running_loop().time()
        if now - self._extended_at >= self._extend_every_s:
            self._extended_at = now
            leases = [held.ack_subject for held in self._slots.attempts.values()]
            await self._answer(leases, EXTEND)
            self._metrics.extended.inc(len(leases))

    async def _answer(self, ack_subjects: Sequence[str], word: bytes) -> None:
        try:
            await answer_all(self._nc, ack_subjects, word)
        except NatsError as error:
            log.warning("not answered word=%s error=%s", word.decode(), str(error) or type(error).__name__)
