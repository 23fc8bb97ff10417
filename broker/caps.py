"""Daily caps: what each deployment has cost today, about a second old, and whether it may go on."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping

from broker.core.caps import affordable, is_reached
from broker.core.records import Spend
from broker.ledger import PgLedger
from broker.patience import patiently
from broker.ports import Clock
from schemas.catalog import Catalog, Deployment
from schemas.jetstream import heed_cancellation
from schemas.units import NanoUsd
from schemas.worker import WorkerBeat

_EVERY_S = 1.0
_NOTHING = Spend(NanoUsd(0), 0)


class Caps:
    def __init__(self, ledger: PgLedger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self._spent: Mapping[str, Spend] = {}

    async def serve(self) -> None:
        """For ever."""
        while True:
            heed_cancellation()
            await self.look()
            await asyncio.sleep(_EVERY_S)

    async def look(self) -> None:
        self._spent = await patiently(lambda: self._ledger.spend(self._clock()))

    def is_reached(self, name: str, deployment: Deployment, *, running: int) -> bool:
        """`running` attempts have not been charged yet."""
        return is_reached(deployment.daily_cap_usd, self._spent.get(name, _NOTHING), running=running)

    def affordable(self, name: str, deployment: Deployment, *, running: int, free: int) -> int:
        """In how many of the free slots a job may start."""
        return affordable(deployment.daily_cap_usd, self._spent.get(name, _NOTHING), running=running, free=free)

    def open_among(self, beats: Iterable[WorkerBeat], catalog: Catalog) -> set[str]:
        """The deployments that can take dispatched work, as far as their workers and their caps say."""
        slots, running = Counter[str](), Counter[str]()
        for beat in beats:
            slots[beat.deployment] += 0 if beat.draining else beat.slots
            running[beat.deployment] += beat.running
        return {
            name
            for name, count in slots.items()
            if count
            and (found := catalog.deployments.get(name)) is not None
            and not self.is_reached(name, found, running=running[name])
        }
