"""Keeps the ledger in order, by time and not by messages.

It makes the partitions of the days to come, and drops what is kept no longer, in small pages that hold nobody up.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from broker.config import Keep
from broker.ports import Clock, DayLedger, RetentionLedger
from broker.retrying import until_available
from schemas.units import Ms

log = logging.getLogger(__name__)
EVERY_S = 3600.0
"""Days are made two days ahead, so it may fail often before it matters."""
PAGE = 1000
"""How many records are dropped in one transaction: some milliseconds."""
_DAY_MS = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Upkeep:
    """All brokers do this; each leaves alone what another is dropping."""

    days: DayLedger
    retention: RetentionLedger
    keep: Keep
    clock: Clock
    every_s: float = EVERY_S
    page: int = PAGE

    async def serve(self) -> None:
        """Look after the ledger until cancelled."""
        while True:
            await until_available(self.days.keep)
            await self.drop()
            await asyncio.sleep(self.every_s)

    async def drop(self) -> None:
        """Drop all that is kept no longer."""
        now, retention, limit = self.clock(), self.retention, self.page
        letters, audit, keys = (
            Ms(now - days * _DAY_MS) for days in (self.keep.dead_letters, self.keep.audit, self.keep.idempotency)
        )
        await self._drop("dead_letters", lambda: retention.drop_messages(letters, limit=limit))
        await self._drop("dead_jobs", lambda: retention.drop_dead_jobs(letters, now=now, limit=limit))
        await self._drop("failures", lambda: retention.drop_failures(limit=limit))
        await self._drop("audit", lambda: retention.drop_audit(audit, limit=limit))
        await self._drop("idempotency", lambda: retention.drop_keys(keys, limit=limit))
        ended = Ms(now - self.keep.instructions * _DAY_MS)
        await self._drop("instructions", lambda: retention.drop_instructions(ended, limit=limit))
        made = Ms(now - self.keep.deliveries * _DAY_MS)
        await self._drop("deliveries", lambda: retention.drop_deliveries(made, limit=limit))
        await self._drop("replays", lambda: retention.drop_links(limit=limit))

    async def _drop(self, what: str, page: Callable[[], Awaitable[int]]) -> None:
        """Drop page after page, until one is not full."""
        dropped = 0
        while True:
            count = await until_available(page)
            dropped += count
            if count < self.page:
                break
        if dropped:
            log.info("dropped %s=%d", what, dropped)
