"""What must hold of every ledger at every moment, whatever was done to it."""

from pathlib import Path

import asyncpg

_SUMS = (Path(__file__).parent / "sums.sql").read_text()


async def check_sums(url: str) -> None:
    """Σ executions = Σ jobs = Σ batches = spend, and each job stands in one place."""
    connection = await asyncpg.connect(url)
    try:
        disagreements = [row["disagreement"] for row in await connection.fetch(_SUMS)]
    finally:
        await connection.close()
    assert disagreements == []
