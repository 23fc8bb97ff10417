"""Extends the leases of a worker, which are its unacked messages of RUN, and acks them."""

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
"""How many released attempts to remember, so as not to run a redelivery again. A guess."""


class Leases:
    """Extends the lease of every held attempt, and acks the message of every attempt whose outcome is stored.

    NATS confirms none of this. If an ack is lost, the attempt is delivered again, and the worker recognises it.
    """

    def __init__(self, nc: NatsConnection, slots: Slots, *, lease_ms: Ms, metrics: WorkerMetrics) -> None:
        self._nc = nc
        self._slots = slots
        self._extend_every_s = extend_every_ms(lease_ms) / 1000
        self._extended_at = -math.inf
        self._metrics = metrics
        self.released: OrderedDict[Key, None] = OrderedDict()
        """The latest attempts whose messages were acked: a redelivery of one is not run again."""
        self._to_ack: list[str] = []
        self._to_end: list[str] = []
        self._is_due = asyncio.Event()

    def __repr__(self) -> str:
        return f"Leases({self._slots}, to_ack={len(self._to_ack)})"

    def release(self, held: HeldAttempt) -> None:
        """Ack soon, together with others, the message of an attempt whose outcome is stored. What ran apart has none."""
        self.released[held.key] = None
        if len(self.released) > _REMEMBERED:
            self.released.popitem(last=False)
        if held.ack_subject:
            if not self._to_ack:
                self._is_due.set()
            self._to_ack.append(held.ack_subject)

    def skip(self, ack_subject: str) -> None:
        """Ack the redelivery of an attempt that was released before."""
        self._metrics.skipped.inc()
        self._to_ack.append(ack_subject)
        self._is_due.set()

    def terminate(self, ack_subject: str) -> None:
        """Stop the delivery of a message that cannot be decoded. The server sends an advisory, which the broker reads."""
        self._to_end.append(ack_subject)
        self._is_due.set()

    async def serve(self) -> None:
        """Send acks as they become due, until cancelled."""
        while True:
            await self._is_due.wait()
            self._is_due.clear()
            await self.flush()

    async def flush(self) -> None:
        """Send all acks that are due now."""
        acks, self._to_ack = self._to_ack, []
        ends, self._to_end = self._to_end, []
        await self._answer(acks, ACK)
        await self._answer(ends, TERM)

    async def extend(self) -> None:
        """Extend every lease, unless that was done a short while ago."""
        now = asyncio.get_running_loop().time()
        if now - self._extended_at >= self._extend_every_s:
            self._extended_at = now
            leases = [held.ack_subject for held in self._slots.attempts.values() if held.ack_subject]
            await self._answer(leases, EXTEND)
            self._metrics.extended.inc(len(leases))

    async def _answer(self, ack_subjects: Sequence[str], word: bytes) -> None:
        try:
            await answer_all(self._nc, ack_subjects, word)
        except NatsError as error:
            log.warning("not answered word=%s error=%s", word.decode(), str(error) or type(error).__name__)
