"""Keeps the ledger in order, by time and not by messages: makes the partitions of the days to come."""

import asyncio
from dataclasses import dataclass

from broker.ports import DayLedger
from broker.retrying import until_available

EVERY_S = 3600.0
"""Days are made two days ahead, so it may fail often before it matters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upkeep:
    ledger: DayLedger
    every_s: float = EVERY_S

    async def serve(self) -> None:
        """Look after the ledger until cancelled."""
        while True:
            await until_available(self.ledger.keep)
            await asyncio.sleep(self.every_s)
