"""Changes lane, deadline and priority of jobs that wait. What runs or has ended stays as it is."""

from collections.abc import Collection, Sequence
from uuid import UUID

import msgspec

from broker.core.admit import LONGEST_MS
from broker.core.change import merged
from broker.core.instructions import Carried, OpenInstruction
from broker.core.records import Audited, Flow, Place
from broker.errors import Conflict, Unavailable
from broker.ledger.audit import record
from broker.ledger.connection import Connection, Database
from broker.ledger.days import days_of
from broker.ledger.instructions import find_instruction, record_instruction
from broker.ledger.rows import Row, change_of, flow_of, json_text, place_of
from broker.ledger.selection import select_jobs
from broker.ledger.sql import query
from schemas.api import State
from schemas.changes import BatchChange, Change, JobChanged, JobTerms
from schemas.instructions import Instruction, InstructionKind
from schemas.job import Lane
from schemas.listing import JobFilter
from schemas.units import Ms

PAGE = 1000
_TRIES = 5
"""How often to look again for a job that was dispatched or put back meanwhile. A guess: once is rare."""
_ask = msgspec.json.Decoder(BatchChange)


class PgChanges:
    """Implements `broker.ports.ChangeLedger`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def change_job(
        self, job: UUID, tenant: str, change: Change, by: Audited
    ) -> tuple[JobChanged, tuple[tuple[Flow, Place], ...]] | State | None:
        async with self._database.connection() as connection:
            for _ in range(_TRIES):
                async with connection.transaction():
                    if rows := await _change(connection, [job], tenant, change):
                        changed = _changed(rows[0])
                        target = {"job": job}
                        await record(connection, by, "change", target, before=changed.before, after=changed.after)
                        return changed, _places(rows)
                row = await connection.fetchrow(query("job"), job, tenant)
                if row is None:
                    return None
                if row["state"] != "open":
                    return State(row["state"])
                if row["running_attempt"] is not None:
                    return State.RUNNING
                if change.deadline_ms is not None and change.deadline_ms > row["admitted_ms"] + LONGEST_MS:
                    return State.QUEUED
        raise Unavailable("the ledger", "the job starts and waits again faster than it can be changed: try again")

    async def give(self, ask: BatchChange, tenant: str, by: Audited) -> Instruction | None:
        async with self._database.connection() as connection, connection.transaction():
            batch = await connection.fetchrow(query("hold_batch"), ask.batch, tenant)
            if batch is None:
                return None
            is_new = await record_instruction(
                connection, ask.id, InstructionKind.CHANGE, tenant=tenant, key=by.key, what=ask, now=by.at_ms
            )
            if is_new:
                await _change_batch(connection, batch, ask, by)
            given = await find_instruction(connection, ask.id, tenant)
            if given is None or given.kind is not InstructionKind.CHANGE:
                raise Conflict(f"the id {ask.id} is taken: make another")
            return given


async def change_page(connection: Connection, instruction: OpenInstruction, _: Ms, *, page: int = PAGE) -> Carried:
    """Change a page of the jobs of a batch."""
    ask = _ask.decode(instruction.what)
    waiting = JobFilter(batch=ask.batch, states=(State.QUEUED,))
    after = None if instruction.cursor is None else UUID(instruction.cursor)
    found = await select_jobs(connection, instruction.tenant, waiting, limit=page, after=after, newest_first=False)
    rows = await _change(connection, [job.id for job in found.jobs], instruction.tenant, ask.change)
    counts = {"changed": len(rows), "left as they are": len(found.jobs) - len(rows)}
    return Carried(
        cursor=None if found.next is None else str(found.next),
        is_last=found.next is None,
        counts={name: count for name, count in counts.items() if count},
        waiting=_places(rows),
    )


async def _change_batch(connection: Connection, batch: Row, ask: BatchChange, by: Audited) -> None:
    """Change what holds for the batch's jobs that come later, and record who did."""
    change = ask.change
    kept = json_text(merged(change_of(batch), change))
    await connection.execute(
        query("change_batch"), batch["id"], batch["tenant"], kept, change.lane, change.deadline_ms, change.priority
    )
    before = Change(lane=Lane(batch["lane"]), deadline_ms=batch["deadline_ms"], priority=batch["priority"])
    await record(connection, by, "change", {"batch": ask.batch}, before=before, after=merged(before, change))


async def _change(connection: Connection, jobs: Collection[UUID], tenant: str, change: Change) -> Sequence[Row]:
    """Change those of the jobs that wait. Rows are locked in the order of the jobs."""
    if not jobs:
        return []
    ids = sorted(jobs)
    values = (change.lane, change.priority, change.deadline_ms, LONGEST_MS)
    return await connection.fetch(query("change_waiting"), ids, *days_of(ids), tenant, *values)


def _changed(row: Row) -> JobChanged:
    before = JobTerms(Lane(row["lane_before"]), row["deadline_before"], row["priority_before"])
    return JobChanged(row["job"], before, JobTerms(Lane(row["lane"]), row["deadline_ms"], row["priority"]))


def _places(rows: Collection[Row]) -> tuple[tuple[Flow, Place], ...]:
    """List where the jobs stand now that may start."""
    return tuple((flow_of(row), place_of(row)) for row in rows if not row["is_delayed"])
