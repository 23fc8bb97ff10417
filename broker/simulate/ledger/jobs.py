"""Reads all that is recorded of a job, and lists jobs."""

from uuid import UUID

from msgspec.structs import asdict

from broker.ledger.rows import AHEAD_MOST, execution_of, show_of
from broker.simulate.ledger.selection import select_jobs
from broker.simulate.ledger.spend import executions_of
from broker.simulate.ledger.stored import JobRow
from broker.simulate.ledger.tables import Tables
from broker.simulate.ledger.transactions import Area, transaction
from schemas.api import JobShow
from schemas.listing import JobFilter, JobPage


class MemoryJobs(Area):
    """Implements `broker.ports.JobLedger`."""

    @transaction
    def find(self, job: UUID, tenant: str) -> JobShow | None:
        tables = self._tables
        row = find_job(tables, job, tenant)
        if row is None and (again := tables.repeated.get(job)) is not None and again.tenant == tenant:
            row = find_job(tables, again.job, tenant)
        return None if row is None else _show(tables, row)

    @transaction
    def of_key(self, tenant: str, idempotency_key: str) -> tuple[UUID, str, bytes] | None:
        used = self._tables.idempotency.get((tenant, idempotency_key))
        row = None if used is None else self._tables.jobs.get(used.job)
        return None if row is None else (row.id, row.model, row.body_hash)

    @transaction
    def page(self, tenant: str, wanted: JobFilter, *, limit: int, before: UUID | None) -> JobPage:
        return select_jobs(self._tables, tenant, wanted, limit=limit, after=before)


def find_job(tables: Tables, job: UUID, tenant: str) -> JobRow | None:
    row = tables.jobs.get(job)
    return row if row is not None and row.tenant == tenant else None


def _show(tables: Tables, row: JobRow) -> JobShow:
    job = row.id
    running, delayed, waits = tables.running.get(job), tables.delayed.get(job), tables.place_of(job)
    result, replay = tables.results.get(job), tables.replays.get(job)
    columns = {
        **asdict(row),
        "running_attempt": None if running is None else running.attempt,
        "dispatched_ms": None if running is None else running.dispatched_ms,
        "cancel_ms": None if running is None else running.cancel_ms,
        "waiting_attempt": None if waits is None else waits.attempt,
        "not_before_ms": None if delayed is None else delayed.not_before_ms,
        "tried": None if waits is None else waits.tried,
        "suspicion": None if delayed is None else delayed.suspicion,
        "body": None if result is None else result.body,
        "replay_of": None if replay is None else replay.source,
    }
    executions = tuple(execution_of(one) for one in executions_of(tables, job))
    return show_of(columns, executions, ahead=None if waits is None else _ahead(tables, row))


def _ahead(tables: Tables, row: JobRow) -> int:
    """Count the jobs of its flow that come before a waiting one, up to one more than AHEAD_MOST."""
    place = (-row.priority, row.deadline_ms, row.id.int)
    return min(AHEAD_MOST + 1, tables.waiting_by_flow.count_before((row.model, row.lane, row.tenant), place))
