"""The lease by which one broker at a time dispatches, by the database's clock."""

from broker.core.records import ONLY_SHARD, Shard
from broker.ledger.connection import Database
from broker.ledger.sql import query


class PgLeadership:
    """Implements `broker.ports.LeaderLedger`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def lead(self, holder: str, *, lease_ms: int, shard: Shard = ONLY_SHARD) -> int | None:
        async with self._database.connection() as connection:
            term: int | None = await connection.fetchval(query("lead"), holder, lease_ms, shard)
        return term

    async def step_down(self, holder: str, term: int, *, shard: Shard = ONLY_SHARD) -> None:
        async with self._database.connection() as connection:
            await connection.execute(query("step_down"), holder, term, shard)
