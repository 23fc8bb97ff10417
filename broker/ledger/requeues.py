"""Requeues of dead jobs: they leave the dead letters, and run again as the jobs of a new batch."""

from uuid import UUID

import msgspec

from broker.core.instructions import Carried, OpenInstruction
from broker.core.records import Audited, RequeuedJobs
from broker.core.repeat import Edit, repeated
from broker.errors import Conflict
from broker.ledger.audit import record
from broker.ledger.connection import Connection
from broker.ledger.failures import take_dead_jobs
from broker.ledger.instructions import record_instruction
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
from schemas.instructions import InstructionKind
from schemas.units import Ms

_ask = msgspec.json.Decoder(RequeuedJobs)


async def give(connection: Connection, ask: RequeuedJobs, by: Audited, asked: object) -> None:
    """Give the instruction, with the batch of the new jobs, in one transaction. Raises: Conflict."""
    async with connection.transaction():
        is_new = await record_instruction(
            connection, ask.id, InstructionKind.REQUEUE, tenant=ask.tenant, key=by.key, what=ask, now=by.at_ms
        )
        if not is_new:
            raise Conflict(f"the id {ask.id} is taken: make another")
        await create_batch(connection, ask.id, tenant=ask.tenant, lane=ask.lane, now=by.at_ms)
        await record(connection, by, "requeue dead letters", asked, after={"jobs": len(ask.jobs)})


async def requeue_page(connection: Connection, instruction: OpenInstruction, now: Ms, *, page: int = PAGE) -> Carried:
    """Requeue a page of dead jobs. One that was requeued or dropped meanwhile is left out."""
    ask = _ask.decode(instruction.what)
    if (batch := await open_batch(connection, instruction)) is None:
        return CLOSED
    left = [job for job in sorted(ask.jobs) if instruction.cursor is None or job > UUID(instruction.cursor)]
    read = await read_sources(connection, left[:page])
    looked_at = left[: len(read)]
    claimed = await take_dead_jobs(connection, looked_at, instruction.tenant, now)
    sources = [source for source in read if source is not None and source.id in claimed]
    context = await context_of(connection, instruction, batch, now)
    edit = Edit(patch=None if ask.patch is None else ask.patch.encode(), max_tokens=ask.max_tokens)
    repeats = [
        Repeat(
            repeated(
                source, new_id(instruction, source.id), instruction.id, context(ask.model or source.model), edit
            ),
            source.id,
        )
        for source in sources
    ]
    admitted = await record_repeats(connection, repeats)
    is_last = len(looked_at) == len(left)
    if is_last:
        await seal(connection, instruction, instruction.counts.get("requeued", 0) + len(repeats), now)
    counts = {"requeued": len(repeats), "left out": len(looked_at) - len(repeats)}
    cursor = str(looked_at[-1]) if looked_at else str(instruction.cursor)
    return carried(admitted, cursor=cursor, is_last=is_last, counts=counts)
