"""Keeps a row of each job that ended otherwise than succeeded: lists, retries and dead letters find them by an index.

Each is written in the transaction that ends its job. A job that succeeds has none, and pays nothing for it.
"""

from collections.abc import Sequence
from uuid import UUID

from broker.ledger.connection import Connection
from broker.ledger.sql import query


async def record_failures(connection: Connection, jobs: Sequence[UUID]) -> None:
    """Record these jobs, which have just ended and did not succeed, as their rows say."""
    if jobs:
        await connection.execute(query("record_failures"), sorted(jobs), min(jobs), max(jobs))
