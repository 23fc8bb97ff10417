"""Reads batches with their results and retries."""

from collections.abc import Iterable, Sequence
from uuid import UUID

from broker.ledger.rows import batch_of
from broker.simulate.ledger.statements.named import Rows, statement
from broker.simulate.ledger.statements.reading import Columns, columns_of, has_all, is_any
from broker.simulate.ledger.stored import JobRow
from broker.simulate.ledger.tables import Tables

_BESIDE = 1024
"""What a row of a page counts beside its body, in bytes."""
_GREATEST = 1 << 128


@statement
def batches(
    t: Tables,
    tenant: str,
    before: UUID | None,
    limit: int,
    statuses: Sequence[str],
    lane: str | None,
    since_ms: int | None,
    until_ms: int | None,
    metadata: str | None,
) -> Rows:
    by_tenant = t.batches_by_tenant
    keys = by_tenant.newest(tenant) if before is None else by_tenant.before(tenant, (before.int,))
    rows = [
        row
        for row in map(t.batches.__getitem__, keys)
        if is_any(batch_of(row).status, statuses)
        and (lane is None or row.lane == lane)
        and (since_ms is None or row.created_ms >= since_ms)
        and (until_ms is None or row.created_ms < until_ms)
        and has_all(row.metadata, metadata)
    ]
    return rows[:limit]


@statement
def retries_of(t: Tables, batch: UUID) -> Rows:
    return [t.batches[key] for key in t.batches_by_root.keys(batch)]


@statement
def failure_kinds_of(t: Tables, batch: UUID, limit: int) -> Rows:
    kinds: dict[str, int] = {}
    for job in t.failures_by_batch.keys(batch, limit=limit):
        kind = t.failures[job].kind
        kinds[kind] = kinds.get(kind, 0) + 1
    return [{"kind": kind, "jobs": jobs} for kind, jobs in sorted(kinds.items(), key=lambda one: (-one[1], one[0]))]


@statement
def results(t: Tables, batch: UUID, read_to: int, limit: int, page_bytes: int) -> Rows:
    return _page(ended(t, batch, read_to, limit), page_bytes)


@statement
def merged_results(
    t: Tables, batch: UUID, read_to: int, limit: int, page_bytes: int, retries: Sequence[UUID]
) -> Rows:
    return _page(ended(t, batch, read_to, limit, retries=retries), page_bytes)


def ended(
    t: Tables, batch: UUID, read_to: int, limit: int | None = None, *, retries: Sequence[UUID] = ()
) -> Iterable[Columns]:
    """Give results in their order, each with the columns of its job; those that one of the retries replaced, as it ended."""
    for key in t.results_by_batch.after(batch, (read_to, _GREATEST), limit=limit):
        if (job := t.jobs.get(key)) is None:
            continue
        last = _last_retry(t, job, retries) or job
        result = t.results.get(last.id)
        body = None if result is None else result.body
        yield columns_of(last) | {"ordinal": t.results[key].ordinal, "body": body}


def _last_retry(t: Tables, job: JobRow, retries: Sequence[UUID]) -> JobRow | None:
    """Find what the retries of a job came to: a success, else the failure that ended last. None: nothing yet."""
    if job.state == "succeeded":
        return None
    repeated = [t.jobs.get(key) for key in t.replays_by_root.keys(job.id)]
    over = [row for row in repeated if row is not None and row.state != "open" and row.batch in retries]
    return max(over, key=lambda row: (row.state == "succeeded", row.settled_ms, row.id.int), default=None)


def _page(rows: Iterable[Columns], page_bytes: int) -> list[Columns]:
    """Return as many as fit into a page, at least one."""
    page: list[Columns] = []
    total = 0
    for row in rows:
        total += _BESIDE + len(row["body"] or b"")
        if page and total > page_bytes:
            break
        page.append(row)
    return page


@statement
def results_left(t: Tables, batch: UUID, read_to: int) -> Rows:
    return [{"exists": bool(t.results_by_batch.after(batch, (read_to, _GREATEST), limit=1))}]


@statement
def executions_of(t: Tables, job: UUID) -> Rows:
    return [t.executions[key] for key in t.executions_by_job.keys(job)]
