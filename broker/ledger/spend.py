"""Adds up what deployments cost, by day, to be compared with a provider's bill."""

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import UTC, date, datetime
from uuid import UUID

from broker.core.records import Spend, SpendReading
from broker.ledger.connection import Connection, Database
from broker.ledger.rows import Row
from broker.ledger.sql import query
from schemas.units import Ms, NanoUsd


def day_of(now: Ms) -> date:
    return datetime.fromtimestamp(now / 1000, UTC).date()


async def add_spend(connection: Connection, costs: Sequence[tuple[str, NanoUsd]], *, now: Ms) -> None:
    """Add what the executions of a group cost, by deployment. Nothing is written for what costs nothing.

    A negative cost takes back an execution that was recorded before.
    """
    cost: Counter[str] = Counter()
    count: Counter[str] = Counter()
    for deployment, nano_usd in costs:
        if nano_usd:
            cost[deployment] += nano_usd
            count[deployment] += 1 if nano_usd > 0 else -1
    if cost:
        names = sorted(cost)
        counts, sums = [count[name] for name in names], [cost[name] for name in names]
        await connection.execute(query("add_spend"), day_of(now), names, counts, sums)


class PgSpend:
    """Implements `broker.ports.SpendLedger`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, now: Ms, attempts: Collection[tuple[UUID, int]] = ()) -> SpendReading:
        """Look for the attempts first: what is recorded by then is in the sums that are read after."""
        async with self._database.connection() as connection:
            jobs = [job for job, _ in attempts]
            found = await connection.fetch(query("recorded"), jobs, min(jobs), max(jobs)) if jobs else []
            rows = await connection.fetch(query("spend"), day_of(now))
        return SpendReading(
            today={
                row["deployment"]: _spend(row, "cost_today", "executions_today")
                for row in rows
                if row["executions_today"]
            },
            week={row["deployment"]: _spend(row, "cost_nano_usd", "executions") for row in rows},
            recorded=frozenset((row["job"], row["attempt"]) for row in found),
        )


def _spend(row: Row, cost: str, executions: str) -> Spend:
    return Spend(NanoUsd(row[cost]), row[executions])
