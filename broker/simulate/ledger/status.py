"""Reads how things stand now: the backlog by model and lane, the leader, the server's clock."""

from collections import defaultdict
from uuid import UUID

from broker.core.records import ONLY_SHARD, Leadership, Shard
from broker.simulate.ledger.stored import DelayedRow, WaitingRow
from broker.simulate.ledger.transactions import Area, transaction
from schemas.api import LaneBacklog
from schemas.ids import ms_of
from schemas.job import Lane
from schemas.units import Ms


class MemoryStatus(Area):
    """Implements `broker.ports.StatusLedger`."""

    @transaction
    def backlog(self, now: Ms) -> list[LaneBacklog]:
        waiting: dict[tuple[str, str], list[UUID]] = defaultdict(list)
        rows: list[WaitingRow | DelayedRow] = [*self._tables.waiting, *self._tables.delayed]
        for row in rows:
            waiting[row.model, row.lane].append(row.job)
        return [
            LaneBacklog(model=model, lane=Lane(lane), waiting=len(jobs), oldest_ms=Ms(max(0, now - ms_of(min(jobs)))))
            for (model, lane), jobs in sorted(waiting.items())
        ]

    @transaction
    def leader(self, *, shard: Shard = ONLY_SHARD) -> Leadership | None:
        row = self._tables.leader.get(shard)
        is_led = row is not None and row.until_ns > self._session.timers.wall_ns()
        return Leadership(row.holder, row.term) if row is not None and is_led else None

    @transaction
    def database_now(self) -> Ms:
        return Ms(self._session.timers.wall_ns() // 1_000_000)
