"""Measures for the metrics what costs a query: the backlog, and why deployments start nothing."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from broker.core.pools import Pool
from broker.metrics import BrokerMetrics
from broker.ports import Clock, StatusLedger
from broker.retrying import until_available


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauges:
    """Sets the gauges that no event updates."""

    ledger: StatusLedger
    pools: Callable[[], Mapping[str, Pool]]
    metrics: BrokerMetrics
    clock: Clock
    every_s: float

    async def serve(self) -> None:
        """Measure until cancelled."""
        while True:
            self.metrics.backlog(await until_available(lambda: self.ledger.backlog(self.clock())))
            self.metrics.holds(self.pools())
            await asyncio.sleep(self.every_s)
