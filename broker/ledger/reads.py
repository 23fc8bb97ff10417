"""What the API asks: batches, results, jobs, the catalog, the backlog."""

from uuid import UUID

from broker.errors import Conflict
from broker.ledger.connection import Connection
from broker.ledger.rows import AHEAD_MOST, Row, batch_of, execution_of, json_text, result_of, show_of
from broker.ledger.sql import query
from schemas.api import Batch, BatchCreate, JobShow, LaneBacklog, ResultPage
from schemas.catalog import Revision, parse
from schemas.ids import ms_of
from schemas.job import Lane
from schemas.units import Ms

PAGE_BYTES = 4 * 1024 * 1024
"""What a page of results holds, unless its first is larger: half a message."""
_CURSOR_DIGITS = 9
"""As many as an `int` of Postgres always has room for."""


async def create_batch(connection: Connection, ask: BatchCreate, tenant: str, now: Ms) -> Batch:
    """Raises: Conflict, when the id is another tenant's."""
    await connection.execute(
        query("create_batch"), ask.id, tenant, ask.lane, now, ask.deadline_ms, json_text(ask.metadata)
    )
    found = await batch(connection, ask.id, tenant)
    if found is None:
        raise Conflict(f"the id {ask.id} is taken: make another")
    return found


async def seal_batch(connection: Connection, batch_id: UUID, tenant: str, jobs: int, now: Ms) -> Batch | None:
    await connection.execute(query("seal_batch"), batch_id, tenant, jobs, now)
    return await batch(connection, batch_id, tenant)


async def batch(connection: Connection, batch_id: UUID, tenant: str) -> Batch | None:
    row = await connection.fetchrow(query("batch"), batch_id, tenant)
    return None if row is None else batch_of(row)


async def batches(connection: Connection, tenant: str, limit: int, before: UUID | None) -> tuple[Batch, ...]:
    rows = await connection.fetch(query("batches"), tenant, before, limit)
    return tuple(batch_of(row) for row in rows)


async def results(
    connection: Connection, batch_id: UUID, tenant: str, cursor: str | None, limit: int
) -> ResultPage | None:
    """`limit` results, or as many as fit into PAGE_BYTES. Raises: ValueError, for a cursor that is none."""
    read_to = _parse_cursor(cursor)
    asked = await batch(connection, batch_id, tenant)
    if asked is None:
        return None
    rows = await connection.fetch(query("results"), batch_id, read_to, limit, PAGE_BYTES)
    if rows:
        read_to = rows[-1]["ordinal"]
        cursor = str(read_to)
    more: bool = await connection.fetchval(query("results_left"), batch_id, read_to)
    is_completed = asked.completed_ms is not None and not more
    return ResultPage(tuple(result_of(row) for row in rows), cursor, completed=is_completed, more=more)


def _parse_cursor(cursor: str | None) -> int:
    """The ordinal of the last result that was read; 0: none was."""
    if cursor is None:
        return 0
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) <= _CURSOR_DIGITS):
        raise ValueError(f"{cursor!r} is not a cursor of a page of results")
    return int(cursor)


async def job(connection: Connection, job_id: UUID, tenant: str) -> JobShow | None:
    row = await connection.fetchrow(query("job"), job_id, tenant)
    if row is None:
        return None
    executions = await connection.fetch(query("executions_of"), job_id)
    ahead = await _ahead(connection, row) if row["waiting_attempt"] is not None else None
    return show_of(row, tuple(execution_of(execution) for execution in executions), ahead=ahead)


async def _ahead(connection: Connection, row: Row) -> int:
    """How many jobs of its flow come before a waiting one, as far as AHEAD_MOST and one more."""
    place = [row[name] for name in ("model", "lane", "tenant", "deadline_ms", "id")]
    ahead: int = await connection.fetchval(query("ahead"), *place, AHEAD_MOST + 1)
    return ahead


async def apply_catalog(connection: Connection, toml: str, by: str, now: Ms) -> Revision:
    """Raises: CatalogError, Conflict when another was applied at the same moment."""
    catalog = parse(toml)
    number = await connection.fetchval(query("apply_catalog"), now, by, toml)
    return Revision(number, now, catalog)


async def active_catalog(connection: Connection) -> tuple[Revision, str] | None:
    row = await connection.fetchrow(query("active_catalog"))
    if row is None:
        return None
    return Revision(row["number"], row["applied_ms"], parse(row["toml"])), row["toml"]


async def backlog(connection: Connection, now: Ms) -> list[LaneBacklog]:
    rows = await connection.fetch(query("backlog"))
    return [
        LaneBacklog(
            model=row["model"],
            lane=Lane(row["lane"]),
            waiting=row["waiting"],
            oldest_ms=Ms(max(0, now - ms_of(row["oldest"]))),
        )
        for row in rows
    ]
