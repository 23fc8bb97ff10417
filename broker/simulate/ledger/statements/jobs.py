"""What is recorded of jobs, pages of them, and rows that are copied in; and the days that are kept."""

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from broker.errors import DayNotKept
from broker.ledger.days import day_of, name_of
from broker.simulate.ledger import stored
from broker.simulate.ledger.checks import check_values
from broker.simulate.ledger.statements.named import Rows, statement
from broker.simulate.ledger.statements.reading import columns_of, failure_kind, has_all, ids_within, is_any
from broker.simulate.ledger.stored import FailureRow, JobRow
from broker.simulate.ledger.tables import Tables

_COPIED: dict[str, type[Any]] = {
    "jobs": stored.JobRow,
    "bodies": stored.BodyRow,
    "executions": stored.ExecutionRow,
    "waiting": stored.WaitingRow,
    "results": stored.ResultRow,
}
"""The tables that rows are copied into."""


def copy(t: Tables, table: str, records: Iterable[Sequence[object]], columns: Sequence[str]) -> None:
    """Insert rows. Raises: Conflict, BadData; DayNotKept, if the ledger does not keep the day of a job."""
    for record in records:
        row = copied(table, columns, record)
        if table != "waiting":
            check_day(t, row.id if table == "jobs" else row.job)
        getattr(t, table).insert(row)


def copied(table: str, columns: Sequence[str], record: Sequence[object]) -> Any:
    """Make a row of its values. Raises: BadData."""
    check_values(record)
    return _COPIED[table](**dict(zip(columns, record, strict=True)))


def check_day(t: Tables, job: UUID) -> None:
    """Raises: DayNotKept, if the ledger does not keep the day of a job."""
    if day_of(job) not in t.days.now:
        raise DayNotKept(f"no partition is found for the row of {job}")


@statement
def states_of(t: Tables, jobs: Sequence[UUID], tenant: str, low: UUID, high: UUID) -> Rows:
    del low, high
    return [row for job in jobs if (row := t.jobs.get(job)) is not None and row.tenant == tenant]


@statement
def record_failures(t: Tables, jobs: Sequence[UUID], low: UUID, high: UUID) -> Rows:
    del low, high
    return [
        row for job in jobs if (ended := t.jobs.get(job)) is not None and t.failures.add(row := _failure_of(ended))
    ]


def _failure_of(job: JobRow) -> FailureRow:
    assert job.settled_ms is not None  # noqa: S101 - it has ended
    return FailureRow(
        job=job.id,
        tenant=job.tenant,
        model=job.model,
        batch=job.batch,
        state=job.state,
        kind=failure_kind(job.state, job.failure),
        ended_ms=job.settled_ms,
    )


@statement
def job(t: Tables, job: UUID, tenant: str) -> Rows:
    found = t.jobs.get(job)
    if found is None or found.tenant != tenant:
        return []
    running, waiting, delayed = t.running.get(job), t.waiting.get(job), t.delayed.get(job)
    result, repeats = t.results.get(job), t.replays.get(job)
    waits = waiting or delayed
    return [
        columns_of(found)
        | {
            "running_attempt": running and running.attempt,
            "dispatched_ms": running and running.dispatched_ms,
            "cancel_ms": running and running.cancel_ms,
            "waiting_attempt": waits and waits.attempt,
            "not_before_ms": delayed and delayed.not_before_ms,
            "tried": waits and waits.tried,
            "suspicion": delayed and delayed.suspicion,
            "body": result and result.body,
            "replay_of": repeats and repeats.source,
        }
    ]


@statement
def nth_job(t: Tables, low: UUID, high: UUID, newest_first: bool, offset: int) -> Rows:
    found = ids_within(t.jobs_by_id, low, high, newest_first=newest_first)
    return [{"id": job} for job in found[offset : offset + 1]]


@statement
def running_page(t: Tables, low: UUID, high: UUID, newest_first: bool, limit: int) -> Rows:
    return [{"job": job} for job in ids_within(t.running_by_job, low, high, newest_first=newest_first)[:limit]]


@statement
def jobs_of_batch(t: Tables, batch: UUID) -> Rows:
    return [{"job": job} for job in t.jobs_by_batch.keys(batch)]


@statement
def failures_page(
    t: Tables,
    low: UUID,
    high: UUID,
    newest_first: bool,
    limit: int,
    tenant: str | None,
    batch: UUID | None,
    states: Sequence[str] | None,
    kinds: Sequence[str],
    model: str | None,
) -> Rows:
    ids = ids_within(t.failures_by_id, low, high, newest_first=newest_first)
    rows = [row for row in map(t.failures.__getitem__, ids) if batch is None or row.batch == batch]
    if batch is None and tenant is not None:
        rows = [row for row in rows if row.tenant == tenant]
    return [
        {
            "job": row.job,
            "fits": (states is None or row.state in states)
            and is_any(row.kind, kinds)
            and (model is None or row.model == model)
            and (tenant is None or row.tenant == tenant),
        }
        for row in rows[:limit]
    ]


@statement
def matching_jobs(
    t: Tables,
    low: UUID,
    high: UUID,
    newest_first: bool,
    limit: int,
    among: Sequence[UUID] | None,
    tenant: str | None,
    states: Sequence[str],
    kinds: Sequence[str],
    model: str | None,
    lane: str | None,
    batch: UUID | None,
    custom_id: str | None,
    metadata: str | None,
) -> Rows:
    if among is None:
        ids = ids_within(t.jobs_by_id, low, high, newest_first=newest_first)
    else:
        ids = sorted({job for job in among if low.int <= job.int < high.int}, reverse=newest_first)
    found = []
    for row in [row for job in ids if (row := t.jobs.get(job)) is not None]:
        state = shown_state(t, row)
        if (
            (tenant is None or row.tenant == tenant)
            and is_any(state, states)
            and (not kinds or (state in _FAILED and failure_kind(row.state, row.failure) in kinds))
            and (model is None or row.model == model)
            and (lane is None or row.lane == lane)
            and (batch is None or row.batch == batch)
            and (custom_id is None or row.custom_id == custom_id)
            and has_all(row.metadata, metadata)
        ):
            found.append(columns_of(row) | {"state": state})
            if len(found) == limit:
                break
    return found


_FAILED = frozenset({"failed", "expired", "cancelled", "dead"})


def shown_state(t: Tables, row: JobRow) -> str:
    """Return the state of a job, an open one's by where it stands."""
    if row.state != "open":
        return row.state
    return "running" if row.id in t.running else "queued"


@statement
def settled_jobs(t: Tables, jobs: Sequence[UUID], low: UUID, high: UUID, tenant: str, states: Sequence[str]) -> Rows:
    del low, high
    found = [row for job in sorted(jobs) if (row := t.jobs.get(job)) is not None]
    return [row for row in found if row.tenant == tenant and row.state in states]


@statement
def days(t: Tables) -> Rows:
    return [{"day": name_of(day)} for day in sorted(t.days.now)]


@statement
def add_day(t: Tables, name: str, low: UUID, high: UUID) -> Rows:
    del name, high
    t.days.set(t.days.now | {day_of(low)})
    return []
