"""Batches whose jobs are the lines of a file: an instruction makes them, a page at a time.

All lines are checked before any becomes a job. The cursor moves in the transaction that makes the jobs, so each line is a
job once, whichever broker is killed when.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from io import BytesIO
from uuid import UUID

import msgspec
from msgspec.structs import replace

from broker.batch_file import LINE_BYTES, Line, name_mark, read_part, refusal, said_before
from broker.core.admit import AdmissionContext, admit
from broker.core.batch_output import SUCCESS_BYTES, bad_line_of, is_output, line_of
from broker.core.file_lines import PAGE_BYTES, PAGE_LINES, Cursor, Page, cut
from broker.core.files import spans
from broker.core.instructions import Carried, OpenInstruction
from broker.core.openai_batch import OUTPUT
from broker.core.records import ANY_ENDPOINT, Audited, BadLine, BatchFiles, Entry, FileBatch, FileBatchState, ReadPage
from broker.errors import BadData, Conflict, Unavailable
from broker.ledger.batches import results_page
from broker.ledger.connection import Connection, Database
from broker.ledger.files import find_file
from broker.ledger.instructions import Step, record_instruction
from broker.ledger.intake import record_entries
from broker.ledger.repeats import CLOSED, carried, context_of, open_batch, seal
from broker.ledger.rows import Row, columns, json_text, result_of, with_retries
from broker.ledger.sql import query
from broker.ports import BlobStores
from schemas.api import ResultPage
from schemas.files import Fault, File
from schemas.instructions import InstructionKind
from schemas.units import Ms

log = logging.getLogger(__name__)
_AWAY_MS = 5000
"""After which the content of a file is looked for again, if its store is away. A guess."""
_READ_S = 15.0
"""How long reading a page of a file may take: shorter than the time after which a page loses its hold."""


class PgFileBatches:
    """Implements `broker.ports.FileBatchLedger`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, batch: FileBatch, metadata: dict[str, str], tenant: str, by: Audited) -> File | None:
        now = by.at_ms
        async with self._database.connection() as connection, connection.transaction():
            file = await find_file(connection, batch.file, tenant, now)
            if file is None:
                return None
            row = (
                batch.id,
                tenant,
                batch.lane,
                now,
                batch.deadline_ms,
                json_text(metadata),
                batch.priority,
                batch.webhook,
                True,
            )
            if await connection.execute(query("create_batch"), *row) != "INSERT 0 1":
                raise Conflict(f"the id {batch.id} is taken: make another")
            of_file = (batch.id, batch.file, batch.endpoint, batch.window, batch.skips_bad, batch.files_last_ms)
            await connection.execute(query("create_file_batch"), *of_file)
            await record_instruction(
                connection, batch.id, InstructionKind.EXPAND, tenant=tenant, key=by.key, what=batch, now=now
            )
        return file

    async def find(self, batch: UUID, tenant: str) -> FileBatchState | None:
        async with self._database.connection() as connection:
            states = await _states(connection, await connection.fetch(query("file_batches"), tenant, None, batch, 1))
        return states[0] if states else None

    async def page(self, tenant: str, *, limit: int, before: UUID | None) -> list[FileBatchState]:
        async with self._database.connection() as connection:
            rows = await connection.fetch(query("file_batches"), tenant, before, None, limit)
            return await _states(connection, rows)

    async def bad_lines(self, batch: UUID, *, after: int, limit: int) -> list[BadLine]:
        async with self._database.connection() as connection:
            rows = await connection.fetch(query("bad_lines"), batch, after, limit)
        return [_bad_line.decode(row["fault"]) for row in rows]

    async def delete_file(self, batch: UUID, tenant: str, which: str, now: Ms) -> bool:
        async with self._database.connection() as connection:
            found = await connection.fetchval(query("delete_batch_file"), batch, tenant, which == OUTPUT, now)
        return found is not None

    async def results(self, state: FileBatchState, *, after: int, limit: int) -> ReadPage:
        async with self._database.connection() as connection:
            rows = await results_page(connection, state.batch.id, after, limit, retries=state.retries)
        ordinals = tuple(row["ordinal"] for row in rows)
        cursor = str(ordinals[-1] if ordinals else after)
        return ReadPage(ResultPage(tuple(result_of(row) for row in rows), cursor, completed=not rows), ordinals)

    async def sizes(self, state: FileBatchState) -> tuple[int, int]:
        batch, retries = state.batch.id, len(state.retries)
        async with self._database.connection() as connection:
            kept = await connection.fetchrow(query("kept_sizes"), batch, retries)
            if kept is not None:
                return kept["output_bytes"], kept["error_bytes"]
            async with connection.transaction(isolation="repeatable_read"):
                output, errors = await _sizes(connection, batch, state.retries)
            await connection.execute(query("keep_sizes"), batch, output, errors, retries)
        return output, errors


