"""Knows what each deployment has cost today, which daily caps are held against."""

import asyncio
from collections.abc import Mapping

from broker.core.records import Spend
from broker.ports import Clock, SpendLedger
from broker.retrying import until_available

_EVERY_S = 1.0


class DailySpend:
    """What each deployment has cost since 00:00 UTC, about a second old."""

    def __init__(self, ledger: SpendLedger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock
        self.by_deployment: Mapping[str, Spend] = {}

    async def serve(self) -> None:
        """Refresh once a second until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(_EVERY_S)

    async def refresh(self) -> None:
        self.by_deployment = await until_available(lambda: self._ledger.today(self._clock()))
