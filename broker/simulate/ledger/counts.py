"""Adds to the counters of batches, once a batch for each group."""

from uuid import UUID

from broker.ledger.counts import Deltas
from broker.simulate.ledger.stored import BatchRow
from broker.simulate.ledger.tables import Tables
from schemas.units import Ms


def write_deltas(tables: Tables, deltas: Deltas, *, now: Ms) -> dict[UUID, int]:
    """Write the sums, and return how many jobs of each batch had ended before."""
    ended_before = {}
    cancelled = []
    for batch in sorted(deltas.by_batch):
        row = tables.batches.get(batch)
        if row is None:
            continue
        ended_before[batch] = ended_of(row)
        changes: dict[str, int | None] = {
            name: row[name] + delta for name, delta in deltas.by_batch[batch].items() if delta
        }
        after = tables.batches.change(batch, **changes) if changes else row
        if is_complete(after) and after.completed_ms is None:
            after = tables.batches.change(batch, completed_ms=now)
        if after.cancel_ms is not None:
            cancelled.append(batch)
    deltas.cancelled = cancelled
    return ended_before


def ended_of(row: BatchRow) -> int:
    return row.succeeded + row.failed + row.expired + row.cancelled + row.dead


def is_complete(row: BatchRow) -> bool:
    """Say whether a batch is sealed, and as many jobs have ended as it was sealed with, and all that were admitted."""
    return row.jobs is not None and max(row.jobs, row.admitted) <= ended_of(row)
