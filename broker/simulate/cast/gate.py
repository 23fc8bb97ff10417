"""What lies between a process and the ledger: time, and a database that is away or fails before or after its commit."""

import asyncio
import random
from dataclasses import dataclass

from broker.errors import NoConnection, Unavailable

_QUICK_S, _SLOW_S = 0.0005, 0.02
_SLOW = 0.05
"""How many transactions take longer."""


@dataclass(slots=True)
class Database:
    """How the database is now, for all processes alike."""

    is_away: bool = False
    failing: float = 0.0
    """How likely a transaction fails, half of the times after its commit."""
    slow: float = 1.0
    """How many times as long it takes."""
    transactions: int = 0


class DatabaseGate:
    """Implements `broker.simulate.ledger.transactions.Gate` for one process."""

    def __init__(self, database: Database, chance: random.Random) -> None:
        self._database = database
        self._chance = chance

    async def before(self, name: str) -> None:
        await self._wait()
        self._look(name)
        self._database.transactions += 1

    async def after(self, name: str) -> None:
        await self._wait()
        self._look(name)

    def _look(self, name: str) -> None:
        if self._database.is_away:
            raise NoConnection("Postgres", "it is away")
        if self._database.failing and self._chance.random() < self._database.failing / 2:
            raise Unavailable("Postgres", f"{name} failed")

    async def _wait(self) -> None:
        longest = _SLOW_S if self._chance.random() < _SLOW else _QUICK_S
        await asyncio.sleep(self._chance.random() * longest * self._database.slow)
