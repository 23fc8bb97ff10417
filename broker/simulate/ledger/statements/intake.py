"""What intake reads and writes of jobs, batches and the keys of producers."""

from collections.abc import Sequence
from operator import itemgetter
from uuid import UUID

from broker.ledger.rows import JOB_COLUMNS
from broker.simulate.ledger.statements.jobs import check_day, copied
from broker.simulate.ledger.statements.named import Rows, statement
from broker.simulate.ledger.stored import IdempotencyRow, RepeatedRow
from broker.simulate.ledger.table import ALL
from broker.simulate.ledger.tables import Tables

_DROPPED = 100
"""How many old repetitions go with new ones."""


@statement
def batches_of(t: Tables, ids: Sequence[UUID]) -> Rows:
    rows = [row for id_ in sorted(set(ids)) if (row := t.batches.get(id_)) is not None]
    return [
        {
            "id": row.id,
            "tenant": row.tenant,
            "submit_lane": row.submit_lane,
            "change": row.change,
            "lane": row.lane,
            "deadline_ms": row.deadline_ms,
            "priority": row.priority,
            "jobs": row.jobs,
            "is_full": row.cancel_ms is None
            and (row.completed_ms is not None or (row.jobs is not None and row.admitted >= row.jobs)),
        }
        for row in rows
    ]


@statement
def insert_jobs(t: Tables, *values: Sequence[object]) -> Rows:
    rows = [copied("jobs", JOB_COLUMNS, record) for record in zip(*values, strict=True)]
    for row in rows:
        check_day(t, row.id)
    return [row for row in rows if t.jobs.add(row)]


@statement
def identities(t: Tables, jobs: Sequence[UUID]) -> Rows:
    return [row for job in sorted(set(jobs)) if (row := t.jobs.get(job)) is not None]


@statement
def claim_keys(t: Tables, tenants: Sequence[str], keys: Sequence[str], jobs: Sequence[UUID]) -> Rows:
    for tenant, key, job in sorted(zip(tenants, keys, jobs, strict=True), key=itemgetter(0, 1)):
        t.idempotency.add(IdempotencyRow(tenant=tenant, key=key, job=job))
    return []


@statement
def key_owners(t: Tables, tenants: Sequence[str], keys: Sequence[str]) -> Rows:
    return [row for used in zip(tenants, keys, strict=True) if (row := t.idempotency.get(used)) is not None]


@statement
def free_keys(t: Tables, tenants: Sequence[str], keys: Sequence[str], jobs: Sequence[UUID]) -> Rows:
    for tenant, key, job in zip(tenants, keys, jobs, strict=True):
        if (row := t.idempotency.get((tenant, key))) is not None and row.job == job:
            t.idempotency.remove((tenant, key))
    return []


@statement
def record_repeated(
    t: Tables, ids: Sequence[UUID], tenants: Sequence[str], jobs: Sequence[UUID], oldest: UUID
) -> Rows:
    for old in t.repeated_by_id.before(ALL, (oldest.int,))[::-1][:_DROPPED]:
        t.repeated.remove(old)
    for id_, tenant, job in zip(ids, tenants, jobs, strict=True):
        t.repeated.add(RepeatedRow(id=id_, tenant=tenant, job=job))
    return []


@statement
def first_of(t: Tables, id_: UUID, tenant: str) -> Rows:
    row = t.repeated.get(id_)
    return [{"job": row.job}] if row is not None and row.tenant == tenant else []


@statement
def job_of_key(t: Tables, tenant: str, key: str) -> Rows:
    used = t.idempotency.get((tenant, key))
    row = None if used is None else t.jobs.get(used.job)
    return [] if row is None else [row]
