"""What must hold of every ledger at every moment, whatever was done to it."""

from pathlib import Path

import asyncpg

from broker.ledger.connection import Connection

_SUMS = (Path(__file__).parent / "sums.sql").read_text()


async def disagreements(connection: Connection) -> list[str]:
    """Where not: Σ executions = Σ jobs = Σ batches = spend, and each job stands in one place."""
    return [row["disagreement"] for row in await connection.fetch(_SUMS)]


async def check_sums(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        found = await disagreements(connection)
    finally:
        await connection.close()
    assert not found, "\n".join(found)
