"""Drops what is old, a page at a time. What others hold is left for the next time."""

from uuid import UUID

from broker.simulate.ledger.statements.dead_letters import TABLE
from broker.simulate.ledger.statements.named import Rows, statement
from broker.simulate.ledger.table import ALL
from broker.simulate.ledger.tables import Tables


@statement
def drop_old_messages(t: Tables, before: int, limit: int) -> Rows:
    old = [row for row in t.dead_letters if row.received_ms < before and t.locks.is_free((TABLE, row.id))]
    old.sort(key=lambda row: (row.received_ms, row.id.int))
    return [t.dead_letters.remove(row.id) for row in old[:limit]]


@statement
def drop_old_dead_jobs(t: Tables, before: int, now: int, limit: int) -> Rows:
    old = [job for job in t.failures_dead.keys() if t.failures[job].ended_ms < before]
    return [t.failures.change(job, dropped_ms=now) for job in old[:limit]]


@statement
def drop_orphaned_failures(t: Tables, limit: int) -> Rows:
    first = t.jobs_by_id.first()
    if first is None:
        return []
    _, job = first
    gone = t.failures_by_id.before(ALL, (job.int,))[::-1]
    return [t.failures.remove(id_) for id_ in gone[:limit]]


@statement
def drop_old_audit(t: Tables, first: UUID, limit: int) -> Rows:
    return [t.audit.remove(id_) for id_ in t.audit_by_id.before(ALL, (first.int,))[::-1][:limit]]


@statement
def drop_old_keys(t: Tables, first: UUID, limit: int) -> Rows:
    old = t.idempotency_by_age.before(ALL, (first.int,))[::-1]
    return [t.idempotency.remove(key) for key in old[:limit]]


@statement
def drop_late_bodies(t: Tables, limit: int) -> Rows:
    late = [
        (row.instruction, row.custom_id)
        for row in t.instruction_bodies
        if (of := t.instructions.get(row.instruction)) is None or of.ended_ms is not None
    ]
    late.sort(key=lambda key: (key[0].int, key[1]))
    return [t.instruction_bodies.remove(key) for key in late[:limit]]


@statement
def drop_old_instructions(t: Tables, before: int, limit: int) -> Rows:
    old = [row.id for row in t.instructions if row.ended_ms is not None and row.ended_ms < before]
    return [t.instructions.remove(id_) for id_ in sorted(old)[:limit]]


@statement
def drop_old_deliveries(t: Tables, before: int, limit: int) -> Rows:
    old = [
        row for row in t.deliveries if row.made_ms < before and (row.next_ms is None or row.webhook not in t.webhooks)
    ]
    old.sort(key=lambda row: (row.made_ms, row.id.int))
    return [t.deliveries.remove(row.id) for row in old[:limit]]


@statement
def drop_orphaned_replays(t: Tables, first: UUID, limit: int) -> Rows:
    gone = sorted(row.job for row in t.replays if row.job.int < first.int)
    return [t.replays.remove(job) for job in gone[:limit]]
