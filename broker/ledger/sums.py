"""Compares the ledger with itself: Σ executions = Σ jobs = Σ batches = spend, and each job stands in one place."""

import asyncio
from typing import LiteralString
from uuid import UUID

from broker.core.records import SumCheck
from broker.ledger.connection import Connection, Database
from broker.ledger.sql import query
from schemas.ids import ms_of
from schemas.units import Ms

_PIECE_MS = 3600 * 1000
"""The jobs of one hour are compared at a time. 360,000 jobs took 2.5 s with all else, on two busy cores."""
_GREATEST = (1 << 128) - 1
_PLANS = "set local enable_seqscan = on; set local enable_hashjoin = on; set local enable_mergejoin = on"
"""Unlike all other queries, these read whole ranges."""


class PgSums:
    """Implements `broker.ports.SumsLedger`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def check(self, *, within_s: float) -> SumCheck:
        async with self._database.connection() as connection, connection.transaction(isolation="repeatable_read"):
            return await compare(connection, within_s=within_s)


async def compare(connection: Connection, *, within_s: float) -> SumCheck:
    """Compare the newest jobs first, for as long as `within_s`. The transaction around it should have one snapshot."""
    found: list[str] = []
    reached = UUID(int=_GREATEST)
    try:
        async with asyncio.timeout(within_s):
            await connection.execute(_PLANS)
            while newest := await connection.fetchval(query("newest_job_before"), reached):
                low = UUID(int=ms_of(newest) // _PIECE_MS * _PIECE_MS << 80)
                found += await _disagreements(connection, "sums_of_jobs", low, reached)
                reached = low
            found += await _disagreements(connection, "sums_of_jobs", UUID(int=0), reached)
            reached = UUID(int=0)
            found += await _disagreements(connection, "sums_of_all")
    except TimeoutError:
        return SumCheck(tuple(found), checked_from_ms=ms_of(reached), is_whole=False)
    return SumCheck(tuple(found), checked_from_ms=Ms(0), is_whole=True)


async def _disagreements(connection: Connection, name: LiteralString, *bounds: UUID) -> list[str]:
    return [row["disagreement"] for row in await connection.fetch(query(name), *bounds)]
