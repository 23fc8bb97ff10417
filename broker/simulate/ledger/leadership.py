"""The lease by which one broker at a time dispatches, by the server's clock."""

from broker.core.records import ONLY_SHARD, Shard
from broker.simulate.ledger.stored import LeaderRow
from broker.simulate.ledger.transactions import Area, transaction


class MemoryLeadership(Area):
    """Implements `broker.ports.LeaderLedger`."""

    @transaction
    def lead(self, holder: str, *, lease_ms: int, shard: Shard = ONLY_SHARD) -> int | None:
        leader = self._tables.leader
        now_ns = self._session.timers.wall_ns()
        term = 1
        if (row := leader.get(shard)) is not None:
            is_over = row.until_ns <= now_ns
            if row.holder != holder and not is_over:
                return None
            term = row.term + 1 if is_over else row.term
        leader.put(LeaderRow(shard=shard, holder=holder, term=term, until_ns=now_ns + lease_ms * 1_000_000))
        return term

    @transaction
    def step_down(self, holder: str, term: int, *, shard: Shard = ONLY_SHARD) -> None:
        row = self._tables.leader.get(shard)
        if row is not None and row.holder == holder and row.term == term:
            self._tables.leader.change(shard, until_ns=self._session.timers.wall_ns())
