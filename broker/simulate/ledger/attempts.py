"""Starts attempts (queued → running), and reads those that run."""

from collections.abc import Collection, Sequence
from uuid import UUID

from broker.core.records import ONLY_SHARD, Flow, Pick, Request, Running, Shard
from broker.errors import ControlsChanged, Deposed
from broker.ledger.rows import attempt_of
from broker.simulate.ledger.seal_keys import seal_key_of
from broker.simulate.ledger.stored import RunningRow, WaitingRow
from broker.simulate.ledger.tables import Tables
from broker.simulate.ledger.transactions import Area, transaction
from schemas.job import Attempt, Lane
from schemas.units import Ms


class MemoryAttempts(Area):
    """Implements `broker.ports.AttemptLedger`."""

    @transaction
    def dispatch(
        self, picks: Sequence[Pick], *, term: int, controls: int, now: Ms, shard: Shard = ONLY_SHARD
    ) -> list[Attempt]:
        key = seal_key_of(self._tables)
        started = []
        if leads(self._tables, term, shard) and self._tables.control_version.now == controls:
            started = [row for pick in picks if (row := _start(self._tables, pick, now)) is not None]
        if not started:
            check_fences(self._tables, term=term, controls=controls, shard=shard)
        return [sealed(self._tables, row, key, now) for row in started]

    @transaction
    def running(self) -> list[Running]:
        return [
            Running(
                row.job,
                row.attempt,
                row.deployment,
                Flow(row.model, Lane(row.lane), row.tenant),
                row.tokens,
                row.ward,
            )
            for row in self._tables.running
        ]

    @transaction
    def overdue(self, before: Ms) -> list[UUID]:
        return [row.job for row in self._tables.running if row.deadline_ms < before]

    @transaction
    def attempts_of(self, running: Sequence[Running], *, now: Ms) -> list[Attempt]:
        key = seal_key_of(self._tables)
        rows = [self._tables.running.get(one.job) for one in running]
        return [
            sealed(self._tables, row, key, now)
            for one, row in zip(running, rows, strict=True)
            if row is not None and row.attempt == one.attempt
        ]

    @transaction
    def requests_of(self, jobs: Collection[UUID]) -> dict[UUID, Request]:
        tables = self._tables
        return {
            job: Request(row.model, row.endpoint, tables.bodies[job].body)
            for job in jobs
            if (row := tables.jobs.get(job)) is not None
        }


def _start(tables: Tables, pick: Pick, now: Ms) -> RunningRow | None:
    """Move a picked job from queued to running, if it waits where it was picked."""
    row = tables.waiting.get(pick.place.job)
    if row is None or not _stands_at(row, pick):
        return None
    tables.waiting.remove(row.job)
    started = RunningRow(
        job=row.job,
        attempt=row.attempt + 1,
        uncounted=row.uncounted,
        deployment=pick.deployment,
        dispatched_ms=now,
        deadline_ms=row.deadline_ms,
        model=row.model,
        lane=row.lane,
        tenant=row.tenant,
        tried=row.tried,
        tokens=row.tokens,
    )
    tables.running.insert(started)
    return started


def _stands_at(row: WaitingRow, pick: Pick) -> bool:
    flow, place = pick.flow, pick.place
    return (row.model, row.lane, row.tenant, row.rank, row.deadline_ms) == (
        flow.model,
        flow.lane,
        flow.tenant,
        place.rank,
        place.deadline_ms,
    )


def leads(tables: Tables, term: int, shard: Shard) -> bool:
    leader = tables.leader.get(shard)
    return leader is not None and leader.term == term


def check_fences(tables: Tables, *, term: int, controls: int | None, shard: Shard) -> None:
    """Check, once nothing was dispatched, whether it should have been. Raises: Deposed, ControlsChanged."""
    if not leads(tables, term, shard):
        raise Deposed(f"term {term} is over")
    if controls is not None and tables.control_version.now != controls:
        raise ControlsChanged(tables.control_version.now)


def sealed(tables: Tables, started: RunningRow, key: bytes, now: Ms) -> Attempt:
    """Return an attempt as it is published, sealed with the key."""
    job = tables.jobs[started.job]
    columns = {
        "job": job.id,
        "attempt": started.attempt,
        "tenant": job.tenant,
        "lane": job.lane,
        "model": job.model,
        "deployment": started.deployment,
        "endpoint": job.endpoint,
        "body": tables.bodies[job.id].body,
        "admitted_ms": job.admitted_ms,
        "deadline_ms": job.deadline_ms,
        "dispatched_ms": started.dispatched_ms,
        "traceparent": job.traceparent,
    }
    return attempt_of(columns, key, now)
