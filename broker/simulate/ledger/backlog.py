"""Reads what waits: the jobs of each flow, page by page, and those that wait for their time."""

from collections.abc import Collection, Iterable
from uuid import UUID

from msgspec.structs import asdict

from broker.core.records import Flow, Head, Place, WaitingJob
from broker.ledger.rows import flow_of, place_of
from broker.simulate.ledger.stored import DelayedRow, WaitingRow
from broker.simulate.ledger.tables import Tables
from broker.simulate.ledger.transactions import Area, transaction
from schemas.job import MOST_PRIORITY
from schemas.units import Ms

_WAITING = WaitingRow.__struct_fields__


class MemoryBacklog(Area):
    """Implements `broker.ports.BacklogLedger`."""

    @transaction
    def heads(self) -> list[Head]:
        by_flow = self._tables.waiting_by_flow
        heads = []
        for group in by_flow.groups():
            first = by_flow.keys(group, limit=1)
            while first:
                row = self._tables.waiting[first[0]]
                heads.append(Head(flow_of(row), row.rank, Ms(row.deadline_ms)))
                first = by_flow.after(group, (row.rank + 1,), limit=1)
        return heads

    @transaction
    def page(self, flow: Flow, *, after: Place | None, limit: int) -> list[WaitingJob]:
        return [_waiting_of(row) for row in self._after(flow, after, limit)]

    @transaction
    def page_past(
        self, flow: Flow, batches: Collection[UUID], *, after: Place | None, now: Ms, limit: int
    ) -> list[WaitingJob]:
        rows = self._after(flow, after, None)
        found = [row for row in rows if row.batch not in batches or row.deadline_ms <= now]
        return [_waiting_of(row) for row in found[:limit]]

    @transaction
    def move_due(self, now: Ms, *, limit: int) -> list[tuple[Flow, Place]]:
        due = self._tables.delayed_by_due.before((), (now + 1,))[::-1][:limit]
        return [back_to_backlog(self._tables, job) for job in due]

    @transaction
    def next_due(self) -> Ms | None:
        first = self._tables.delayed_by_due.first()
        return None if first is None else Ms(first[0][0])

    def _after(self, flow: Flow, after: Place | None, limit: int | None) -> Iterable[WaitingRow]:
        start = (-MOST_PRIORITY - 1,) if after is None else (after.rank, after.deadline_ms, after.job.int)
        jobs = self._tables.waiting_by_flow.after((flow.model, flow.lane, flow.tenant), start, limit=limit)
        return [self._tables.waiting[job] for job in jobs]


def back_to_backlog(tables: Tables, job: UUID) -> tuple[Flow, Place]:
    """Move a delayed job into the backlog. Return where it stands there."""
    row: DelayedRow = tables.delayed.remove(job)
    tables.waiting.insert(WaitingRow(**{name: value for name, value in asdict(row).items() if name in _WAITING}))
    return flow_of(row), place_of(row)


def _waiting_of(row: WaitingRow) -> WaitingJob:
    return WaitingJob(place_of(row), row.attempt, tuple(row.tried or ()), row.tokens, row.batch)
