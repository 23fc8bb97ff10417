"""Reads what waits, and moves it between the backlog and what waits for its time."""

from collections import defaultdict
from collections.abc import Sequence
from uuid import UUID

from msgspec.structs import asdict

from broker.simulate.ledger.statements.named import Rows, statement
from broker.simulate.ledger.stored import DelayedRow, WaitingRow
from broker.simulate.ledger.table import ALL
from broker.simulate.ledger.tables import Tables

_WAITING = frozenset(WaitingRow.__struct_fields__)


@statement
def heads(t: Tables) -> Rows:
    found = []
    for flow in t.waiting_by_flow.groups():
        first = t.waiting_by_flow.keys(flow, limit=1)
        while first:
            row = t.waiting[first[0]]
            found.append(row)
            first = t.waiting_by_flow.after(flow, (row.rank + 1,), limit=1)
    return found


@statement
def waiting_page(
    t: Tables, model: str, lane: str, tenant: str, rank: int, deadline_ms: int, job: UUID, limit: int
) -> Rows:
    jobs = t.waiting_by_flow.after((model, lane, tenant), (rank, deadline_ms, job.int), limit=limit)
    return [_paged(t.waiting[job]) for job in jobs]


@statement
def waiting_page_past(
    t: Tables,
    model: str,
    lane: str,
    tenant: str,
    rank: int,
    deadline_ms: int,
    job: UUID,
    limit: int,
    batches: Sequence[UUID],
    now: int,
) -> Rows:
    rows = [t.waiting[key] for key in t.waiting_by_flow.after((model, lane, tenant), (rank, deadline_ms, job.int))]
    return [_paged(row) for row in rows if row.batch not in batches or row.deadline_ms <= now][:limit]


def _paged(row: WaitingRow) -> tuple[object, ...]:
    return row.rank, row.deadline_ms, row.job, row.attempt, row.tried, row.tokens, row.batch


@statement
def move_due(t: Tables, now: int, limit: int) -> Rows:
    due = t.delayed_by_due.before(ALL, (now + 1,))[::-1]
    return [_back(t, job) for job in due[:limit]]


def _back(t: Tables, job: UUID) -> WaitingRow:
    """Move a delayed job into the backlog."""
    row = WaitingRow(**{name: value for name, value in asdict(t.delayed.remove(job)).items() if name in _WAITING})
    t.waiting.insert(row)
    return row


@statement
def next_due(t: Tables) -> Rows:
    first = t.delayed_by_due.first()
    return [{"min": None if first is None else first[0][0]}]


@statement
def park(t: Tables, batch: UUID, now: int, limit: int, never_ms: int) -> Rows:
    if ("batch", str(batch)) not in t.pauses:
        return [{"count": 0}]
    rows = [t.waiting[job] for job in t.waiting_by_batch.keys(batch)]
    page = [row for row in rows if row.deadline_ms > now][:limit]
    for row in page:
        t.waiting.remove(row.job)
        t.delayed.insert(DelayedRow(not_before_ms=never_ms, is_parked=True, **asdict(row)))
    return [{"count": len(page)}]


@statement
def unpark(t: Tables, limit: int) -> Rows:
    rows = [t.delayed[job] for job in t.delayed_parked.keys(ALL)]
    free = [row.job for row in rows if ("batch", str(row.batch)) not in t.pauses]
    return [_back(t, job) for job in free[:limit]]


@statement
def ahead(t: Tables, model: str, lane: str, tenant: str, rank: int, deadline_ms: int, job: UUID, limit: int) -> Rows:
    before = t.waiting_by_flow.count_before((model, lane, tenant), (rank, deadline_ms, job.int))
    return [{"count": min(limit, before)}]


@statement
def ahead_of_batch(t: Tables, batch: UUID, limit: int) -> Rows:
    sample = [t.waiting[job] for job in t.waiting_by_batch.keys(batch, limit=_SAMPLE)]
    if not sample:
        return []
    first = min(sample, key=lambda row: (row.rank, row.deadline_ms, row.job.int))
    flow, place = (first.model, first.lane, first.tenant), (first.rank, first.deadline_ms, first.job.int)
    before = t.waiting_by_flow.before(flow, place)[::-1][:limit]
    return [{"count": sum(t.waiting[job].batch != batch for job in before)}]


_SAMPLE = 1000
"""How many waiting jobs of a batch are looked at."""


@statement
def backlog(t: Tables) -> Rows:
    waiting: dict[tuple[str, str], list[UUID]] = defaultdict(list)
    rows: list[WaitingRow | DelayedRow] = [*t.waiting, *t.delayed]
    for row in rows:
        waiting[row.model, row.lane].append(row.job)
    return [
        {"model": model, "lane": lane, "waiting": len(jobs), "oldest": min(jobs)}
        for (model, lane), jobs in sorted(waiting.items())
    ]
