"""Batches and their results."""

from collections.abc import Iterable, Mapping
from itertools import takewhile
from typing import Any
from uuid import UUID

from msgspec.structs import asdict, replace

from broker.core.records import ReadPage
from broker.errors import Conflict
from broker.ledger.batches import FAILURES_COUNTED, PAGE_BYTES, has_succeeded, parse_cursor
from broker.ledger.rows import (
    AHEAD_MOST,
    batch_of,
    json_text,
    metadata_of,
    result_of,
    with_ahead,
    with_retries,
)
from broker.simulate.ledger.counts import is_complete
from broker.simulate.ledger.stored import BatchRow, JobRow, ResultRow
from broker.simulate.ledger.tables import Tables
from broker.simulate.ledger.transactions import Area, transaction
from schemas.api import Batch, BatchCreate, BatchList, ResultPage, State
from schemas.units import Ms

_ROW_BYTES = 1024
"""What a result counts for beside its body, as in results.sql."""
_SAMPLE = 1000
"""As many waiting jobs of a batch as ahead_of_batch.sql looks at."""


class MemoryBatches(Area):
    """Implements `broker.ports.BatchLedger`."""

    @transaction
    def create(self, ask: BatchCreate, tenant: str, now: Ms) -> Batch:
        self._tables.batches.add(
            BatchRow(
                id=ask.id,
                tenant=tenant,
                lane=ask.lane,
                created_ms=now,
                deadline_ms=ask.deadline_ms,
                metadata=json_text(ask.metadata) or "{}",
                priority=ask.priority,
                webhook=ask.webhook,
            )
        )
        found = find_batch(self._tables, ask.id, tenant)
        if found is None:
            raise Conflict(f"the id {ask.id} is taken: make another")
        return batch_of(found)

    @transaction
    def seal(self, batch: UUID, tenant: str, jobs: int, now: Ms) -> Batch | None:
        row = find_batch(self._tables, batch, tenant)
        if row is None:
            return None
        if row.sealed_ms is None:
            row = self._tables.batches.change(batch, sealed_ms=now, jobs=jobs)
            if is_complete(row):
                row = self._tables.batches.change(batch, completed_ms=now)
        return batch_of(row)

    @transaction
    def find(self, batch: UUID, tenant: str) -> Batch | None:
        row = find_batch(self._tables, batch, tenant)
        if row is None:
            return None
        found = with_retries(row, _retries_of(self._tables, batch))
        if not found.counts.settled() and found.completed_ms is None:
            return with_ahead(found, _ahead(self._tables, batch))
        if found.counts.settled() == found.counts.succeeded:
            return found
        return replace(found, failures=_failure_kinds(self._tables, batch))

    @transaction
    def page(self, tenant: str, ask: BatchList) -> tuple[Batch, ...]:
        by_tenant = self._tables.batches_by_tenant
        keys = by_tenant.newest(tenant) if ask.before is None else by_tenant.before(tenant, (ask.before.int,))
        rows = [row for key in keys if _matches(row := self._tables.batches[key], ask)]
        return tuple(batch_of(row) for row in rows[: ask.limit])

    @transaction
    def results(
        self, batch: UUID, tenant: str, cursor: str | None, limit: int, *, own: bool = False, final: bool = False
    ) -> ResultPage | None:
        read = _read(self._tables, batch, tenant, cursor, limit, own=own, final=final)
        return None if read is None else read.page

    @transaction
    def read(
        self, batch: UUID, tenant: str, cursor: str | None, limit: int, *, own: bool = False, final: bool = False
    ) -> ReadPage | None:
        return _read(self._tables, batch, tenant, cursor, limit, own=own, final=final)


