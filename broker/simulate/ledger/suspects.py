"""Keeps the suspected jobs: those that wait for a run apart, and those that run apart on a worker."""

from collections.abc import Collection
from uuid import UUID

from msgspec.structs import replace

from broker.core.records import ONLY_SHARD, Shard
from broker.core.suspects import RunningApart, Turn, WaitingSuspect
from broker.ledger.rows import suspicion_of
from broker.simulate.ledger.attempts import check_fences, leads, sealed
from broker.simulate.ledger.seal_keys import seal_key_of
from broker.simulate.ledger.stored import DelayedRow, RunningRow
from broker.simulate.ledger.table import ALL
from broker.simulate.ledger.tables import Tables
from broker.simulate.ledger.transactions import Area, transaction
from schemas.job import Attempt
from schemas.subjects import WorkerId
from schemas.units import Ms

_MOST = 1000


class MemorySuspects(Area):
    """Implements `broker.ports.SuspectLedger`."""

    @transaction
    def waiting(self) -> list[WaitingSuspect]:
        rows = [self._tables.delayed[job] for job in self._tables.delayed_suspects.keys(ALL)]
        free = [row for row in rows if not _is_held(self._tables, row)]
        return [
            WaitingSuspect(row.job, row.model, tuple(row.tried or ()), suspicion)
            for row in free[:_MOST]
            if (suspicion := suspicion_of(row)) is not None
        ]

    @transaction
    def running(self) -> list[RunningApart]:
        return [
            RunningApart(row.job, row.attempt, WorkerId(row.ward), suspicion)
            for row in self._tables.running
            if row.ward is not None and (suspicion := suspicion_of(row)) is not None
        ]

    @transaction
    def dispatch(self, turn: Turn, *, term: int, now: Ms, shard: Shard = ONLY_SHARD) -> list[Attempt]:
        key = seal_key_of(self._tables)
        started = []
        if leads(self._tables, term, shard):
            found = [_start(self._tables, job, turn, now) for job in sorted(set(turn.jobs))]
            started = [row for row in found if row is not None]
        if not started:
            check_fences(self._tables, term=term, controls=None, shard=shard)
        return [replace(sealed(self._tables, row, key, now), group=turn.group) for row in started]

    @transaction
    def clear(self, groups: Collection[UUID]) -> None:
        for job in self._tables.delayed_suspects.keys(ALL):
            suspicion = suspicion_of(self._tables.delayed[job])
            if suspicion is not None and suspicion.group in groups:
                self._tables.delayed.change(job, suspicion=None, not_before_ms=0)


def _start(tables: Tables, job: UUID, turn: Turn, now: Ms) -> RunningRow | None:
    row = tables.delayed.get(job)
    if row is None or row.suspicion is None or row.deadline_ms <= now or _is_held(tables, row):
        return None
    tables.delayed.remove(job)
    started = RunningRow(
        job=job,
        attempt=row.attempt + 1,
        uncounted=row.uncounted,
        deployment=turn.deployment,
        dispatched_ms=now,
        deadline_ms=row.deadline_ms,
        model=row.model,
        lane=row.lane,
        tenant=row.tenant,
        tried=row.tried,
        tokens=row.tokens,
        suspicion=row.suspicion,
        ward=turn.worker,
    )
    tables.running.insert(started)
    return started


def _is_held(tables: Tables, row: DelayedRow) -> bool:
    """Say whether a job is paused or being cancelled. A pause of its deployment does not count: it waits for any."""
    names = [("model", row.model), ("lane", row.lane), ("tenant", row.tenant), ("batch", str(row.batch))]
    batch = None if row.batch is None else tables.batches.get(row.batch)
    return any(name in tables.pauses for name in names) or (batch is not None and batch.cancel_ms is not None)
