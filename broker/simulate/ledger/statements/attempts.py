"""Moves jobs from queued to running, by the fences of the leader and of the controls; and reads what runs."""

from collections.abc import Sequence
from uuid import UUID

from msgspec.structs import asdict

from broker.ledger.rows import suspicion_of
from broker.simulate.ledger.statements.named import Rows, statement
from broker.simulate.ledger.statements.reading import Columns
from broker.simulate.ledger.stored import DelayedRow, RunningRow, WaitingRow
from broker.simulate.ledger.table import ALL
from broker.simulate.ledger.tables import Tables

_RUNNING = frozenset(RunningRow.__struct_fields__)


@statement
def dispatch(
    t: Tables,
    models: Sequence[str],
    lanes: Sequence[str],
    tenants: Sequence[str],
    deadlines: Sequence[int],
    jobs: Sequence[UUID],
    deployments: Sequence[str],
    now: int,
    low: UUID,
    high: UUID,
    term: int,
    shard: int,
    controls: int,
    ranks: Sequence[int],
) -> Rows:
    del low, high
    if not _leads(t, term, shard) or t.control_version.now != controls:
        return []
    picked = []
    for model, lane, tenant, rank, deadline_ms, job, deployment in zip(
        models, lanes, tenants, ranks, deadlines, jobs, deployments, strict=True
    ):
        row = t.waiting.get(job)
        place = (model, lane, tenant, rank, deadline_ms)
        if row is not None and (row.model, row.lane, row.tenant, row.rank, row.deadline_ms) == place:
            picked.append((row, deployment))
    for job in {row.job: None for row, _ in picked}:
        t.waiting.remove(job)
    return [_start(t, row, deployment=deployment, now=now) for row, deployment in picked]


def _leads(t: Tables, term: int, shard: int) -> bool:
    leader = t.leader.get(shard)
    return leader is not None and leader.term == term


def _start(
    t: Tables, waited: WaitingRow | DelayedRow, *, deployment: str, now: int, ward: str | None = None
) -> Columns:
    """Insert the attempt of a job that waits no more. Return what is published of it."""
    kept = {name: value for name, value in asdict(waited).items() if name in _RUNNING and name != "attempt"}
    row = RunningRow(attempt=waited.attempt + 1, deployment=deployment, dispatched_ms=now, ward=ward, **kept)
    t.running.insert(row)
    return _published(t, row)


def _published(t: Tables, row: RunningRow) -> Columns:
    job = t.jobs[row.job]
    return {
        "job": job.id,
        "attempt": row.attempt,
        "tenant": job.tenant,
        "lane": job.lane,
        "model": job.model,
        "deployment": row.deployment,
        "endpoint": job.endpoint,
        "body": t.bodies[job.id].body,
        "admitted_ms": job.admitted_ms,
        "deadline_ms": job.deadline_ms,
        "dispatched_ms": row.dispatched_ms,
        "traceparent": job.traceparent,
    }


@statement
def fences(t: Tables, shard: int) -> Rows:
    row = t.leader.get(shard)
    return [] if row is None else [{"term": row.term, "controls": t.control_version.now}]


@statement
def running(t: Tables) -> Rows:
    names = ("job", "attempt", "deployment", "model", "lane", "tenant", "tokens", "ward")
    return [tuple(row[name] for name in names) for row in t.running]


@statement
def overdue(t: Tables, before: int) -> Rows:
    return [row for row in t.running if row.deadline_ms < before]


@statement
def attempts_of(t: Tables, jobs: Sequence[UUID], numbers: Sequence[int], low: UUID, high: UUID) -> Rows:
    del low, high
    rows = [(t.running.get(job), number) for job, number in zip(jobs, numbers, strict=True)]
    return [_published(t, row) for row, number in rows if row is not None and row.attempt == number]


@statement
def requests_of(t: Tables, jobs: Sequence[UUID], low: UUID, high: UUID) -> Rows:
    del low, high
    rows = [row for job in jobs if (row := t.jobs.get(job)) is not None]
    return [
        {"id": row.id, "model": row.model, "endpoint": row.endpoint, "body": t.bodies[row.id].body} for row in rows
    ]


@statement
def suspects(t: Tables, limit: int) -> Rows:
    rows = [t.delayed[job] for job in t.delayed_suspects.keys(ALL)]
    return [row for row in rows if not _is_held(t, row)][:limit]


def _is_held(t: Tables, row: DelayedRow) -> bool:
    """Say whether a job is paused or being cancelled."""
    names = [("model", row.model), ("lane", row.lane), ("tenant", row.tenant), ("batch", str(row.batch))]
    batch = None if row.batch is None else t.batches.get(row.batch)
    return any(name in t.pauses for name in names) or (batch is not None and batch.cancel_ms is not None)


@statement
def running_apart(t: Tables) -> Rows:
    return [row for row in t.running if row.ward is not None]


@statement
def dispatch_apart(
    t: Tables,
    jobs: Sequence[UUID],
    deployment: str,
    worker: str,
    now: int,
    term: int,
    shard: int,
    low: UUID,
    high: UUID,
) -> Rows:
    del low, high
    if not _leads(t, term, shard):
        return []
    waiting = [row for job in sorted(set(jobs)) if (row := t.delayed.get(job)) is not None]
    free = [row for row in waiting if row.suspicion is not None and row.deadline_ms > now and not _is_held(t, row)]
    return [_start(t, t.delayed.remove(row.job), deployment=deployment, now=now, ward=worker) for row in free]


@statement
def clear_suspects(t: Tables, groups: Sequence[UUID]) -> Rows:
    for job in t.delayed_suspects.keys(ALL):
        suspicion = suspicion_of(t.delayed[job])
        if suspicion is not None and suspicion.group in groups:
            t.delayed.change(job, suspicion=None, not_before_ms=0)
    return []


@statement
def hold_controls(t: Tables) -> Rows:
    """Nothing else runs meanwhile in any case."""
    del t
    return []