def _read(
    tables: Tables, batch: UUID, tenant: str, cursor: str | None, limit: int, *, own: bool, final: bool
) -> ReadPage | None:
    """Return `limit` results, or as many as fit into PAGE_BYTES."""
    read_to = parse_cursor(cursor)
    asked = find_batch(tables, batch, tenant)
    if asked is None:
        return None
    retries = [] if own else _retries_of(tables, batch)
    found = _fitting(_results(tables, batch, read_to, limit, are_merged=bool(retries)))
    may_change = final and any(row.completed_ms is None for row in retries)
    rows = list(takewhile(has_succeeded, found)) if may_change else found
    if rows:
        read_to = rows[-1]["ordinal"]
        cursor = str(read_to)
    more = bool(tables.results_by_batch.after(batch, (read_to, _GREATEST), limit=1))
    is_completed = asked.completed_ms is not None and not more
    is_completed = is_completed and all(row.completed_ms is not None for row in retries)
    more = more and len(rows) == len(found)
    page = ResultPage(tuple(result_of(row) for row in rows), cursor, completed=is_completed, more=more)
    return ReadPage(page, tuple(row["ordinal"] for row in rows))


_GREATEST = 1 << 128


def find_batch(tables: Tables, batch: UUID, tenant: str) -> BatchRow | None:
    row = tables.batches.get(batch)
    return row if row is not None and row.tenant == tenant else None


def _retries_of(tables: Tables, batch: UUID) -> list[BatchRow]:
    """List the retries of a batch, the oldest first."""
    return [tables.batches[key] for key in tables.batches_by_root.keys(batch)]


def _matches(row: BatchRow, ask: BatchList) -> bool:
    return (
        (not ask.statuses or batch_of(row).status in ask.statuses)
        and (ask.lane is None or row.lane == ask.lane)
        and (ask.since_ms is None or row.created_ms >= ask.since_ms)
        and (ask.until_ms is None or row.created_ms < ask.until_ms)
        and (ask.metadata or {}).items() <= metadata_of(row).items()
    )


def _ahead(tables: Tables, batch: UUID) -> int | None:
    """Count the jobs of others that come before a batch, up to one more than AHEAD_MOST. None: none of it waits."""
    sample = [tables.waiting[job] for job in tables.waiting_by_batch.keys(batch, limit=_SAMPLE)]
    if not sample:
        return None
    first = min(sample, key=lambda row: (row.rank, row.deadline_ms, row.job.int))
    flow = (first.model, first.lane, first.tenant)
    place = (first.rank, first.deadline_ms, first.job.int)
    before = tables.waiting_by_flow.before(flow, place)[::-1][: AHEAD_MOST + 1]
    return sum(1 for job in before if tables.waiting[job].batch != batch)


def _failure_kinds(tables: Tables, batch: UUID) -> dict[str, int]:
    kinds: dict[str, int] = {}
    for job in tables.failures_by_batch.keys(batch, limit=FAILURES_COUNTED):
        kind = tables.failures[job].kind
        kinds[kind] = kinds.get(kind, 0) + 1
    return dict(sorted(kinds.items(), key=lambda item: (-item[1], item[0])))


Columns = Mapping[str, Any]


def _results(tables: Tables, batch: UUID, read_to: int, limit: int, *, are_merged: bool) -> Iterable[Columns]:
    """Give results in their order, each with the columns of its job; those that a retry replaced, as it did."""
    for key in tables.results_by_batch.after(batch, (read_to, _GREATEST), limit=limit):
        result = tables.results[key]
        job = tables.jobs.get(key)
        if job is not None:
            last = (_last_retry(tables, job) if are_merged else None) or job
            body = (tables.results[last.id] if last.id in tables.results else ResultRow(job=last.id)).body
            yield {**asdict(last), "ordinal": result.ordinal, "body": body}


def _last_retry(tables: Tables, job: JobRow) -> JobRow | None:
    """Find what the retries of a job came to: a success, else the failure that ended last. None: nothing yet."""
    if job.state == State.SUCCEEDED:
        return None
    retries = [tables.jobs.get(key) for key in tables.replays_by_root.keys(job.id)]
    ended = [row for row in retries if row is not None and row.state != "open"]
    return max(ended, key=lambda row: (row.state == State.SUCCEEDED, row.settled_ms, row.id), default=None)


def _fitting(rows: Iterable[Columns]) -> list[Columns]:
    """Return as many as fit into a page, at least one."""
    fitting: list[Columns] = []
    size = 0
    for row in rows:
        size += len(row["body"] or b"") + _ROW_BYTES
        if fitting and size > PAGE_BYTES:
            break
        fitting.append(row)
    return fitting
