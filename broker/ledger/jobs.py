"""Reads all that is recorded of a job, and lists jobs."""

from uuid import UUID

from broker.ledger.connection import Connection, Database
from broker.ledger.rows import AHEAD_MOST, Row, execution_of, show_of
from broker.ledger.selection import select_jobs
from broker.ledger.sql import query
from schemas.api import JobShow
from schemas.listing import JobFilter, JobPage


class PgJobs:
    """Implements `broker.ports.JobLedger`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, job: UUID, tenant: str) -> JobShow | None:
        async with self._database.connection() as connection:
            row = await connection.fetchrow(query("job"), job, tenant)
            if row is None and (first := await connection.fetchval(query("first_of"), job, tenant)) is not None:
                row = await connection.fetchrow(query("job"), first, tenant)
            if row is None:
                return None
            executions = await connection.fetch(query("executions_of"), row["id"])
            ahead = await _ahead(connection, row) if row["waiting_attempt"] is not None else None
        return show_of(row, tuple(execution_of(execution) for execution in executions), ahead=ahead)

    async def of_key(self, tenant: str, idempotency_key: str) -> tuple[UUID, str, bytes] | None:
        async with self._database.connection() as connection:
            row = await connection.fetchrow(query("job_of_key"), tenant, idempotency_key)
        return None if row is None else (row["id"], row["model"], row["body_hash"])

    async def page(self, tenant: str, wanted: JobFilter, *, limit: int, before: UUID | None) -> JobPage:
        async with self._database.connection() as connection:
            return await select_jobs(connection, tenant, wanted, limit=limit, after=before)


async def _ahead(connection: Connection, row: Row) -> int:
    """Count the jobs of its flow that come before a waiting one, up to one more than AHEAD_MOST."""
    flow = [row[name] for name in ("model", "lane", "tenant")]
    place = (-row["priority"], row["deadline_ms"], row["id"])
    ahead: int = await connection.fetchval(query("ahead"), *flow, *place, AHEAD_MOST + 1)
    return ahead
