"""Retries of what failed in a batch, as the jobs of a new one; and the results of both, merged.

A line is what has one place in the merged results: a job of the first batch, and all that repeated it. No line is in two
retries at a time: what has succeeded or is open in an earlier one is left out.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from uuid import UUID

import msgspec
from msgspec.structs import replace

from broker.core.instructions import Carried, OpenInstruction
from broker.core.records import Audited
from broker.core.repeat import Source, repeated
from broker.errors import Conflict
from broker.ledger.audit import record
from broker.ledger.connection import Connection, Database
from broker.ledger.failures import take_dead_jobs
from broker.ledger.instructions import find_instruction, record_instruction
from broker.ledger.repeats import (
    CLOSED,
    PAGE,
    Repeat,
    carried,
    context_of,
    create_batch,
    new_id,
    open_batch,
    read_sources,
    record_repeats,
    seal,
)
from broker.ledger.rows import Row, columns
from broker.ledger.sql import query
from schemas.instructions import InstructionKind
from schemas.repeats import BatchRetry, Given, RetryCheck, RetryChoice
from schemas.units import Ms

BODIES_WITHIN_MS = 3_600_000
"""How long bodies may take to come before the instruction is given up."""
_FIRST = UUID(int=0)
_ALL = 2**31 - 1
_ask = msgspec.json.Decoder(BatchRetry)


class PgRetries:
    """Implements `broker.ports.RetryLedger`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def not_retried(self, ask: RetryCheck, tenant: str) -> tuple[str, ...] | None:
        async with self._database.connection() as connection:
            if await connection.fetchrow(query("batch"), ask.batch, tenant) is None:
                return None
            return await _not_retried(connection, ask, ask.custom_ids)

    async def give(self, ask: BatchRetry, tenant: str, by: Audited, *, window: str | None = None) -> Given | None:
        async with self._database.connection() as connection, connection.transaction():
            batch = await connection.fetchrow(query("batch"), ask.batch, tenant)
            if batch is None:
                return None
            await _record(connection, ask, batch, by, window)
            given = await find_instruction(connection, ask.id, tenant)
            if given is None or given.kind is not InstructionKind.RETRY:
                raise Conflict(f"the id {ask.id} is taken: make another")
            if ask.bodies and not given.counts and given.ended_ms is None:
                rows = [(one.custom_id, one.body.encode(), one.model, one.endpoint) for one in ask.bodies]
                await connection.execute(query("put_bodies"), ask.id, *columns(rows, 4))
            is_begun = await _has_all_bodies(connection, ask)
            if is_begun and ask.fixed_bodies:
                await connection.execute(query("start_instruction"), ask.id, by.at_ms)
            return Given(given, is_begun)


async def _record(connection: Connection, ask: BatchRetry, batch: Row, by: Audited, window: str | None) -> None:
    """Record the instruction and its batch, unless the instruction is known. Raises: Conflict."""
    tenant, now = batch["tenant"], by.at_ms
    later = now + BODIES_WITHIN_MS if ask.fixed_bodies else 0
    what = replace(ask, bodies=())
    is_new = await record_instruction(
        connection, ask.id, InstructionKind.RETRY, tenant=tenant, key=by.key, what=what, now=now, not_before_ms=later
    )
    if is_new:
        deadline_ms = None if ask.deadline_in_ms is None else now + ask.deadline_in_ms
        await create_batch(
            connection,
            ask.id,
            tenant=tenant,
            lane=batch["lane"],
            now=now,
            deadline_ms=deadline_ms,
            metadata=batch["metadata"],
            retry_of=batch["id"],
            root=batch["root"] or batch["id"],
        )
        await connection.execute(query("create_file_retry"), ask.id, batch["id"], window, ask.model, now)
        await record(connection, by, "retry", {"batch": ask.batch}, after=what)


async def _has_all_bodies(connection: Connection, ask: BatchRetry) -> bool:
    if not ask.fixed_bodies:
        return True
    put: int = await connection.fetchval(query("bodies_put"), ask.id)
    return put >= ask.fixed_bodies


async def _not_retried(connection: Connection, ask: RetryChoice, names: Sequence[str]) -> tuple[str, ...]:
    choice = (list(ask.states), list(ask.kinds))
    rows = await connection.fetch(query("retryable"), ask.batch, _FIRST, _ALL, *choice, list(names))
    taken = {row["custom_id"] for row in rows if row["source"] is not None}
    return tuple(name for name in names if name not in taken)


async def retry_page(connection: Connection, instruction: OpenInstruction, now: Ms, *, page: int = PAGE) -> Carried:
    """Retry a page of the failures of a batch."""
    ask = _ask.decode(instruction.what)
    if (batch := await open_batch(connection, instruction)) is None:
        return CLOSED
    if not await _has_all_bodies(connection, ask):
        await seal(connection, instruction, 0, now)
        return Carried(is_last=True, failure="not all of its bodies came within an hour")
    await connection.execute(query("lock_retries"), str(batch["root"]))
    after = _FIRST if instruction.cursor is None else UUID(instruction.cursor)
    rows = await connection.fetch(query("retryable"), ask.batch, after, page, list(ask.states), list(ask.kinds), None)
    picked = {row["source"]: row for row in rows if row["source"] is not None}
    sources = await read_sources(connection, list(picked))
    is_cut = len(sources) < len(picked)
    place = list(picked.values())[len(sources) - 1]["job"] if is_cut else rows[-1]["job"] if rows else after
    is_last = not is_cut and len(rows) < page
    found = [source for source in sources if source is not None]
    took = Counter(picked[source.id]["state"] for source in found)
    await take_dead_jobs(connection, [source.id for source in found], instruction.tenant, now)
    fixed = await _fixed(connection, instruction, ask, found)
    context = await context_of(connection, instruction, batch, now)
    repeats = [
        Repeat(
            repeated(source, new_id(instruction, source.id), instruction.id, context(ask.model or source.model)),
            source.id,
            picked[source.id]["root"],
        )
        for source in (fixed.get(source.id, source) for source in found)
    ]
    admitted = await record_repeats(connection, repeats)
    if took:
        await connection.execute(query("take_over"), instruction.id, list(took), list(took.values()))
        await connection.execute(query("lines_retried"), instruction.id, len(repeats))
    if is_last:
        await connection.execute(query("drop_bodies"), instruction.id)
        await seal(connection, instruction, instruction.counts.get("retried", 0) + len(repeats), now)
    counts = {"retried": len(repeats), "with a fixed body": len(fixed)}
    return carried(admitted, cursor=str(place), is_last=is_last, counts=counts)


async def _fixed(
    connection: Connection, instruction: OpenInstruction, ask: BatchRetry, sources: Sequence[Source]
) -> Mapping[UUID, Source]:
    """Return those of the sources for which a body was sent, with it."""
    if not ask.fixed_bodies:
        return {}
    names = [source.custom_id for source in sources if source.custom_id is not None]
    rows = await connection.fetch(query("bodies_for"), instruction.id, names)
    fixed = {row["custom_id"]: row for row in rows}
    return {one.id: _with(one, fixed[one.custom_id]) for one in sources if one.custom_id in fixed}


def _with(source: Source, fixed: Row) -> Source:
    model, endpoint = fixed["model"] or source.model, fixed["endpoint"] or source.endpoint
    return replace(source, body=fixed["body"], model=model, endpoint=endpoint)
