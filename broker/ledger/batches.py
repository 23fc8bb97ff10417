"""Batches and their results."""

from collections.abc import Sequence
from itertools import takewhile
from uuid import UUID

from msgspec.structs import replace

from broker.core.records import ReadPage
from broker.errors import Conflict
from broker.ledger.connection import Connection, Database
from broker.ledger.rows import AHEAD_MOST, Row, batch_of, json_text, result_of, with_ahead, with_retries
from broker.ledger.sql import query
from schemas.api import Batch, BatchCreate, BatchList, ResultPage, State
from schemas.units import Ms

PAGE_BYTES = 4 * 1024 * 1024
"""The most that a page of results holds, unless its first is larger: half a message."""
_CURSOR_DIGITS = 9
"""The most digits that Postgres's `int` always has room for."""


FAILURES_COUNTED = 100_000
"""How many failures of a batch are counted by kind at most: so many are read in some hundredths of a second."""


class PgBatches:
    """Implements `broker.ports.BatchLedger`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, ask: BatchCreate, tenant: str, now: Ms) -> Batch:
        async with self._database.connection() as connection:
            await connection.execute(
                query("create_batch"),
                ask.id,
                tenant,
                ask.lane,
                now,
                ask.deadline_ms,
                json_text(ask.metadata),
                ask.priority,
                ask.webhook,
                False,
            )
            found = await _find(connection, ask.id, tenant)
            if found is None:
                raise Conflict(f"the id {ask.id} is taken: make another")
            return found

    async def seal(self, batch: UUID, tenant: str, jobs: int, now: Ms) -> Batch | None:
        async with self._database.connection() as connection:
            await connection.execute(query("seal_batch"), batch, tenant, jobs, now)
            return await _find(connection, batch, tenant)

    async def find(self, batch: UUID, tenant: str) -> Batch | None:
        async with self._database.connection() as connection:
            row = await connection.fetchrow(query("batch"), batch, tenant)
            if row is None:
                return None
            found = with_retries(row, await connection.fetch(query("retries_of"), batch))
            if not found.counts.settled() and found.completed_ms is None:
                return with_ahead(found, await connection.fetchval(query("ahead_of_batch"), batch, AHEAD_MOST + 1))
            if found.counts.settled() == found.counts.succeeded:
                return found
            kinds = await connection.fetch(query("failure_kinds_of"), batch, FAILURES_COUNTED)
        return replace(found, failures={row["kind"]: row["jobs"] for row in kinds})

    async def page(self, tenant: str, ask: BatchList) -> tuple[Batch, ...]:
        statuses, metadata = list(ask.statuses), json_text(ask.metadata or None)
        async with self._database.connection() as connection:
            rows = await connection.fetch(
                query("batches"),
                tenant,
                ask.before,
                ask.limit,
                statuses,
                ask.lane,
                ask.since_ms,
                ask.until_ms,
                metadata,
            )
            return tuple(batch_of(row) for row in rows)

    async def results(
        self, batch: UUID, tenant: str, cursor: str | None, limit: int, *, own: bool = False, final: bool = False
    ) -> ResultPage | None:
        read = await self.read(batch, tenant, cursor, limit, own=own, final=final)
        return None if read is None else read.page

    async def read(
        self, batch: UUID, tenant: str, cursor: str | None, limit: int, *, own: bool = False, final: bool = False
    ) -> ReadPage | None:
        """Return `limit` results, or as many as fit into PAGE_BYTES."""
        read_to = parse_cursor(cursor)
        async with self._database.connection() as connection:
            asked = await _find(connection, batch, tenant)
            if asked is None:
                return None
            retries = [] if own else await connection.fetch(query("retries_of"), batch)
            found = await results_page(connection, batch, read_to, limit, retries=[row["id"] for row in retries])
            may_change = final and any(row["completed_ms"] is None for row in retries)
            rows = list(takewhile(has_succeeded, found)) if may_change else found
            if rows:
                read_to = rows[-1]["ordinal"]
                cursor = str(read_to)
            more: bool = await connection.fetchval(query("results_left"), batch, read_to)
        is_completed = asked.completed_ms is not None and not more
        is_completed = is_completed and all(row["completed_ms"] is not None for row in retries)
        more = more and len(rows) == len(found)
        page = ResultPage(tuple(result_of(row) for row in rows), cursor, completed=is_completed, more=more)
        return ReadPage(page, tuple(row["ordinal"] for row in rows))


async def results_page(
    connection: Connection, batch: UUID, after: int, limit: int, *, retries: Sequence[UUID]
) -> Sequence[Row]:
    """Read the results behind an ordinal, each that failed replaced by what these retries came to."""
    if not retries:
        return await connection.fetch(query("results"), batch, after, limit, PAGE_BYTES)
    return await connection.fetch(query("merged_results"), batch, after, limit, PAGE_BYTES, list(retries))


async def _find(connection: Connection, batch: UUID, tenant: str) -> Batch | None:
    row = await connection.fetchrow(query("batch"), batch, tenant)
    return None if row is None else batch_of(row)


def has_succeeded(row: Row) -> bool:
    return bool(row["state"] == State.SUCCEEDED)


def parse_cursor(cursor: str | None) -> int:
    """Read a cursor: the ordinal of the last result that was read, or 0."""
    if cursor is None:
        return 0
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) <= _CURSOR_DIGITS):
        raise ValueError(f"{cursor!r} is not a cursor of a page of results")
    return int(cursor)
