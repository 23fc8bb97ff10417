"""Instructions as the ledger carries them out: each page once, whatever happens to the broker in the middle of it."""

import asyncio
from uuid import UUID

import pytest

from broker.core.instructions import Carried, OpenInstruction
from broker.core.records import Audited
from broker.errors import BadData, Unavailable
from broker.ledger.audit import PgAudit, record
from broker.ledger.connection import Connection, Database
from broker.ledger.days import Days
from broker.ledger.instructions import PgInstructions, Step
from schemas.instructions import Instruction, InstructionKind
from schemas.units import Ms
from tests.builders import now
from tests.instructing import recorded_instruction

PAGES = 3
KIND = InstructionKind.CHANGE


async def an_instruction(database: Database, *, kind: InstructionKind = KIND) -> UUID:
    """Recorded, and carried out by nobody, if its kind is one that no broker knows."""
    async with database.connection() as connection:
        return await recorded_instruction(connection, kind=kind)


def instructions(database: Database, step: Step, *, kind: InstructionKind = KIND) -> PgInstructions:
    return PgInstructions(database, Days(database, now), {kind: step})


async def count_to_three(connection: Connection, instruction: OpenInstruction, at: Ms) -> Carried:
    """Leaves an entry of the audit behind for each page, with its number for an id: no page can be done twice."""
    page = int(instruction.cursor or 0) + 1
    await record(connection, Audited(UUID(int=page), at, "default", "k"), "page", {})
    return Carried(cursor=str(page), is_last=page == PAGES, counts={"pages": 1})


async def shown(ledger: PgInstructions, instruction: UUID) -> Instruction:
    found = await ledger.find(instruction, "default")
    assert found is not None
    return found


async def pages_of(database: Database) -> list[int]:
    return sorted([entry.id.int for entry in await PgAudit(database).page(None, 9, None)])


async def test_an_instruction_is_carried_out_page_by_page_and_ends(database: Database) -> None:
    instruction = await an_instruction(database)

    ledger = instructions(database, count_to_three)
    carried = [await ledger.carry_on(now()) for _ in range(PAGES + 1)]
    state = await shown(ledger, instruction)

    assert [one is None for one in carried] == [False, False, False, True]
    assert (state.counts, state.failure, state.ended_ms is None) == ({"pages": PAGES}, None, False)
    assert await pages_of(database) == [1, 2, 3]


async def test_a_page_that_is_cut_off_did_nothing_and_is_done_again(database: Database) -> None:
    await an_instruction(database)
    cut_off = [2]

    async def step(connection: Connection, instruction: OpenInstruction, at: Ms) -> Carried:
        carried = await count_to_three(connection, instruction, at)
        if carried.cursor is not None and int(carried.cursor) in cut_off:
            cut_off.clear()
            raise Unavailable("Postgres")
        return carried

    ledger = instructions(database, step)
    await ledger.carry_on(now())
    with pytest.raises(Unavailable):
        await ledger.carry_on(now())
    while await ledger.carry_on(now()) is not None:
        pass

    assert await pages_of(database) == [1, 2, 3]


async def test_a_page_that_one_broker_does_is_left_to_it(database: Database) -> None:
    instruction = await an_instruction(database)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(connection: Connection, instruction: OpenInstruction, at: Ms) -> Carried:
        begun.set()
        await go_on.wait()
        return await count_to_three(connection, instruction, at)

    ledger, other = instructions(database, slowly), instructions(database, count_to_three)
    page = asyncio.create_task(ledger.carry_on(now()))
    await begun.wait()
    meanwhile = await other.carry_on(now())
    go_on.set()
    await page
    state = await shown(ledger, instruction)

    assert meanwhile is None
    assert state.counts == {"pages": 1}


async def test_an_instruction_that_cannot_be_carried_out_ends_with_its_reason_and_stops_no_other(
    database: Database,
) -> None:
    bad, good = await an_instruction(database), await an_instruction(database)

    async def step(connection: Connection, instruction: OpenInstruction, at: Ms) -> Carried:
        if instruction.id == bad:
            await count_to_three(connection, instruction, at)
            raise BadData("a number is out of range")
        return await count_to_three(connection, instruction, at)

    ledger = instructions(database, step)
    while await ledger.carry_on(now()) is not None:
        pass
    failed, done = await shown(ledger, bad), await shown(ledger, good)

    assert (failed.failure, failed.ended_ms is None, failed.counts) == ("a number is out of range", False, {})
    assert (done.failure, done.counts) == (None, {"pages": PAGES})
    assert await pages_of(database) == [1, 2, 3]


async def test_instructions_take_turns(database: Database) -> None:
    first, second = await an_instruction(database), await an_instruction(database)
    turns: list[UUID] = []
    at = now() + 1

    async def step(_: Connection, instruction: OpenInstruction, __: Ms) -> Carried:
        turns.append(instruction.id)
        return Carried(cursor="", is_last=turns.count(instruction.id) == PAGES)

    ledger = instructions(database, step)
    for later in range(2 * PAGES):
        await ledger.carry_on(Ms(at + later))

    assert turns == [first, second] * PAGES


async def test_a_page_waits_for_its_time(database: Database) -> None:
    await an_instruction(database)
    at = now()

    async def step(_: Connection, __: OpenInstruction, at: Ms) -> Carried:
        return Carried(cursor="", not_before_ms=Ms(at + 500))

    ledger = instructions(database, step)
    await ledger.carry_on(at)
    next_ms = await ledger.next_ms()
    too_soon = await ledger.carry_on(Ms(at + 499))
    in_time = await ledger.carry_on(Ms(at + 500))

    assert (next_ms, too_soon, in_time is None) == (at + 500, None, False)


async def test_a_kind_that_only_newer_brokers_know_is_left_to_them(database: Database) -> None:
    await an_instruction(database, kind=InstructionKind.CANCEL)

    ledger = instructions(database, count_to_three)
    assert await ledger.next_ms() is None
    assert await ledger.carry_on(now()) is None
