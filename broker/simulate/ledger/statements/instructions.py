"""Orders over many jobs, and whose page is next."""

from collections.abc import Sequence
from uuid import UUID

from broker.simulate.ledger.statements.batches import ended_of
from broker.simulate.ledger.statements.named import Rows, statement
from broker.simulate.ledger.stored import BadLineRow, InstructionRow
from broker.simulate.ledger.tables import Tables


@statement
def record_instruction(
    t: Tables, instruction: UUID, kind: str, tenant: str, key: str, made_ms: int, what: str, next_ms: int
) -> Rows:
    row = InstructionRow(
        id=instruction, kind=kind, tenant=tenant, key=key, made_ms=made_ms, what=what, next_ms=next_ms
    )
    return [row] if t.instructions.add(row) else []


@statement
def instruction(t: Tables, instruction: UUID, tenant: str) -> Rows:
    row = t.instructions.get(instruction)
    return [] if row is None or row.tenant != tenant else [row]


@statement
def instructions(t: Tables, tenant: str, before: UUID | None, limit: int) -> Rows:
    ids = t.instructions_by_tenant.newest(tenant)
    return [t.instructions[id_] for id_ in ids if before is None or id_.int < before.int][:limit]


@statement
def next_instruction(t: Tables, kinds: Sequence[str]) -> Rows:
    due = [t.instructions[id_] for id_ in t.instructions_open.keys()]
    return [{"next_ms": row.next_ms} for row in due if row.kind in kinds][:1]


@statement
def claim_instruction(t: Tables, now: int, kinds: Sequence[str]) -> Rows:
    for id_ in t.instructions_open.keys():
        row = t.instructions[id_]
        if row.next_ms > now:
            break
        if row.kind in kinds and t.locks.is_free(("instructions", id_)):
            t.locks.take(("instructions", id_))
            return [row]
    return []


@statement
def move_instruction(
    t: Tables,
    instruction: UUID,
    cursor: str | None,
    counts: str | None,
    next_ms: int,
    ended_ms: int | None,
    failure: str | None,
) -> Rows:
    row = t.instructions.get(instruction)
    if row is None or row.ended_ms is not None:
        return []
    counts = row.counts if counts is None else counts
    return [
        t.instructions.change(
            instruction, cursor=cursor, counts=counts, next_ms=next_ms, ended_ms=ended_ms, failure=failure
        )
    ]


@statement
def start_instruction(t: Tables, instruction: UUID, now: int) -> Rows:
    row = t.instructions.get(instruction)
    if row is None or row.cursor is not None or row.ended_ms is not None:
        return []
    return [t.instructions.change(instruction, next_ms=now)]


@statement
def fail_expansion(t: Tables, batch: UUID, now: int, fault: str) -> Rows:
    of_file = t.file_batches.get(batch)
    if of_file is None or of_file.expanded_ms is not None or of_file.failed_ms is not None:
        return []
    checked_ms = now if of_file.checked_ms is None else of_file.checked_ms
    t.file_batches.change(batch, failed_ms=now, checked_ms=checked_ms, expanded_ms=now)
    t.bad_lines.add(BadLineRow(batch=batch, line=0, fault=fault))
    row = t.batches[batch]
    if row.sealed_ms is not None:
        return []
    completed_ms = now if row.admitted <= ended_of(row) else None
    return [t.batches.change(batch, sealed_ms=now, jobs=row.admitted, completed_ms=completed_ms)]
