"""Ends what waits of cancelled batches, a page at a time, and has what runs of them stopped.

Nothing of such a batch starts since it was cancelled (`core.controls`), so there is no hurry: pages are small, and rests
between them leave Postgres to others. What is to be done follows from the batches' rows alone, so whoever leads next goes
on with it. At last, batches are completed without the jobs that NATS had accepted and lost.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from broker.bus.notices import announce_cancels
from broker.bus.results import announce_results
from broker.core.controls import Controls
from broker.core.records import Settled
from broker.errors import Unavailable
from broker.metrics import BrokerMetrics
from broker.ports import CancelLedger, Clock
from broker.retrying import level_of
from schemas import subjects
from schemas.jetstream import NatsConnection, NatsError, oldest_ms
from schemas.units import Ms

log = logging.getLogger(__name__)
LOOK_S = 0.5
PAGE = 1000
"""The jobs that one transaction ends. It takes about 0.1 s, and locks what nobody else wants, but for their batch."""
SLACK_MS = Ms(600_000)
"""By how much the clocks of NATS and brokers may differ, where lost jobs are told from those on their way. A guess."""
REST_BUSY, REST_IDLE = 19.0, 0.25
"""How long to rest after a page, in times of what it took. While others are busy, pages have a twentieth of one core."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchCancels:
    """Does so during one term of the leader."""

    nc: NatsConnection
    ledger: CancelLedger
    controls: Callable[[], Controls]
    metrics: BrokerMetrics
    clock: Clock
    is_busy: Callable[[], bool]
    """Whether jobs are being started."""
    look_s: float = LOOK_S
    page: int = PAGE
    slack_ms: Ms = SLACK_MS

    async def serve(self) -> None:
        """Look for work until cancelled. What Postgres does not do now is done later."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                ended = await self.look()
            except Unavailable as error:
                log.log(level_of(error), "batches are not ended yet error=%s", error)
                ended = 0
            await asyncio.sleep(self.rest_s(loop.time() - began) if ended else self.look_s)

    def rest_s(self, took_s: float) -> float:
        """Return how long to rest after pages that took so long."""
        return took_s * (REST_BUSY if self.is_busy() else REST_IDLE)

    async def look(self) -> int:
        """Have what runs of each cancelled batch stopped, and end a page of it. Return how many jobs ended.

        Once there are none, complete those that only lack jobs that never come.
        """
        cancelling = self.controls().cancelling
        ended = sum([await self._end(batch) for batch in cancelling])
        if cancelling and not ended:
            await self._complete_without_lost()
        return ended

    async def _complete_without_lost(self) -> None:
        """What was accepted before a batch was cancelled is lost once all that is on its way came later."""
        now = self.clock()
        try:
            oldest = await oldest_ms(self.nc, subjects.SUBMIT)
        except NatsError as error:
            log.debug("not known what is on its way error=%s", error)
            return
        before = Ms(min(now, now if oldest is None else oldest) - self.slack_ms)
        for batch in await self.ledger.complete_without_lost(now, cancelled_before=before):
            log.warning("cancelled batch complete without jobs that never came batch=%s", batch)

    async def _end(self, batch: UUID) -> int:
        await announce_cancels(self.nc, await self.ledger.mark_batch(batch, self.clock()))
        ended = await self.ledger.end_page(batch, self.clock(), limit=self.page)
        self.metrics.settled(Settled(ended, ()))
        await announce_results(self.nc, ended)
        return len(ended)
