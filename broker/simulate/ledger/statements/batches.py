"""Counters and states of batches."""

from collections.abc import Sequence
from uuid import UUID

import msgspec

from broker.ledger.rows import NEVER_MS
from broker.simulate.ledger.statements.named import Rows, statement
from broker.simulate.ledger.stored import BatchRow
from broker.simulate.ledger.tables import Tables

_SUMS = (
    "admitted", "succeeded", "failed", "expired", "cancelled", "dead", "refused", "input_tokens", "output_tokens",
    "cached_tokens", "cost_nano_usd",
)  # fmt: skip
_took = msgspec.json.Decoder(dict[str, int])


def ended_of(row: BatchRow) -> int:
    return row.succeeded + row.failed + row.expired + row.cancelled + row.dead


@statement
def batch(t: Tables, batch: UUID, tenant: str) -> Rows:
    row = t.batches.get(batch)
    return [] if row is None or row.tenant != tenant else [row]


@statement
def hold_batch(t: Tables, held: UUID, tenant: str) -> Rows:
    return batch(t, held, tenant)


@statement
def create_batch(
    t: Tables,
    batch: UUID,
    tenant: str,
    lane: str,
    now: int,
    deadline_ms: int | None,
    metadata: str,
    priority: int,
    webhook: UUID | None,
    of_file: bool,
) -> Rows:
    row = BatchRow(
        id=batch,
        tenant=tenant,
        lane=lane,
        created_ms=now,
        deadline_ms=deadline_ms,
        metadata=metadata,
        priority=priority,
        webhook=webhook,
        of_file=of_file,
    )
    return [row] if t.batches.add(row) else []


@statement
def create_repeat_batch(
    t: Tables,
    batch: UUID,
    tenant: str,
    lane: str,
    now: int,
    deadline_ms: int | None,
    metadata: str,
    retry_of: UUID | None,
    root: UUID | None,
    is_replay: bool,
) -> Rows:
    retried = None if retry_of is None else t.batches.get(retry_of)
    row = BatchRow(
        id=batch,
        tenant=tenant,
        lane=lane,
        created_ms=now,
        deadline_ms=deadline_ms,
        metadata=metadata,
        retry_of=retry_of,
        root=root,
        took="{}",
        is_replay=is_replay,
        webhook=None if retried is None else retried.webhook,
    )
    return [row] if t.batches.add(row) else []


@statement
def seal_batch(t: Tables, batch: UUID, tenant: str, jobs: int, now: int) -> Rows:
    row = t.batches.get(batch)
    if row is None or row.tenant != tenant or row.sealed_ms is not None:
        return []
    completed_ms = now if max(jobs, row.admitted) <= ended_of(row) else None
    return [t.batches.change(batch, sealed_ms=now, jobs=jobs, completed_ms=completed_ms)]


@statement
def change_batch(
    t: Tables,
    batch: UUID,
    tenant: str,
    change: str,
    lane: str | None,
    deadline_ms: int | None,
    priority: int | None,
) -> Rows:
    row = t.batches.get(batch)
    if row is None or row.tenant != tenant:
        return []
    return [
        t.batches.change(
            batch,
            submit_lane=row.lane if row.submit_lane is None else row.submit_lane,
            change=change,
            lane=row.lane if lane is None else lane,
            deadline_ms=row.deadline_ms if deadline_ms is None else deadline_ms,
            priority=row.priority if priority is None else priority,
        )
    ]


@statement
def cancel_batch(t: Tables, batch: UUID, tenant: str, now: int) -> Rows:
    row = t.batches.get(batch)
    if row is None or row.tenant != tenant or row.completed_ms is not None or row.cancel_ms is not None:
        return []
    is_complete = max(row.jobs or 0, row.admitted) <= ended_of(row)
    return [
        t.batches.change(
            batch,
            cancel_ms=now,
            sealed_ms=now if row.sealed_ms is None else row.sealed_ms,
            jobs=row.admitted if row.jobs is None else row.jobs,
            completed_ms=now if is_complete else None,
        )
    ]


@statement
def complete_without_lost(t: Tables, now: int, cancelled_before: int) -> Rows:
    lacking = [
        row
        for row in t.batches
        if row.cancel_ms is not None
        and row.cancel_ms < cancelled_before
        and row.completed_ms is None
        and row.admitted <= ended_of(row)
    ]
    return [t.batches.change(row.id, completed_ms=now) for row in lacking]


@statement
def count_batches(t: Tables, batches: Sequence[UUID], *values: Sequence[int] | int) -> Rows:
    *sums, now = values
    counted = []
    for n, id_ in enumerate(batches):
        row = t.batches.get(id_)
        if row is None:
            continue
        delta = {name: column[n] for name, column in zip(_SUMS, sums, strict=True) if not isinstance(column, int)}
        after = msgspec.structs.replace(row, **{name: row[name] + delta[name] for name in _SUMS})
        is_complete = row.jobs is not None and max(row.jobs, after.admitted) <= ended_of(after)
        completed_ms = now if row.completed_ms is None and is_complete else row.completed_ms
        t.batches.put(msgspec.structs.replace(after, completed_ms=completed_ms))
        counted.append({"id": id_, "ended_before": ended_of(row), "is_cancelled": row.cancel_ms is not None})
    return counted


@statement
def take_over(t: Tables, batch: UUID, states: Sequence[str], numbers: Sequence[int]) -> Rows:
    row = t.batches.get(batch)
    if row is None:
        return []
    took = _took.decode(row.took or "{}")
    for state, number in zip(states, numbers, strict=True):
        took[str(state)] = took.get(state, 0) + number
    return [t.batches.change(batch, took=msgspec.json.encode(took).decode())]


@statement
def batch_bounds(t: Tables, batch: UUID, tenant: str | None) -> Rows:
    row = t.batches.get(batch)
    if row is None or (tenant is not None and row.tenant != tenant):
        return []
    to_ms = NEVER_MS if row.completed_ms is None else row.completed_ms
    return [{"jobs": max(row.admitted, row.jobs or 0), "from_ms": row.created_ms, "to_ms": to_ms}]