async def _sizes(connection: Connection, batch: UUID, retries: Sequence[UUID]) -> tuple[int, int]:
    output: int = await connection.fetchval(query("success_bytes"), batch, SUCCESS_BYTES)
    errors, read_to, last = 0, 0, -1
    name, more = ("other_merged_results", [list(retries)]) if retries else ("other_results", [])
    while rows := await connection.fetch(query(name), batch, read_to, _READ, *more):
        read_to = rows[-1]["ordinal"]
        for result in map(result_of, rows):
            size = len(line_of(result))
            output, errors = (output + size, errors) if is_output(result) else (output, errors + size)
    while rows := await connection.fetch(query("bad_lines"), batch, last, _READ):
        last = rows[-1]["line"]
        errors += sum(len(bad_line_of(_bad_line.decode(row["fault"]), batch)) for row in rows)
    return output, errors


_READ = 1000
"""How many rows are read at once."""
_bad_line = msgspec.json.Decoder(BadLine)


async def _states(connection: Connection, rows: Sequence[Row]) -> list[FileBatchState]:
    found = await connection.fetch(query("retries_of_all"), [row["id"] for row in rows])
    retries: defaultdict[UUID, list[Row]] = defaultdict(list)
    for retry in found:
        retries[retry["root"]].append(retry)
    return [_state_of(row, retries[row["id"]]) for row in rows]


def _state_of(row: Row, retries: Sequence[Row]) -> FileBatchState:
    names = (
        "file",
        "endpoint",
        "window",
        "skips_bad",
        "lines",
        "bad",
        "checked_ms",
        "expanded_ms",
        "failed_ms",
        "model",
    )
    files = BatchFiles(row["files_last_ms"], row["output_deleted_ms"], row["errors_deleted_ms"])
    ends = [one["completed_ms"] for one in (row, *retries)]
    return FileBatchState(
        batch=with_retries(row, retries),
        files=files,
        retries=tuple(one["id"] for one in retries if one["completed_ms"] is not None),
        ended_ms=None if None in ends else max(ends),
        **{name: row[name] for name in names},
    )


def expanding(stores: BlobStores) -> Step:
    """Return what does a page of an expansion, with the content of files in `stores`."""
    return partial(expand_page, stores)


async def expand_page(stores: BlobStores, connection: Connection, instruction: OpenInstruction, now: Ms) -> Carried:
    """Check a page of lines, or make them jobs. While the store is away, wait, but not beyond the batch's deadline."""
    ask = _ask.decode(instruction.what)
    cursor = Cursor.read(instruction.cursor)
    batch = await open_batch(connection, instruction)
    if batch is None:
        so_far = (instruction.counts.get(name, 0) for name in ("lines", "bad"))
        await connection.execute(query("lines_expanded"), instruction.id, now, *so_far)
        await connection.execute(query("forget_line_names"), instruction.id)
        return CLOSED
    try:
        page = await _read(stores, connection, ask.file, cursor)
    except (Unavailable, TimeoutError) as error:
        if now >= ask.deadline_ms:
            raise BadData(f"the content of the file {ask.file} could not be read until its deadline") from error
        log.warning(
            "a batch waits for the content of its file batch=%s file=%s error=%s", batch["id"], ask.file, error
        )
        return Carried(cursor=instruction.cursor, not_before_ms=Ms(now + _AWAY_MS))
    context = await context_of(connection, instruction, batch, now)
    items = _items(page, instruction.id, cursor, ask.model)
    if cursor.phase == "check":
        checked = [_checked(item, ask.endpoint, context) for item in items]
        models = cursor.asking(one.model for one in checked if isinstance(one, Line)).models
        return await _check(connection, instruction, Checked(checked, models), page.next, now)
    bad = await _bad_lines(connection, instruction.id, cursor)
    lines = [one for one in items if isinstance(one, Line) and one.number not in bad]
    entries = [admit(line.job, context(line.model)) for line in lines]
    return await _submit(connection, instruction, entries, page.next, now)


_ask = msgspec.json.Decoder(FileBatch)


class Checked(msgspec.Struct, frozen=True):
    """The lines of a page, and the models that the file asks so far."""

    items: Sequence[Line | Fault]
    models: tuple[str, ...]

    @property
    def model(self) -> str | None:
        """The only one. None: there are several, or none."""
        return self.models[0] if len(self.models) == 1 else None


