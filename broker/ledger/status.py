"""Reads how things stand now: the backlog by model and lane, the leader, the database's clock."""

from broker.core.records import ONLY_SHARD, Leadership, Shard
from broker.ledger.connection import Database
from broker.ledger.sql import query
from schemas.api import LaneBacklog
from schemas.ids import ms_of
from schemas.job import Lane
from schemas.units import Ms


class PgStatus:
    """Implements `broker.ports.StatusLedger`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def backlog(self, now: Ms) -> list[LaneBacklog]:
        async with self._database.connection() as connection:
            rows = await connection.fetch(query("backlog"))
        return [
            LaneBacklog(
                model=row["model"],
                lane=Lane(row["lane"]),
                waiting=row["waiting"],
                oldest_ms=Ms(max(0, now - ms_of(row["oldest"]))),
            )
            for row in rows
        ]

    async def leader(self, *, shard: Shard = ONLY_SHARD) -> Leadership | None:
        async with self._database.connection() as connection:
            row = await connection.fetchrow(query("leader"), shard)
        return None if row is None else Leadership(row["holder"], row["term"])

    async def database_now(self) -> Ms:
        async with self._database.connection() as connection:
            return Ms(await connection.fetchval(query("database_now")))
