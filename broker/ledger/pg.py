"""The one face of the ledger."""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Self
from uuid import UUID

from broker.core.records import (
    ONLY_SHARD,
    Flow,
    OpenJob,
    Pick,
    Place,
    Running,
    Settled,
    Shard,
    Verdict,
    WaitingJob,
)
from broker.ledger import dispatch, settle
from broker.ledger.batches import PgBatches
from broker.ledger.catalogs import PgCatalogs
from broker.ledger.connection import Database
from broker.ledger.days import Days
from broker.ledger.dead_letters import PgDeadLetters
from broker.ledger.intake import PgIntake
from broker.ledger.jobs import PgJobs
from broker.ledger.leadership import PgLeadership
from broker.ledger.spend import PgSpend
from broker.ledger.status import PgStatus
from broker.ports import (
    BatchLedger,
    CatalogLedger,
    DeadLetterLedger,
    IntakeLedger,
    JobLedger,
    LeaderLedger,
    SpendLedger,
    StatusLedger,
)
from schemas.job import Attempt
from schemas.units import Ms


class PgLedger:
    """Each method is one transaction, and raises Unavailable, Conflict or BadData as broker.errors says."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._days = Days()
        self.intake: IntakeLedger = PgIntake(database, self._days)
        self.dead_letters: DeadLetterLedger = PgDeadLetters(database)
        self.leadership: LeaderLedger = PgLeadership(database)
        self.spend: SpendLedger = PgSpend(database)
        self.batches: BatchLedger = PgBatches(database)
        self.jobs: JobLedger = PgJobs(database)
        self.catalogs: CatalogLedger = PgCatalogs(database)
        self.status: StatusLedger = PgStatus(database)

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, *, connections: int = 8) -> AsyncIterator[Self]:
        """Raises: Unavailable."""
        async with Database.open(url, connections=connections) as database:
            yield cls(database)

    async def flows(self) -> list[Flow]:
        """Those with waiting jobs; its cost depends on the number of flows, not of jobs."""
        async with self._database.connection() as connection:
            return await dispatch.flows(connection)

    async def heads(self, flow: Flow, *, after: Place | None, limit: int) -> list[WaitingJob]:
        """A page of the flow in its order, keys only."""
        async with self._database.connection() as connection:
            return await dispatch.heads(connection, flow, after=after, limit=limit)

    async def move_due(self, now: Ms, *, limit: int) -> list[tuple[Flow, Place]]:
        """Move up to `limit` jobs whose time has come into the backlog, and say where they stand there."""
        async with self._database.connection() as connection:
            return await dispatch.move_due(connection, now=now, limit=limit)

    async def next_due(self) -> Ms | None:
        """The earliest instant at which a delayed job is to be moved into the backlog."""
        async with self._database.connection() as connection:
            return await dispatch.next_due(connection)

    async def dispatch(
        self, picks: Sequence[Pick], *, term: int, now: Ms, shard: Shard = ONLY_SHARD
    ) -> list[Attempt]:
        """Queued → running for those that still wait, in order, with their bodies. Raises: Deposed."""
        async with self._database.connection() as connection:
            return await dispatch.dispatch(connection, picks, shard=shard, term=term, now=now)

    async def running(self) -> list[Running]:
        """Every attempt that is dispatched and not settled."""
        async with self._database.connection() as connection:
            return await dispatch.running(connection)

    async def attempts_of(self, running: Sequence[Running]) -> list[Attempt]:
        """Those that still run this very attempt, to be published again."""
        async with self._database.connection() as connection:
            return await dispatch.attempts_of(connection, running)

    async def open_jobs(self, ids: Collection[UUID]) -> dict[UUID, OpenJob]:
        async with self._database.connection() as connection:
            return await settle.open_jobs(connection, ids)

    async def settle(self, verdicts: Sequence[Verdict], *, now: Ms) -> Settled:
        """Record a group; repeating it changes nothing and answers the same ends."""
        async with self._database.connection() as connection:
            return await settle.settle(connection, self._days, verdicts, now=now)