async def _read(stores: BlobStores, connection: Connection, file: UUID, cursor: Cursor) -> Page:
    """Read the page at a cursor. Raises: Unavailable, TimeoutError; Conflict, if the file is gone."""
    row = await connection.fetchrow(query("stored_in"), file)
    if row is None:
        raise Conflict(f"the file {file} is gone")
    data, end = b"", min(row["bytes"], cursor.offset + PAGE_BYTES)
    async with asyncio.timeout(_READ_S):
        blobs = await stores.of(row["store"])
        for span in spans(cursor.offset, end):
            piece = await blobs.get(file, span.number)
            if piece is None:
                raise Unavailable("the store of files", f"piece {span.number} of the file {file} is not there")
            data += piece[span.begin : span.end]
    return cut(cursor, data, is_end=end == row["bytes"])


async def _check(
    connection: Connection,
    instruction: OpenInstruction,
    checked: "Checked",
    following: Cursor | None,
    now: Ms,
) -> Carried:
    """Record which lines of a page cannot run. At the end of the file decide whether the others do."""
    batch = instruction.id
    again = await _named_before(connection, batch, [one for one in checked.items if isinstance(one, Line)])
    faults = [one for one in checked.items if isinstance(one, Fault)] + again
    await _record(connection, batch, faults)
    counts = {"lines": len(checked.items), "bad": len(faults)}
    if following is not None and not any(fault.number == 0 for fault in faults):
        return Carried(cursor=replace(following, models=checked.models).text(), counts=counts)
    lines, bad = (instruction.counts.get(name, 0) + counts[name] for name in ("lines", "bad"))
    if lines == 0:
        await _record(connection, batch, [Fault(0, "empty_file", "there is no request in it")])
    await connection.execute(query("forget_line_names"), batch)
    runs: bool = await connection.fetchval(query("lines_checked"), batch, lines, bad, now, checked.model)
    if not runs:
        await seal(connection, instruction, 0, now)
        return Carried(is_last=True, counts=counts)
    return Carried(cursor=Cursor(phase="submit").text(), counts=counts)


async def _submit(
    connection: Connection, instruction: OpenInstruction, entries: Sequence[Entry], following: Cursor | None, now: Ms
) -> Carried:
    """Make the good lines of a page jobs."""
    admitted = await record_entries(connection, entries)
    if following is None:
        await connection.execute(query("lines_expanded"), instruction.id, now, 0, 0)
        await seal(connection, instruction, instruction.counts.get("made", 0) + len(entries), now)
    cursor = "" if following is None else following.text()
    return carried(admitted, cursor=cursor, is_last=following is None, counts={"made": len(entries)})


async def _bad_lines(connection: Connection, batch: UUID, cursor: Cursor) -> set[int]:
    rows = await connection.fetch(query("bad_lines_of"), batch, cursor.line, cursor.line + PAGE_LINES)
    return {row["line"] for row in rows}


def _items(page: Page, batch: UUID, cursor: Cursor, model: str | None) -> Iterator[Line | Fault]:
    """Read the lines of a page."""
    if not page.too_long:
        yield from read_part(BytesIO(page.data), model=model, batch=batch, first=cursor.line)
        return
    message = f"the line is longer than {len(page.data)} bytes, the limit is {LINE_BYTES}"
    yield Fault(cursor.line, "line_too_large", message, None, LINE_BYTES)


def _checked(item: Line | Fault, endpoint: str, context: Callable[[str], AdmissionContext]) -> Line | Fault:
    """Turn a line that would be refused into a fault."""
    if isinstance(item, Fault):
        return item
    if endpoint not in (ANY_ENDPOINT, item.job.endpoint):
        message = f"{item.job.endpoint} is not the endpoint of the batch, {endpoint}"
        return Fault(item.number, "mismatched_url", message, "url", custom_id=item.job.custom_id)
    return refusal(item, context(item.model)) or item


async def _named_before(connection: Connection, batch: UUID, lines: Sequence[Line]) -> list[Fault]:
    """Find the lines whose custom id is one of a page before."""
    named = [(name_mark(line.job.custom_id or ""), line.number) for line in lines]
    rows = await connection.fetch(query("name_lines"), batch, *columns(named, 2))
    new = {row["line"] for row in rows}
    names = {line.number: line.job.custom_id or "" for line in lines if line.number not in new}
    return [
        Fault(number, "duplicate_custom_id", said_before(name), "custom_id", custom_id=name)
        for number, name in names.items()
    ]


async def _record(connection: Connection, batch: UUID, faults: Sequence[Fault]) -> None:
    rows = [(fault.number, json_text(fault)) for fault in faults]
    if rows:
        await connection.execute(query("record_bad_lines"), batch, *columns(rows, 2))
