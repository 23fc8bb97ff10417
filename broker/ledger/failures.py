"""Keeps a row of each job that ended otherwise than succeeded: lists, retries and dead letters find them by an index.

Each is written in the transaction that ends its job. A job that succeeds has none, and pays nothing for it.
"""

from collections.abc import Sequence
from uuid import UUID

from broker.ledger.connection import Connection
from broker.ledger.sql import query
from schemas.units import Ms


async def record_failures(connection: Connection, jobs: Sequence[UUID]) -> None:
    """Record these jobs, which have just ended and did not succeed, as their rows say."""
    if jobs:
        await connection.execute(query("record_failures"), sorted(jobs), min(jobs), max(jobs))


async def take_dead_jobs(connection: Connection, jobs: Sequence[UUID], tenant: str, now: Ms) -> set[UUID]:
    """Take those of a tenant's jobs out of the dead letters that are there, since they run again. Return them."""
    rows = await connection.fetch(query("claim_dead_jobs"), list(jobs), now, tenant) if jobs else []
    return {row["job"] for row in rows}
