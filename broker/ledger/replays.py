"""Replays: settled jobs that are run again, as the jobs of a new batch; and what both came to, side by side."""

from uuid import UUID

import msgspec

from broker.core.compare import Ended, compared, text_of
from broker.core.instructions import Carried, OpenInstruction
from broker.core.records import Audited
from broker.core.repeat import Edit, repeated
from broker.core.replay import SETTLED, chosen, target
from broker.errors import Conflict
from broker.ledger.audit import record
from broker.ledger.connection import Connection, Database
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
from broker.ledger.rows import Row, job_line_of
from broker.ledger.selection import select_jobs
from broker.ledger.sql import query
from schemas.api import State
from schemas.instructions import InstructionKind
from schemas.listing import JobFilter, JobPage
from schemas.outcome import Usage
from schemas.repeats import Given, Replay, ReplayDiff, ReplayDiffPage, Side
from schemas.units import Ms

PAIR_BYTES = 4 * 1024 * 1024
"""How many bytes of answers a page of pairs reads, unless the first pair alone has more."""
ESTIMATED = 5000
"""How many jobs one call estimates at most."""
_TEXT = 2000
"""How many characters of an answer a pair shows."""
_ask = msgspec.json.Decoder(Replay)


class PgReplays:
    """Implements `broker.ports.ReplayLedger`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def give(self, ask: Replay, tenant: str, by: Audited) -> Given:
        async with self._database.connection() as connection, connection.transaction():
            is_new = await record_instruction(
                connection, ask.id, InstructionKind.REPLAY, tenant=tenant, key=by.key, what=ask, now=by.at_ms
            )
            if is_new:
                deadline_ms = None if ask.deadline_in_ms is None else by.at_ms + ask.deadline_in_ms
                await create_batch(
                    connection, ask.id, tenant=tenant, lane=ask.lane, now=by.at_ms, deadline_ms=deadline_ms
                )
                await record(connection, by, "replay", {"batch": ask.id}, after=ask)
            given = await find_instruction(connection, ask.id, tenant)
            if given is None or given.kind is not InstructionKind.REPLAY:
                raise Conflict(f"the id {ask.id} is taken: make another")
            return Given(given, is_begun=True)

    async def select(self, wanted: JobFilter, jobs: tuple[UUID, ...], tenant: str, after: UUID | None) -> JobPage:
        async with self._database.connection() as connection:
            if jobs:
                return await _listed(connection, jobs, tenant, after, ESTIMATED)
            return await select_jobs(connection, tenant, wanted, limit=ESTIMATED, after=after, newest_first=False)

    async def differences(self, ask: ReplayDiff, tenant: str) -> ReplayDiffPage | None:
        """Raises: ValueError, for an invalid cursor."""
        read_to = 0 if ask.cursor is None else int(ask.cursor)
        async with self._database.connection() as connection:
            if await connection.fetchrow(query("batch"), ask.batch, tenant) is None:
                return None
            rows = await connection.fetch(query("replayed_pairs"), ask.batch, read_to, ask.limit, PAIR_BYTES)
        pairs = tuple(
            compared(
                None if row["o_id"] is None else _ended(row, "o"),
                _ended(row, "n"),
                custom_id=row["n_custom_id"],
                line=row["n_line"],
            )
            for row in rows
        )
        return ReplayDiffPage(pairs, str(rows[-1]["ordinal"]) if rows else None)


async def replay_page(connection: Connection, instruction: OpenInstruction, now: Ms) -> Carried:
    """Replay a page of the jobs that were chosen."""
    ask = _ask.decode(instruction.what)
    if (batch := await open_batch(connection, instruction)) is None:
        return CLOSED
    most = PAGE if ask.rate_per_s is None else max(1, min(PAGE, int(ask.rate_per_s)))
    after = None if instruction.cursor is None else UUID(instruction.cursor)
    if ask.jobs:
        page = await _listed(connection, ask.jobs, instruction.tenant, after, most)
    else:
        wanted = chosen(ask, instruction.made_ms)
        page = await select_jobs(connection, instruction.tenant, wanted, limit=most, after=after, newest_first=False)
    sources = await read_sources(connection, [job.id for job in page.jobs])
    is_cut = len(sources) < len(page.jobs)
    cursor = page.jobs[len(sources) - 1].id if is_cut else page.next
    context = await context_of(connection, instruction, batch, now)
    edit = Edit(patch=None if ask.patch is None else ask.patch.encode(), max_tokens=ask.max_tokens)
    repeats = []
    for source in [source for source in sources if source is not None]:
        admission = context(source.model)
        admission = context(target(ask, source.model, admission.catalog))
        entry = repeated(source, new_id(instruction, source.id), instruction.id, admission, edit)
        repeats.append(Repeat(entry, source.id))
    admitted = await record_repeats(connection, repeats)
    if cursor is None:
        await seal(connection, instruction, instruction.counts.get("replayed", 0) + len(repeats), now)
    wait_ms = 0 if ask.rate_per_s is None else int(len(repeats) * 1000 / ask.rate_per_s)
    counts = {"replayed": len(repeats), "gone": sum(source is None for source in sources)}
    return carried(admitted, cursor=str(cursor), is_last=cursor is None, counts=counts, not_before_ms=now + wait_ms)


async def _listed(
    connection: Connection, jobs: tuple[UUID, ...], tenant: str, after: UUID | None, limit: int
) -> JobPage:
    """Select a page of the settled ones of these jobs, the oldest first."""
    left = sorted(job for job in set(jobs) if after is None or job > after)
    if not (part := left[:limit]):
        return JobPage()
    rows = await connection.fetch(query("settled_jobs"), part, part[0], part[-1], tenant, list(SETTLED))
    return JobPage(jobs=tuple(job_line_of(row) for row in rows), next=part[-1] if len(left) > limit else None)


def _ended(row: Row, which: str) -> Ended:
    """Read one of the two jobs of a pair: the new one (`n`) or the old one (`o`)."""
    side = Side(
        job=row[f"{which}_id"],
        state=State(row[f"{which}_state"]),
        model=row[f"{which}_model"],
        deployment=row[f"{which}_deployment"],
        failure=row[f"{which}_failure"],
        usage=Usage(row[f"{which}_input"], row[f"{which}_output"], row[f"{which}_cached"]),
        cost_nano_usd=row[f"{which}_cost"],
        run_ms=row[f"{which}_run_ms"],
        text=text_of(row[f"{which}_body"])[:_TEXT],
    )
    return Ended(side=side, body=row[f"{which}_body"])
