"""Reads what waits, for the dispatch leader: the jobs of each flow, page by page, and those that wait for their time."""

from collections.abc import Collection, Sequence
from uuid import UUID

import asyncpg

from broker.core.records import Flow, Head, Place, WaitingJob
from broker.ledger.connection import Database
from broker.ledger.rows import flow_of, place_of
from broker.ledger.sql import query
from schemas.job import MOST_PRIORITY
from schemas.units import Ms

_BEGINNING = Place(-MOST_PRIORITY - 1, Ms(-1), UUID(int=0))


class PgBacklog:
    """Implements `broker.ports.BacklogLedger`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def heads(self) -> list[Head]:
        async with self._database.connection() as connection:
            rows = await connection.fetch(query("heads"))
        return [Head(flow_of(row), row["rank"], row["deadline_ms"]) for row in rows]

    async def page(self, flow: Flow, *, after: Place | None, limit: int) -> list[WaitingJob]:
        start = after or _BEGINNING
        async with self._database.connection() as connection:
            rows = await connection.fetch(
                query("waiting_page"),
                flow.model,
                flow.lane,
                flow.tenant,
                start.rank,
                start.deadline_ms,
                start.job,
                limit,
            )
        return _waiting_of(rows)

    async def page_past(
        self, flow: Flow, batches: Collection[UUID], *, after: Place | None, now: Ms, limit: int
    ) -> list[WaitingJob]:
        start = after or _BEGINNING
        place = (flow.model, flow.lane, flow.tenant, start.rank, start.deadline_ms, start.job)
        async with self._database.connection() as connection:
            rows = await connection.fetch(query("waiting_page_past"), *place, limit, list(batches), now)
        return _waiting_of(rows)

    async def move_due(self, now: Ms, *, limit: int) -> list[tuple[Flow, Place]]:
        async with self._database.connection() as connection:
            rows = await connection.fetch(query("move_due"), now, limit)
        return [(flow_of(row), place_of(row)) for row in rows]

    async def next_due(self) -> Ms | None:
        async with self._database.connection() as connection:
            due: Ms | None = await connection.fetchval(query("next_due"))
        return due


def _waiting_of(rows: Sequence[asyncpg.Record]) -> list[WaitingJob]:
    return [
        WaitingJob(Place(rank, deadline, job), attempt, tuple(tried or ()), tokens, batch)
        for rank, deadline, job, attempt, tried, tokens, batch in rows
    ]
