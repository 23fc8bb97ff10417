"""Starts attempts (queued → running), and reads those that run."""

from collections.abc import Collection, Sequence
from uuid import UUID

from broker.core.records import ONLY_SHARD, Flow, Pick, Request, Running, Shard
from broker.errors import ControlsChanged, Deposed
from broker.ledger.connection import Connection, Database
from broker.ledger.rows import attempt_of
from broker.ledger.seal_keys import PgSealKeys
from broker.ledger.sql import query
from schemas.job import Attempt, Lane
from schemas.units import Ms


class PgAttempts:
    """Implements `broker.ports.AttemptLedger`."""

    def __init__(self, database: Database, seal_keys: PgSealKeys) -> None:
        self._database = database
        self._seal_keys = seal_keys

    async def dispatch(
        self, picks: Sequence[Pick], *, term: int, controls: int, now: Ms, shard: Shard = ONLY_SHARD
    ) -> list[Attempt]:
        jobs = [pick.place.job for pick in picks]
        async with self._database.connection() as connection:
            key = await self._seal_keys.current(connection)
            rows = await connection.fetch(
                query("dispatch"),
                [pick.flow.model for pick in picks],
                [pick.flow.lane for pick in picks],
                [pick.flow.tenant for pick in picks],
                [pick.place.deadline_ms for pick in picks],
                jobs,
                [pick.deployment for pick in picks],
                now,
                min(jobs),
                max(jobs),
                term,
                shard,
                controls,
                [pick.place.rank for pick in picks],
            )
            if not rows:
                await check_fences(connection, term=term, controls=controls, shard=shard)
        return [attempt_of(row, key, now) for row in rows]

    async def running(self) -> list[Running]:
        async with self._database.connection() as connection:
            rows = await connection.fetch(query("running"))
        return [
            Running(job, attempt, deployment, Flow(model, Lane(lane), tenant), tokens, ward)
            for job, attempt, deployment, model, lane, tenant, tokens, ward in rows
        ]

    async def overdue(self, before: Ms) -> list[UUID]:
        async with self._database.connection() as connection:
            return [row["job"] for row in await connection.fetch(query("overdue"), before)]

    async def attempts_of(self, running: Sequence[Running], *, now: Ms) -> list[Attempt]:
        jobs, numbers = [one.job for one in running], [one.attempt for one in running]
        async with self._database.connection() as connection:
            key = await self._seal_keys.current(connection)
            rows = await connection.fetch(query("attempts_of"), jobs, numbers, min(jobs), max(jobs))
        return [attempt_of(row, key, now) for row in rows]

    async def requests_of(self, jobs: Collection[UUID]) -> dict[UUID, Request]:
        async with self._database.connection() as connection:
            rows = await connection.fetch(query("requests_of"), list(jobs), min(jobs), max(jobs))
        return {row["id"]: Request(row["model"], row["endpoint"], row["body"]) for row in rows}


async def check_fences(connection: Connection, *, term: int, controls: int | None, shard: Shard) -> None:
    """Check, once nothing was dispatched, whether it should have been. Raises: Deposed, ControlsChanged."""
    row = await connection.fetchrow(query("fences"), shard)
    if row is None or row["term"] != term:
        raise Deposed(f"term {term} is over")
    if controls is not None and row["controls"] != controls:
        raise ControlsChanged(row["controls"])
