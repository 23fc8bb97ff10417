"""What must hold of every ledger at every moment, whatever was done to it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from broker.ledger import migrate
from broker.ledger.connection import SETTINGS, Connection
from broker.ledger.sums import compare
from broker.local.servers import postgres_server

_WITHIN_S = 60.0


async def disagreements(connection: Connection) -> list[str]:
    """Where not: Σ executions = Σ jobs = Σ batches = spend, and each job stands in one place."""
    check = await compare(connection, within_s=_WITHIN_S)
    assert check.is_whole
    return list(check.disagreements)


async def check_sums(url: str) -> None:
    connection = await asyncpg.connect(url, server_settings=SETTINGS)
    try:
        async with connection.transaction(isolation="repeatable_read"):
            found = await disagreements(connection)
    finally:
        await connection.close()
    assert not found, "\n".join(found)


@asynccontextmanager
async def a_ledger_server(folder: Path) -> AsyncIterator[str]:
    """A Postgres of the test's own with a ledger, which must agree with itself when it is stopped."""
    async with postgres_server(folder, durable=False) as url:
        await migrate(url)
        yield url
        await check_sums(url)
