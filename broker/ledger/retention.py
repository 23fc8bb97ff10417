"""Drops records whose time is over, in small pages. What somebody else holds is left for the next time."""

from broker.ledger.connection import Database
from broker.ledger.days import first_id
from broker.ledger.sql import query
from schemas.ids import least_id
from schemas.units import Ms


class PgRetention:
    """Implements `broker.ports.RetentionLedger`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def drop_messages(self, before: Ms, *, limit: int) -> int:
        async with self._database.connection() as connection:
            return len(await connection.fetch(query("drop_old_messages"), before, limit))

    async def drop_dead_jobs(self, before: Ms, *, now: Ms, limit: int) -> int:
        async with self._database.connection() as connection:
            return len(await connection.fetch(query("drop_old_dead_jobs"), before, now, limit))

    async def drop_failures(self, *, limit: int) -> int:
        async with self._database.connection() as connection:
            return len(await connection.fetch(query("drop_orphaned_failures"), limit))

    async def drop_audit(self, before: Ms, *, limit: int) -> int:
        async with self._database.connection() as connection:
            return len(await connection.fetch(query("drop_old_audit"), least_id(before), limit))

    async def drop_keys(self, before: Ms, *, limit: int) -> int:
        async with self._database.connection() as connection:
            return len(await connection.fetch(query("drop_old_keys"), least_id(before), limit))

    async def drop_instructions(self, before: Ms, *, limit: int) -> int:
        async with self._database.connection() as connection:
            bodies = await connection.fetch(query("drop_late_bodies"), limit)
            return max(len(bodies), len(await connection.fetch(query("drop_old_instructions"), before, limit)))

    async def drop_deliveries(self, before: Ms, *, limit: int) -> int:
        async with self._database.connection() as connection:
            return len(await connection.fetch(query("drop_old_deliveries"), before, limit))

    async def drop_links(self, *, limit: int) -> int:
        async with self._database.connection() as connection:
            first = await first_id(connection)
            return len(await connection.fetch(query("drop_orphaned_replays"), first, limit))
