"""Daily caps: what each deployment has cost today, about a second old."""

import asyncio
from collections.abc import Mapping

from broker.core.records import Spend
from broker.ledger import PgLedger
from broker.ports import Clock
from broker.retrying import patiently

_EVERY_S = 1.0


class Caps:
    def __init__(self, ledger: PgLedger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self.spent: Mapping[str, Spend] = {}

    async def serve(self) -> None:
        """For ever."""
        while True:
            await self.look()
            await asyncio.sleep(_EVERY_S)

    async def look(self) -> None:
        self.spent = await patiently(lambda: self._ledger.spend(self._clock()))
