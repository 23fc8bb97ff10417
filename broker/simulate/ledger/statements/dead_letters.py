"""Messages that are no jobs, and jobs that ended as dead."""

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from broker.simulate.ledger.statements.named import Rows, statement
from broker.simulate.ledger.statements.reading import Columns, columns_of, is_any
from broker.simulate.ledger.stored import DeadLetterRow, FailureRow
from broker.simulate.ledger.table import ALL
from broker.simulate.ledger.tables import Tables

TABLE = "dead_letters"
"""What the rows of messages are held by."""


class _Dead(Protocol):
    @property
    def tenant(self) -> str | None: ...

    @property
    def model(self) -> str | None: ...


def _fits(
    row: _Dead,
    cause: str,
    at_ms: int,
    bounds: tuple[str | None, Sequence[str], str | None, int | None, int | None],
) -> bool:
    tenant, causes, model, since_ms, until_ms = bounds
    return (
        (tenant is None or row.tenant == tenant)
        and is_any(cause, causes)
        and (model is None or row.model == model)
        and (since_ms is None or at_ms >= since_ms)
        and (until_ms is None or at_ms < until_ms)
    )


@statement
def record_dead_letters(t: Tables, *columns: Sequence[object]) -> Rows:
    names = (
        "id", "stream", "sequence", "received_ms", "subject", "cause", "reason", "tenant", "model", "headers", "payload",
    )  # fmt: skip
    for values in zip(*columns, strict=True):
        t.dead_letters.add(DeadLetterRow(**dict(zip(names, values, strict=True))))
    return []


@statement
def count_dead_jobs(
    t: Tables,
    tenant: str | None,
    causes: Sequence[str],
    model: str | None,
    since_ms: int | None,
    until_ms: int | None,
    batch: UUID | None,
) -> Rows:
    bounds = (tenant, causes, model, since_ms, until_ms)
    dead = [t.failures[job] for job in t.failures_dead.keys()]
    return _counted(
        [
            (row.kind, row.model, row.ended_ms, row.job)
            for row in dead
            if _fits(row, row.kind, row.ended_ms, bounds) and (batch is None or row.batch == batch)
        ]
    )


@statement
def count_dead_messages(
    t: Tables,
    tenant: str | None,
    causes: Sequence[str],
    model: str | None,
    since_ms: int | None,
    until_ms: int | None,
) -> Rows:
    bounds = (tenant, causes, model, since_ms, until_ms)
    return _counted(
        [
            (row.cause, row.model, row.received_ms, row.id)
            for row in map(t.dead_letters.__getitem__, t.dead_letters_by_id.keys())
            if row.requeued_ms is None and _fits(row, row.cause, row.received_ms, bounds)
        ]
    )


def _counted(dead: Sequence[tuple[str, str | None, int, UUID]]) -> Rows:
    """Count by cause and model. `dead` is in the order of the ids."""
    groups: dict[tuple[str, str | None], list[tuple[int, UUID]]] = {}
    for cause, model, at_ms, id_ in dead:
        groups.setdefault((cause, model), []).append((at_ms, id_))
    return [
        {
            "cause": cause,
            "model": model,
            "count": len(found),
            "first_ms": min(at_ms for at_ms, _ in found),
            "last_ms": max(at_ms for at_ms, _ in found),
            "newest": found[-1][1],
        }
        for (cause, model), found in groups.items()
    ]


@statement
def dead_jobs(
    t: Tables,
    tenant: str | None,
    causes: Sequence[str],
    model: str | None,
    since_ms: int | None,
    until_ms: int | None,
    before: UUID | None,
    ids: Sequence[UUID] | None,
    batch: UUID | None,
    limit: int,
) -> Rows:
    bounds = (tenant, causes, model, since_ms, until_ms)
    dead = t.failures_dead.newest() if before is None else t.failures_dead.before(ALL, (before.int,))
    found = [
        row
        for row in map(t.failures.__getitem__, dead)
        if _fits(row, row.kind, row.ended_ms, bounds)
        and (ids is None or row.job in ids)
        and (batch is None or row.batch == batch)
    ]
    return [line for row in found[:limit] if (line := _dead_job(t, row)) is not None]


def _dead_job(t: Tables, failure: FailureRow) -> Columns | None:
    job, body = t.jobs.get(failure.job), t.bodies.get(failure.job)
    if job is None:
        return None
    return {
        "id": failure.job,
        "cause": failure.kind,
        "ended_ms": failure.ended_ms,
        "tenant": failure.tenant,
        "model": failure.model,
        "batch": failure.batch,
        "failure": job.failure,
        "attempts": job.attempts,
        "custom_id": job.custom_id,
        "size_bytes": None if body is None else len(body.body),
    }


@statement
def dead_messages(
    t: Tables,
    tenant: str | None,
    causes: Sequence[str],
    model: str | None,
    since_ms: int | None,
    until_ms: int | None,
    before: UUID | None,
    ids: Sequence[UUID] | None,
    limit: int,
) -> Rows:
    bounds = (tenant, causes, model, since_ms, until_ms)
    newest = t.dead_letters_by_id.newest() if before is None else t.dead_letters_by_id.before(ALL, (before.int,))
    found = [
        columns_of(row) | {"size_bytes": len(row.payload)}
        for row in map(t.dead_letters.__getitem__, newest)
        if row.requeued_ms is None
        and _fits(row, row.cause, row.received_ms, bounds)
        and (ids is None or row.id in ids)
    ]
    return found[:limit]


@statement
def dead_job_piece(t: Tables, job: UUID, offset: int, length: int) -> Rows:
    row = t.bodies.get(job)
    return [] if row is None else [{"piece": row.body[offset : offset + length]}]


@statement
def dead_message_piece(t: Tables, message: UUID, offset: int, length: int) -> Rows:
    row = t.dead_letters.get(message)
    return [] if row is None else [{"headers": row.headers, "piece": row.payload[offset : offset + length]}]


@statement
def hold_dead_messages(t: Tables, messages: Sequence[UUID]) -> Rows:
    return _held(t, messages)


def _held(t: Tables, messages: Sequence[UUID]) -> list[DeadLetterRow]:
    """Hold those of the messages that were not requeued."""
    found = [row for id_ in sorted(set(messages)) if (row := t.dead_letters.get(id_)) is not None]
    held = [row for row in found if row.requeued_ms is None]
    for row in held:
        t.locks.take((TABLE, row.id))
    return held


@statement
def mark_requeued(t: Tables, messages: Sequence[UUID], now: int) -> Rows:
    return [t.dead_letters.change(row.id, requeued_ms=now) for row in _held(t, messages)]


@statement
def drop_dead_messages(t: Tables, messages: Sequence[UUID]) -> Rows:
    return [t.dead_letters.remove(row.id) for row in _held(t, messages)]


@statement
def drop_dead_jobs(t: Tables, jobs: Sequence[UUID], now: int) -> Rows:
    return [t.failures.change(row.job, dropped_ms=now) for row in _dead(t, jobs)]


@statement
def claim_dead_jobs(t: Tables, jobs: Sequence[UUID], now: int, tenant: str) -> Rows:
    return [t.failures.change(row.job, dropped_ms=now) for row in _dead(t, jobs) if row.tenant == tenant]


def _dead(t: Tables, jobs: Sequence[UUID]) -> list[FailureRow]:
    """Return those of the jobs that are dead letters, in the order of their ids."""
    found = [row for job in sorted(set(jobs)) if (row := t.failures.get(job)) is not None]
    return [row for row in found if row.state == "dead" and row.dropped_ms is None]
