"""Selects jobs by a filter, a page at a time, by id."""

from collections.abc import Collection, Hashable, Sequence
from typing import TypeVar
from uuid import UUID

from msgspec.structs import asdict

from broker.ledger.rows import NEVER_MS, job_line_of, metadata_of
from broker.ledger.selection import FAILED, LOOKED_AT, SMALL_BATCH, Range, range_of
from broker.simulate.ledger.failures import failure_kind
from broker.simulate.ledger.stored import FailureRow, JobRow
from broker.simulate.ledger.table import ALL, Index
from broker.simulate.ledger.tables import Tables
from schemas.api import State
from schemas.ids import NEWEST_MS, OLDEST_MS, least_id
from schemas.listing import JobFilter, JobLine, JobPage
from schemas.units import Ms

R = TypeVar("R")
_PAGE = 5000
"""How many failures are looked at together."""


def select_jobs(
    tables: Tables,
    tenant: str | None,
    wanted: JobFilter,
    *,
    limit: int,
    after: UUID | None = None,
    newest_first: bool = True,
    most: int = LOOKED_AT,
    small_batch: int = SMALL_BATCH,
) -> JobPage:
    """Select up to `limit` jobs of a tenant (None: of all) that match, beyond the id `after` in the order asked for."""
    ids = range_of(wanted, newest_first=newest_first)
    if after is not None:
        ids = ids.beyond(after)
    if wanted.kinds or (wanted.states and FAILED.issuperset(wanted.states)):
        return _among_failures(tables, tenant, wanted, ids, limit=limit, most=most)
    if set(wanted.states) == {State.RUNNING}:
        return _among_running(tables, tenant, wanted, ids, limit=limit, most=most)
    if wanted.batch is None:
        return _by_scan(tables, tenant, wanted, ids, limit=limit, most=most)
    batch = tables.batches.get(wanted.batch)
    if batch is None or tenant not in {None, batch.tenant}:
        return JobPage()
    if max(batch.admitted, batch.jobs or 0) <= small_batch:
        among = [job for job in tables.jobs_by_batch.keys(wanted.batch) if _is_within(job, ids)]
        jobs = _matching(tables, tenant, wanted, _in_order(among, ids), limit=limit + 1)
        return JobPage(jobs=tuple(jobs[:limit]), next=jobs[limit - 1].id if len(jobs) > limit else None)
    to_ms = NEVER_MS if batch.completed_ms is None else batch.completed_ms
    ids = ids.within(least_id(Ms(batch.created_ms - OLDEST_MS)), least_id(Ms(to_ms + NEWEST_MS)))
    return _by_scan(tables, tenant, wanted, ids, limit=limit, most=most)


def _by_scan(tables: Tables, tenant: str | None, wanted: JobFilter, ids: Range, *, limit: int, most: int) -> JobPage:
    looked_at = _keys(tables.jobs_by_id, ids, most)
    last = looked_at[-1] if len(looked_at) == most else None
    jobs = _matching(tables, tenant, wanted, looked_at, limit=limit)
    return JobPage(jobs=tuple(jobs), next=jobs[-1].id if len(jobs) == limit else last)


def _among_failures(
    tables: Tables, tenant: str | None, wanted: JobFilter, ids: Range, *, limit: int, most: int
) -> JobPage:
    """Look through failures, a page at a time, as many pages as there may be."""
    states = [state for state in wanted.states if state in FAILED] if wanted.states else None
    kept: list[JobLine] = []
    for _ in range(max(1, most // _PAGE)):
        page = _failures(tables, tenant, wanted, ids)
        fitting = [row.job for row in page if _fits(row, tenant, wanted, states)]
        kept += _matching(tables, tenant, wanted, fitting, limit=limit - len(kept))
        if len(kept) == limit:
            return JobPage(jobs=tuple(kept), next=kept[-1].id)
        if len(page) < _PAGE:
            return JobPage(jobs=tuple(kept))
        ids = ids.beyond(page[-1].job)
    return JobPage(jobs=tuple(kept), next=page[-1].job)


def _failures(tables: Tables, tenant: str | None, wanted: JobFilter, ids: Range) -> list[FailureRow]:
    if wanted.batch is not None:
        keys = _keys(tables.failures_by_batch, ids, _PAGE, group=wanted.batch)
    elif tenant is not None:
        keys = _keys(tables.failures_by_tenant, ids, _PAGE, group=tenant)
    else:
        keys = _keys(tables.failures_by_id, ids, _PAGE)
    return [tables.failures[key] for key in keys]


def _fits(row: FailureRow, tenant: str | None, wanted: JobFilter, states: Collection[State] | None) -> bool:
    return (
        (states is None or row.state in states)
        and (not wanted.kinds or row.kind in wanted.kinds)
        and wanted.model in {None, row.model}
        and tenant in {None, row.tenant}
    )


def _among_running(
    tables: Tables, tenant: str | None, wanted: JobFilter, ids: Range, *, limit: int, most: int
) -> JobPage:
    among = _keys(tables.running_by_job, ids, most)
    jobs = _matching(tables, tenant, wanted, among, limit=limit)
    last = among[-1] if len(among) == most else None
    return JobPage(jobs=tuple(jobs), next=jobs[-1].id if len(jobs) == limit else last)


def _keys(index: Index[UUID, R], ids: Range, most: int, *, group: Hashable = ALL) -> list[UUID]:
    """List keys of an index in the range, in its order, up to `most`."""
    if ids.low >= ids.high:
        return []
    if ids.newest_first:
        found = index.before(group, (ids.high.int,), limit=most)
    else:
        found = index.after(group, (ids.low.int - 1,), limit=most)
    return [key for key in found if _is_within(key, ids)]


def _is_within(job: UUID, ids: Range) -> bool:
    return ids.low <= job < ids.high


def _in_order(jobs: Sequence[UUID], ids: Range) -> Sequence[UUID]:
    return sorted(jobs, reverse=ids.newest_first)


def _matching(
    tables: Tables, tenant: str | None, wanted: JobFilter, among: Sequence[UUID], *, limit: int
) -> list[JobLine]:
    """Return those that match, in the order of `among`."""
    found: list[JobLine] = []
    for job in among:
        row = tables.jobs.get(job)
        if row is not None and len(found) < limit and _is_wanted(tables, row, tenant, wanted):
            found.append(job_line_of({**asdict(row), "state": state_of(tables, row)}))
    return found


def state_of(tables: Tables, row: JobRow) -> str:
    """Tell the state of a job, of an open one by the table that has its narrow row."""
    if row.state != "open":
        return row.state
    return State.RUNNING if row.id in tables.running else State.QUEUED


def _is_wanted(tables: Tables, row: JobRow, tenant: str | None, wanted: JobFilter) -> bool:
    return (
        tenant in {None, row.tenant}
        and (not wanted.states or state_of(tables, row) in wanted.states)
        and (not wanted.kinds or (row.state in FAILED and failure_kind(row.state, row.failure) in wanted.kinds))
        and wanted.model in {None, row.model}
        and wanted.lane in {None, row.lane}
        and wanted.batch in {None, row.batch}
        and wanted.custom_id in {None, row.custom_id}
        and (not wanted.metadata or wanted.metadata.items() <= metadata_of(row).items())
    )
