"""Adds up what deployments cost, by day, to be compared with a provider's bill."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime

from broker.core.records import Executed, Spend
from broker.ledger.connection import Connection, Database
from broker.ledger.sql import query
from schemas.units import Ms, NanoUsd


def _day(now: Ms) -> date:
    return datetime.fromtimestamp(now / 1000, UTC).date()


async def add_spend(connection: Connection, executions: Sequence[Executed], *, now: Ms) -> None:
    """Add what a group cost, once for each deployment. Nothing is written for what costs nothing."""
    cost: Counter[str] = Counter()
    count: Counter[str] = Counter()
    for executed in executions:
        if executed.cost_nano_usd:
            cost[executed.deployment] += executed.cost_nano_usd
            count[executed.deployment] += 1
    if cost:
        names = sorted(cost)
        counts, costs = [count[name] for name in names], [cost[name] for name in names]
        await connection.execute(query("add_spend"), _day(now), names, counts, costs)


class PgSpend:
    """Implements `broker.ports.SpendLedger`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def today(self, now: Ms) -> dict[str, Spend]:
        async with self._database.connection() as connection:
            rows = await connection.fetch(query("spend"), _day(now))
        return {row["deployment"]: Spend(NanoUsd(row["cost_nano_usd"]), row["executions"]) for row in rows}
