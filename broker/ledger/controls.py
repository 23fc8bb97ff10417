"""Keeps what is paused, and reads all that holds jobs back. Each change makes the controls that leaders know outdated."""

from uuid import UUID

import msgspec

from broker.core.controls import Controls
from broker.core.records import Audited, Flow, Place
from broker.ledger import audit
from broker.ledger.connection import Connection, Database
from broker.ledger.rows import NEVER_MS, Row, flow_of, place_of
from broker.ledger.sql import query
from schemas.cancel import CancelChoice
from schemas.control import Pause, PauseAnswer, PauseKind
from schemas.units import Ms

_orders = msgspec.json.Decoder(tuple[CancelChoice, ...])
_pauses = msgspec.json.Decoder(tuple[Pause, ...])


async def changed(connection: Connection) -> None:
    """Note in the transaction of a change that what may start has changed."""
    await connection.execute(query("change_controls"))


class PgControls:
    """Implements `broker.ports.ControlLedger`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self) -> Controls:
        async with self._database.connection() as connection:
            row = await connection.fetchrow(query("controls"))
        assert row is not None  # noqa: S101 - the migration made the row
        pauses = () if row["pauses"] is None else _pauses.decode(row["pauses"])
        orders = () if row["orders"] is None else _orders.decode(row["orders"])
        return Controls(row["number"], pauses, frozenset(row["cancelling"] or ()), orders)

    async def pause(self, pause: Pause, audited: Audited) -> PauseAnswer:
        values = (pause.kind, pause.name, pause.paused_ms, pause.tenant, pause.key, pause.reason)
        async with self._database.connection() as connection, connection.transaction():
            if await connection.fetchval(query("pause"), *values) is None:
                row = await connection.fetchrow(query("pause_of"), pause.kind, pause.name)
                return PauseAnswer(None if row is None else _pause_of(row), changed=False)
            await changed(connection)
            await audit.record(connection, audited, "pause", _target(pause.kind, pause.name), after=pause)
            return PauseAnswer(pause, changed=True)

    async def resume(self, kind: PauseKind, name: str, audited: Audited) -> PauseAnswer:
        async with self._database.connection() as connection, connection.transaction():
            row = await connection.fetchrow(query("resume"), kind, name)
            if row is None:
                return PauseAnswer(None, changed=False)
            await changed(connection)
            await audit.record(connection, audited, "resume", _target(kind, name), before=_pause_of(row))
            return PauseAnswer(None, changed=True)

    async def park(self, batch: UUID, *, now: Ms, limit: int) -> int:
        async with self._database.connection() as connection:
            parked: int = await connection.fetchval(query("park"), batch, now, limit, NEVER_MS)
        return parked

    async def unpark(self, *, limit: int) -> list[tuple[Flow, Place]]:
        async with self._database.connection() as connection:
            rows = await connection.fetch(query("unpark"), limit)
        return [(flow_of(row), place_of(row)) for row in rows]


def _target(kind: PauseKind, name: str) -> dict[str, str]:
    return {"kind": kind, "name": name}


def _pause_of(row: Row) -> Pause:
    return Pause(
        kind=PauseKind(row["kind"]),
        name=row["name"],
        paused_ms=row["paused_ms"],
        tenant=row["tenant"],
        key=row["key"],
        reason=row["reason"],
    )
