"""Instructions: orders over many jobs, carried out in pages.

A page is one transaction. It holds the instruction's row, does its work, and moves the cursor. So each page is done once,
whichever broker is killed in the middle of it; and since a row that is held is skipped, brokers share the instructions.
"""

from collections.abc import Awaitable, Callable, Mapping
from uuid import UUID

import msgspec

from broker.core.instructions import Carried, OpenInstruction, added
from broker.errors import BadData, Conflict
from broker.ledger.connection import Connection, Database
from broker.ledger.days import Days
from broker.ledger.rows import Row, json_text
from broker.ledger.sql import query
from schemas.codec import UNREADABLE
from schemas.instructions import Instruction, InstructionKind
from schemas.units import Ms

Step = Callable[[Connection, OpenInstruction, Ms], Awaitable[Carried]]
"""Does a page of an instruction, within the transaction that the connection is in."""
_counts = msgspec.json.Decoder(dict[str, int])


class PgInstructions:
    """Implements `broker.ports.InstructionLedger`. `steps` says what a page of each kind does."""

    def __init__(self, database: Database, days: Days, steps: Mapping[InstructionKind, Step]) -> None:
        self._database = database
        self._days = days
        self._steps = steps

    async def find(self, instruction: UUID, tenant: str) -> Instruction | None:
        async with self._database.connection() as connection:
            return await find_instruction(connection, instruction, tenant)

    async def page(self, tenant: str, limit: int, before: UUID | None) -> tuple[Instruction, ...]:
        async with self._database.connection() as connection:
            rows = await connection.fetch(query("instructions"), tenant, before, limit)
            return tuple(_instruction_of(row) for row in rows)

    async def next_ms(self) -> Ms | None:
        async with self._database.connection() as connection:
            next_ms: Ms | None = await connection.fetchval(query("next_instruction"), list(self._steps))
            return next_ms

    async def carry_on(self, now: Ms) -> Carried | None:
        held: list[UUID] = []
        try:
            async with self._database.connection() as connection:
                await self._days.keep_on(connection)
                async with connection.transaction():
                    return await self._page(connection, now, held)
        except (BadData, Conflict, *UNREADABLE) as error:
            if not held:
                raise
            failed = Carried(is_last=True, failure=str(error) or type(error).__name__)
        async with self._database.connection() as connection, connection.transaction():
            await _move(connection, held[0], failed, {}, now)
            fault = json_text({"number": 0, "code": "internal", "message": f"it cannot go on: {failed.failure}"})
            await connection.execute(query("fail_expansion"), held[0], now, fault)
        return failed

    async def _page(self, connection: Connection, now: Ms, held: list[UUID]) -> Carried | None:
        """Do the page that is due first, if one is. What it is of is put into `held`."""
        row = await connection.fetchrow(query("claim_instruction"), now, list(self._steps))
        if row is None:
            return None
        held.append(row["id"])
        instruction = _open_of(row)
        carried = await self._steps[instruction.kind](connection, instruction, now)
        counts = added(instruction.counts, carried.counts)
        await _move(connection, instruction.id, carried, counts, now)
        return carried


async def record_instruction(
    connection: Connection,
    instruction: UUID,
    kind: InstructionKind,
    *,
    tenant: str,
    key: str,
    what: msgspec.Struct,
    now: Ms,
    not_before_ms: int = 0,
) -> bool:
    """Give an instruction. Returns whether it is new: one that is known stays as it is.

    Whoever calls looks it up afterwards (`find_instruction`), since the id may be another tenant's.
    """
    row = (instruction, kind, tenant, key, now, json_text(what), max(now, not_before_ms))
    return await connection.fetchval(query("record_instruction"), *row) is not None


async def find_instruction(connection: Connection, instruction: UUID, tenant: str) -> Instruction | None:
    row = await connection.fetchrow(query("instruction"), instruction, tenant)
    return None if row is None else _instruction_of(row)


async def _move(connection: Connection, instruction: UUID, page: Carried, counts: Mapping[str, int], now: Ms) -> None:
    """Say where the next page begins, and when it may run; or that there is none."""
    ended_ms = now if page.is_last or page.failure is not None else None
    next_ms = max(now, page.not_before_ms)
    row = (instruction, page.cursor, json_text(counts or None), next_ms, ended_ms, page.failure)
    await connection.execute(query("move_instruction"), *row)


def _open_of(row: Row) -> OpenInstruction:
    return OpenInstruction(
        id=row["id"],
        kind=InstructionKind(row["kind"]),
        tenant=row["tenant"],
        key=row["key"],
        made_ms=row["made_ms"],
        what=row["what"].encode(),
        cursor=row["cursor"],
        counts=_counts.decode(row["counts"]),
    )


def _instruction_of(row: Row) -> Instruction:
    return Instruction(
        id=row["id"],
        kind=InstructionKind(row["kind"]),
        key=row["key"],
        made_ms=row["made_ms"],
        what=msgspec.Raw(row["what"].encode()),
        counts=_counts.decode(row["counts"]),
        ended_ms=row["ended_ms"],
        failure=row["failure"],
    )
