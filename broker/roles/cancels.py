"""Carries cancels of running jobs through: tells their workers each second, and rules where none of them reports.

The marks in the ledger are the orders, so whoever leads next goes on where this leader stopped. Jobs that were cancelled
before they were in the ledger are cancelled here too, once they are.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from broker.bus.notices import announce_cancels
from broker.bus.results import announce_results
from broker.bus.runs import Rulings
from broker.core.records import Marked, Settled
from broker.errors import Unavailable
from broker.metrics import BrokerMetrics
from broker.ports import CancelLedger, Clock
from broker.retrying import level_of
from schemas.jetstream import NatsConnection, NatsError
from schemas.ruling import Cancel
from schemas.units import Ms

log = logging.getLogger(__name__)
LOOK_S = 1.0
GIVE_UP_MS = Ms(5_000)
"""How long a worker may take to report that it has ended an attempt. A report that comes later is recorded as waste."""
_RULE_AGAIN_S = 30.0
"""How long a ruling may take to be settled before it is made again. A guess."""
EARLY_MS = Ms(24 * 3600 * 1000)
"""How long a job that was cancelled before it was in the ledger is waited for."""


@dataclass(slots=True, kw_only=True)
class Cancels:
    """Does so for the leader."""

    nc: NatsConnection
    ledger: CancelLedger
    rulings: Rulings
    metrics: BrokerMetrics
    clock: Clock
    look_s: float = LOOK_S
    give_up_ms: Ms = GIVE_UP_MS
    _ruled: dict[tuple[UUID, int], float] = field(default_factory=dict)
    """When each attempt was ruled on, by the loop's clock."""

    async def serve(self) -> None:
        """Look once a second until cancelled. What cannot be done while NATS or Postgres is away is done afterwards."""
        while True:
            try:
                await self.look()
            except (Unavailable, NatsError) as error:
                log.log(level_of(error), "cancels wait error=%s", str(error) or type(error).__name__)
            await asyncio.sleep(self.look_s)

    async def look(self) -> None:
        """Tell workers what to end, rule on what they do not report, and cancel what has come since it was cancelled."""
        marked = await self.ledger.marked()
        await announce_cancels(self.nc, marked)
        await self._give_up(marked)
        await self._cancel_early()

    async def _give_up(self, marked: Sequence[Marked]) -> None:
        """End the jobs whose workers have had their time."""
        now, now_s = self.clock(), asyncio.get_running_loop().time()
        self._ruled = {key: at for key, at in self._ruled.items() if now_s - at < _RULE_AGAIN_S}
        silent = [
            (one.job, one.attempt)
            for one in marked
            if now - one.cancel_ms >= self.give_up_ms and (one.job, one.attempt) not in self._ruled
        ]
        if silent:
            log.warning("cancelled without a report attempts=%d", len(silent))
            await self.rulings.publish([Cancel(job, attempt) for job, attempt in silent])
            self._ruled |= dict.fromkeys(silent, now_s)

    async def _cancel_early(self) -> None:
        come = await self.ledger.early_cancels()
        by_tenant: dict[str, list[UUID]] = defaultdict(list)
        for one in come:
            by_tenant[one.tenant].append(one.job)
        for tenant, jobs in by_tenant.items():
            cancels = await self.ledger.cancel_jobs(jobs, tenant, self.clock())
            self.metrics.settled(Settled(cancels.ended, ()))
            await announce_results(self.nc, cancels.ended)
            await announce_cancels(self.nc, cancels.marked)
        if come:
            await self.ledger.forget_early(come, made_before=Ms(self.clock() - EARLY_MS))
