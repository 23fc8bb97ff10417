"""Keeps the suspected jobs: those that wait for a run apart, and those that run apart on a worker."""

from collections.abc import Collection
from uuid import UUID

import msgspec

from broker.core.records import ONLY_SHARD, Shard
from broker.core.suspects import RunningApart, Turn, WaitingSuspect
from broker.ledger.attempts import check_fences
from broker.ledger.connection import Database
from broker.ledger.rows import attempt_of, suspicion_of
from broker.ledger.seal_keys import PgSealKeys
from broker.ledger.sql import query
from schemas.job import Attempt
from schemas.subjects import WorkerId
from schemas.units import Ms

_MOST = 1000
"""How many waiting suspects are read at once: more wait for the next time."""


class PgSuspects:
    """Implements `broker.ports.SuspectLedger`."""

    def __init__(self, database: Database, seal_keys: PgSealKeys) -> None:
        self._database = database
        self._seal_keys = seal_keys

    async def waiting(self) -> list[WaitingSuspect]:
        async with self._database.connection() as connection:
            rows = await connection.fetch(query("suspects"), _MOST)
        return [
            WaitingSuspect(row["job"], row["model"], tuple(row["tried"] or ()), suspicion)
            for row in rows
            if (suspicion := suspicion_of(row)) is not None
        ]

    async def running(self) -> list[RunningApart]:
        async with self._database.connection() as connection:
            rows = await connection.fetch(query("running_apart"))
        return [
            RunningApart(row["job"], row["attempt"], WorkerId(row["ward"]), suspicion)
            for row in rows
            if (suspicion := suspicion_of(row)) is not None
        ]

    async def dispatch(self, turn: Turn, *, term: int, now: Ms, shard: Shard = ONLY_SHARD) -> list[Attempt]:
        async with self._database.connection() as connection, connection.transaction():
            key = await self._seal_keys.current(connection)
            await connection.execute(query("hold_controls"))
            rows = await connection.fetch(
                query("dispatch_apart"),
                list(turn.jobs),
                turn.deployment,
                turn.worker,
                now,
                term,
                shard,
                min(turn.jobs),
                max(turn.jobs),
            )
            if not rows:
                await check_fences(connection, term=term, controls=None, shard=shard)
        return [msgspec.structs.replace(attempt_of(row, key, now), group=turn.group) for row in rows]

    async def clear(self, groups: Collection[UUID]) -> None:
        async with self._database.connection() as connection:
            await connection.execute(query("clear_suspects"), list(groups))
