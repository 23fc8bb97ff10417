"""Adds to the counters of batches, once a batch for each group, and numbers their results."""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from uuid import UUID

from broker.ledger.connection import Connection
from broker.ledger.sql import query
from schemas.api import State
from schemas.outcome import Usage
from schemas.units import Ms, NanoUsd

_FIELDS = (
    "admitted", "succeeded", "failed", "expired", "cancelled", "dead", "refused", "input_tokens", "output_tokens",
    "cached_tokens", "cost_nano_usd",
)  # fmt: skip


@dataclass(slots=True)
class Deltas:
    """Adds up what a group adds to each batch. Jobs without a batch are left out."""

    by_batch: dict[UUID, dict[str, int]] = field(
        default_factory=lambda: defaultdict(lambda: dict.fromkeys(_FIELDS, 0))
    )
    cancelled: Collection[UUID] = ()
    """Those of the batches that were cancelled, once the sums were written."""

    def admitted(self, batch: UUID | None, count: int) -> None:
        if batch is not None:
            self.by_batch[batch]["admitted"] += count

    def refused(self, batch: UUID | None) -> None:
        """Count a job that came too late for a batch."""
        if batch is not None:
            self.by_batch[batch]["refused"] += 1

    def ended(self, batch: UUID | None, state: State) -> None:
        if batch is not None:
            self.by_batch[batch][state] += 1

    def spent(self, batch: UUID | None, usage: Usage, cost: NanoUsd) -> None:
        if batch is None:
            return
        delta = self.by_batch[batch]
        delta["input_tokens"] += usage.input_tokens
        delta["output_tokens"] += usage.output_tokens
        delta["cached_tokens"] += usage.cached_tokens
        delta["cost_nano_usd"] += cost

    async def write(self, connection: Connection, *, now: Ms) -> dict[UUID, int]:
        """Write the sums, and return how many jobs of each batch had ended before.

        This locks the batches' rows, so only their results follow it in its transaction.
        """
        if not self.by_batch:
            return {}
        batches = sorted(self.by_batch)
        columns = [[self.by_batch[batch][name] for batch in batches] for name in _FIELDS]
        rows = await connection.fetch(query("count_batches"), batches, *columns, now)
        self.cancelled = [row["id"] for row in rows if row["is_cancelled"]]
        return {row["id"]: row["ended_before"] for row in rows}
