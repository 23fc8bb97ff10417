"""Moves what waits to another place."""

from collections.abc import Sequence
from uuid import UUID

from broker.simulate.ledger.statements.named import Rows, statement
from broker.simulate.ledger.stored import JobRow
from broker.simulate.ledger.tables import Tables


@statement
def change_waiting(
    t: Tables,
    jobs: Sequence[UUID],
    low: UUID,
    high: UUID,
    tenant: str,
    lane: str | None,
    priority: int | None,
    deadline_ms: int | None,
    longest_ms: int,
) -> Rows:
    del low, high
    found = [row for job in jobs if (row := t.jobs.get(job)) is not None and row.tenant == tenant]
    changed = []
    for before in found:
        is_too_late = deadline_ms is not None and deadline_ms > before.admitted_ms + longest_ms
        waits = t.waiting if before.id in t.waiting else t.delayed if before.id in t.delayed else None
        if before.state != "open" or is_too_late or waits is None:
            continue
        after = t.jobs.change(
            before.id,
            lane=before.lane if lane is None else lane,
            priority=before.priority if priority is None else priority,
            deadline_ms=before.deadline_ms if deadline_ms is None else deadline_ms,
        )
        waits.change(before.id, lane=after.lane, rank=-after.priority, deadline_ms=after.deadline_ms)
        changed.append(_changed(before, after, is_delayed=before.id in t.delayed))
    return changed


def _changed(before: JobRow, after: JobRow, *, is_delayed: bool) -> dict[str, object]:
    return {
        "job": after.id,
        "model": after.model,
        "lane": after.lane,
        "tenant": after.tenant,
        "rank": -after.priority,
        "priority": after.priority,
        "deadline_ms": after.deadline_ms,
        "is_delayed": is_delayed,
        "lane_before": before.lane,
        "priority_before": before.priority,
        "deadline_before": before.deadline_ms,
    }
