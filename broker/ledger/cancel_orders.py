"""Cancels many jobs by an instruction, a page at a time. Nothing that it names starts once it is given (`core.controls`)."""

from uuid import UUID

import msgspec

from broker.core.instructions import Carried, OpenInstruction
from broker.core.records import Audited
from broker.errors import Conflict
from broker.ledger import audit, controls
from broker.ledger.cancels import cancel_waiting, mark
from broker.ledger.connection import Connection, Database
from broker.ledger.instructions import find_instruction, record_instruction
from broker.ledger.selection import select_jobs
from schemas.api import State
from schemas.cancel import CancelChoice, CancelCount
from schemas.instructions import Instruction, InstructionKind
from schemas.listing import JobFilter, JobPage
from schemas.units import Ms

PAGE = 1000
REST_MS = Ms(300)
"""Between two pages that ended jobs, so that others' transactions go on. A page takes about 0.1 s."""
_COUNTED = 50
"""How many pages a count reads at most."""
_choice = msgspec.json.Decoder(CancelChoice)


class PgCancelOrders:
    """Implements `broker.ports.CancelOrderLedger`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def give(self, instruction: UUID, choice: CancelChoice, by: Audited) -> Instruction:
        assert choice.tenant is not None  # noqa: S101 - the service names it
        async with self._database.connection() as connection, connection.transaction():
            await controls.changed(connection)
            is_new = await record_instruction(
                connection,
                instruction,
                InstructionKind.CANCEL,
                tenant=choice.tenant,
                key=by.key,
                what=choice,
                now=by.at_ms,
            )
            if is_new:
                await audit.record(connection, by, "cancel", choice)
            given = await find_instruction(connection, instruction, choice.tenant)
            if given is None or given.kind is not InstructionKind.CANCEL:
                raise Conflict(f"the id {instruction} is taken: make another")
        return given

    async def count(self, choice: CancelChoice) -> CancelCount:
        counts = dict.fromkeys((State.QUEUED, State.RUNNING), 0)
        after: UUID | None = None
        async with self._database.connection() as connection:
            for _ in range(_COUNTED):
                page = await _page(connection, choice, after, limit=PAGE)
                for job in page.jobs:
                    counts[job.state] += 1
                after = page.next
                if after is None:
                    break
        return CancelCount(counts[State.QUEUED], counts[State.RUNNING], more=after is not None)


async def cancel_page(
    connection: Connection, instruction: OpenInstruction, now: Ms, *, page: int = PAGE, rest_ms: Ms = REST_MS
) -> Carried:
    """End a page of what waits, and mark what runs of it. After the last page it begins again, until one way through the
    jobs finds nothing: a job may start or be put back while its page is read.
    """
    choice = _choice.decode(instruction.what)
    after, found_before = _cursor_of(instruction.cursor)
    read = await _page(connection, choice, after, limit=page)
    jobs = {job.id for job in read.jobs}
    marked = await mark(connection, jobs, instruction.tenant, now) if choice.takes(State.RUNNING) else []
    new = [row for row in marked if row["is_new"]]
    left = jobs - {row["job"] for row in marked}
    ended = await cancel_waiting(connection, left, now=now) if left and choice.takes(State.QUEUED) else []
    found = found_before + len(ended) + len(new)
    is_through = read.next is None
    return Carried(
        cursor=f"{0 if is_through else found} {read.next or ''}",
        is_last=is_through and found == 0,
        counts={"cancelled": len(ended), "stopping": len(new)},
        ended=tuple(ended),
        not_before_ms=Ms(now + rest_ms) if ended or (is_through and found) else Ms(0),
    )


async def _page(connection: Connection, choice: CancelChoice, after: UUID | None, *, limit: int) -> JobPage:
    """Read the jobs that wait or run, the oldest first. Jobs that end are left out, so a page may be short."""
    wanted = JobFilter(
        states=choice.states or (State.QUEUED, State.RUNNING),
        model=choice.model,
        lane=choice.lane,
        batch=choice.batch,
        since_ms=choice.since_ms,
        until_ms=choice.until_ms,
    )
    return await select_jobs(connection, choice.tenant, wanted, limit=limit, after=after, newest_first=False)


def _cursor_of(cursor: str | None) -> tuple[UUID | None, int]:
    """Read where the next page begins, and how many jobs were found since the beginning of this way through them."""
    if cursor is None:
        return None, 0
    found, _, after = cursor.partition(" ")
    return (UUID(after) if after else None), int(found)
