"""Ends what waits, and marks what runs."""

from collections.abc import Sequence
from uuid import UUID

from broker.simulate.ledger.statements.named import Rows, statement
from broker.simulate.ledger.statements.reading import columns_of
from broker.simulate.ledger.stored import EarlyCancelRow, RunningRow
from broker.simulate.ledger.tables import Tables


@statement
def cancel_waiting(t: Tables, jobs: Sequence[UUID], now: int, low: UUID, high: UUID) -> Rows:
    del low, high
    ended = []
    for job in jobs:
        row = t.jobs.get(job)
        if row is None or row.state != "open":
            continue
        if job in t.waiting:
            attempts = t.waiting.remove(job).attempt
        elif job in t.delayed:
            attempts = t.delayed.remove(job).attempt
        else:
            continue
        ended.append(t.jobs.change(job, state="cancelled", attempts=attempts, settled_ms=now))
    return ended


@statement
def mark_cancelled(t: Tables, jobs: Sequence[UUID], tenant: str, now: int) -> Rows:
    found = [row for job in sorted(jobs) if (row := t.running.get(job)) is not None and row.tenant == tenant]
    return [columns_of(_marked(t, row, now)) | {"is_new": row.cancel_ms is None} for row in found]


@statement
def mark_batch_cancelled(t: Tables, batch: UUID, now: int) -> Rows:
    running = [t.running[job] for job in t.running_by_job.keys()]
    return [_marked(t, row, now) for row in running if row.cancel_ms is None and t.jobs[row.job].batch == batch]


def _marked(t: Tables, row: RunningRow, now: int) -> RunningRow:
    return row if row.cancel_ms is not None else t.running.change(row.job, cancel_ms=now)


@statement
def to_be_cancelled(t: Tables) -> Rows:
    running = [t.running[job] for job in t.running_by_job.keys()]
    return [row for row in running if row.cancel_ms is not None]


@statement
def cancel_early(t: Tables, jobs: Sequence[UUID], tenant: str, now: int) -> Rows:
    for job in sorted(jobs):
        t.early_cancels.add(EarlyCancelRow(job=job, tenant=tenant, made_ms=now))
    return []


@statement
def early_cancels(t: Tables, limit: int) -> Rows:
    come = [row for row in t.early_cancels if (job := t.jobs.get(row.job)) is not None and job.tenant == row.tenant]
    return sorted(come, key=lambda row: (row.tenant, row.job.int))[:limit]


@statement
def forget_early_cancels(t: Tables, tenants: Sequence[str], jobs: Sequence[UUID], made_before: int) -> Rows:
    done = set(zip(tenants, jobs, strict=True))
    for row in t.early_cancels:
        if row.made_ms < made_before or (row.tenant, row.job) in done:
            t.early_cancels.remove((row.tenant, row.job))
    return []


@statement
def waiting_of_batch(t: Tables, batch: UUID, limit: int) -> Rows:
    jobs = t.waiting_by_batch.keys(batch, limit=limit) + t.delayed_by_batch.keys(batch, limit=limit)
    return [{"job": job} for job in jobs[:limit]]


@statement
def change_controls(t: Tables) -> Rows:
    t.control_version.set(t.control_version.now + 1)
    return []
