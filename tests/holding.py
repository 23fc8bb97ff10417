"""A third hand in the database, which holds a row so that others wait for it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from broker.ledger.connection import Connection
from tests.system import until


class Hand:
    """Whoever comes to what it holds waits, until it lets go."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._holding = connection.transaction()

    async def hold(self, statement: str, *values: object) -> None:
        await self._holding.start()
        await self._connection.execute(statement, *values)

    async def let_go(self) -> None:
        await self._holding.rollback()

    async def keep(self) -> None:
        """Let go, and leave what it did."""
        await self._holding.commit()

    async def do(self, statement: str, *values: object) -> None:
        """Do something that nobody waits for."""
        await self._connection.execute(statement, *values)

    async def waiting(self) -> list[int]:
        """The connections to this database that wait for a lock."""
        await self._connection.execute("select pg_stat_clear_snapshot()")
        rows = await self._connection.fetch(
            "select pid from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        )
        return [row["pid"] for row in rows]

    async def until_waiting(self, count: int) -> None:
        async def enough() -> bool:
            return len(await self.waiting()) >= count

        await until(enough, f"{count} wait for a lock", within_s=10)

    async def cut_off(self) -> None:
        """End the connections that wait."""
        for pid in await self.waiting():
            await self._connection.execute("select pg_terminate_backend($1)", pid)


@asynccontextmanager
async def a_hand(url: str) -> AsyncIterator[Hand]:
    connection = await asyncpg.connect(url)
    try:
        yield Hand(connection)
    finally:
        await connection.close()
