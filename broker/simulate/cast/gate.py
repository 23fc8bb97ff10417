"""What lies between a process and the ledger: time, and a database that is away or fails before or after its commit."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from broker.errors import NoConnection, Unavailable
from broker.simulate.world.world import Process

_QUICK_S, _SLOW_S = 0.0005, 0.02
_SLOW = 0.05
"""How many transactions take longer."""
_HANGS, _HANGING_S = 0.3, 17.0
"""How many calls of a store of files that is away are not refused at once, but after so long."""


@dataclass(slots=True)
class Database:
    """How the database is now, for all processes alike."""

    is_away: bool = False
    failing: float = 0.0
    """How likely a transaction fails, half of the times after its commit."""
    slow: float = 1.0
    """How many times as long it takes."""
    transactions: int = 0
    traps: dict[str, "Trap"] = field(default_factory=dict)
    """What is to happen to processes, by name, at a transaction of theirs."""


@dataclass(frozen=True, slots=True)
class Trap:
    area: str
    is_after: bool
    """Whether it has committed, and the process does not know it yet."""
    spring: Callable[[], object]
    """Stops the process, or kills it."""


class DatabaseGate:
    """Implements `broker.simulate.ledger.transactions.Gate` for one process."""

    def __init__(self, database: Database, process: Process) -> None:
        self._database = database
        self._process = process
        self._chance = process.random

    @property
    def troubles(self) -> float:
        return _troubles(self._process)

    async def before(self, name: str) -> None:
        await self._wait()
        self._look(name)
        await self._spring(name, is_after=False)
        self._database.transactions += 1

    async def after(self, name: str) -> None:
        await self._spring(name, is_after=True)
        await self._wait()
        self._look(name)

    async def _spring(self, name: str, *, is_after: bool) -> None:
        """Fall into a trap that was set for this process here."""
        trap = self._database.traps.get(self._process.name)
        if trap is not None and trap.is_after == is_after and trap.area == name:
            del self._database.traps[self._process.name]
            trap.spring()
            await asyncio.sleep(0)

    def _look(self, name: str) -> None:
        if self._database.is_away:
            self._process.troubles += 1
            raise NoConnection("Postgres", "it is away")
        if self._database.failing and self._chance.random() < self._database.failing / 2:
            self._process.troubles += 1
            raise Unavailable("Postgres", f"{name} failed")

    async def _wait(self) -> None:
        longest = _SLOW_S if self._chance.random() < _SLOW else _QUICK_S
        await asyncio.sleep(self._chance.random() * longest * self._database.slow)


@dataclass(slots=True)
class FileStore:
    """How the store beside Postgres is now, for all processes alike."""

    is_away: bool = False
    failing: float = 0.0
    """How likely a call fails, half of the times after it was carried out."""


class FileGate:
    """Implements `broker.simulate.ledger.transactions.Gate` for one process, before the store of files."""

    def __init__(self, store: FileStore, process: Process) -> None:
        self._store = store
        self._process = process
        self._chance = process.random

    @property
    def troubles(self) -> float:
        return _troubles(self._process)

    async def before(self, name: str) -> None:  # noqa: ARG002 - there is one
        await asyncio.sleep(self._chance.random() * _SLOW_S)
        if self._store.is_away and self._chance.random() < _HANGS:
            await asyncio.sleep(_HANGING_S)
        self._look()

    async def after(self, name: str) -> None:  # noqa: ARG002
        await asyncio.sleep(self._chance.random() * _SLOW_S)
        self._look()

    def _look(self) -> None:
        if self._store.is_away or self._chance.random() < self._store.failing / 2:
            self._process.troubles += 1
            raise Unavailable("the store of files", "it is away")


def _troubles(process: Process) -> float:
    return float("inf") if process.is_dead or process.is_over else process.troubles
