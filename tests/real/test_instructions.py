"""Instructions as the ledger carries them out: each page once, whatever happens to the broker in the middle of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import asyncpg
import msgspec
import pytest

from broker.core.instructions import Carried, OpenInstruction
from broker.errors import BadData, Unavailable
from broker.ledger.connection import SETTINGS, Connection, Database
from broker.ledger.days import Days
from broker.ledger.instructions import PgInstructions, record_instruction
from schemas.instructions import Instruction, InstructionKind
from schemas.units import Ms
from tests.builders import an_id, now

pytestmark = pytest.mark.real
PAGES = 3
KIND = InstructionKind.CHANGE


class What(msgspec.Struct, frozen=True):
    """What the instructions of these tests ask."""

    of: str = "a test"


async def an_instruction(url: str, *, tenant: str = "default", kind: InstructionKind = KIND) -> UUID:
    """Recorded, and carried out by nobody, if its kind is one that no broker knows."""
    connection = await asyncpg.connect(url, server_settings=SETTINGS)
    try:
        instruction = an_id()
        await record_instruction(connection, instruction, kind, tenant=tenant, key="k", what=What(), now=now())
    finally:
        await connection.close()
    return instruction


@asynccontextmanager
async def instructions(url: str, step: object, *, kind: InstructionKind = KIND) -> AsyncIterator[PgInstructions]:
    async with Database.open(url, connections=4) as database:
        yield PgInstructions(database, Days(database, now), {kind: step})  # type: ignore[dict-item]


async def count_to_three(connection: Connection, instruction: OpenInstruction, _: Ms) -> Carried:
    """Leaves a link behind for each page: of a job that is called like its number."""
    page = int(instruction.cursor or 0) + 1
    link = (UUID(int=page), instruction.id)
    await connection.execute("insert into infermq.replays (job, source) values ($1, $2)", *link)
    return Carried(cursor=str(page), is_last=page == PAGES, counts={"pages": 1})


async def shown(ledger: PgInstructions, instruction: UUID) -> Instruction:
    found = await ledger.find(instruction, "default")
    assert found is not None
    return found


async def pages_of(url: str) -> list[int]:
    connection = await asyncpg.connect(url)
    try:
        return [row["job"].int for row in await connection.fetch("select job from infermq.replays order by job")]
    finally:
        await connection.close()


async def test_an_instruction_is_carried_out_page_by_page_and_ends(ledger_url: str) -> None:
    instruction = await an_instruction(ledger_url)

    async with instructions(ledger_url, count_to_three) as ledger:
        carried = [await ledger.carry_on(now()) for _ in range(PAGES + 1)]
        state = await shown(ledger, instruction)

    assert [one is None for one in carried] == [False, False, False, True]
    assert (state.counts, state.failure, state.ended_ms is None) == ({"pages": PAGES}, None, False)
    assert await pages_of(ledger_url) == [1, 2, 3]


async def test_a_page_that_is_cut_off_did_nothing_and_is_done_again(ledger_url: str) -> None:
    await an_instruction(ledger_url)
    cut_off = [2]

    async def step(connection: Connection, instruction: OpenInstruction, at: Ms) -> Carried:
        carried = await count_to_three(connection, instruction, at)
        if carried.cursor is not None and int(carried.cursor) in cut_off:
            cut_off.clear()
            raise Unavailable("Postgres")
        return carried

    async with instructions(ledger_url, step) as ledger:
        await ledger.carry_on(now())
        with pytest.raises(Unavailable):
            await ledger.carry_on(now())
        while await ledger.carry_on(now()) is not None:
            pass

    assert await pages_of(ledger_url) == [1, 2, 3]


async def test_a_page_that_one_broker_does_is_left_to_it(ledger_url: str) -> None:
    instruction = await an_instruction(ledger_url)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(connection: Connection, instruction: OpenInstruction, at: Ms) -> Carried:
        begun.set()
        await go_on.wait()
        return await count_to_three(connection, instruction, at)

    async with instructions(ledger_url, slowly) as ledger, instructions(ledger_url, count_to_three) as other:
        page = asyncio.create_task(ledger.carry_on(now()))
        await begun.wait()
        meanwhile = await other.carry_on(now())
        go_on.set()
        await page
        state = await shown(ledger, instruction)

    assert meanwhile is None
    assert state.counts == {"pages": 1}


async def test_an_instruction_that_cannot_be_carried_out_ends_with_its_reason_and_stops_no_other(
    ledger_url: str,
) -> None:
    bad, good = await an_instruction(ledger_url), await an_instruction(ledger_url)

    async def step(connection: Connection, instruction: OpenInstruction, at: Ms) -> Carried:
        if instruction.id == bad:
            await count_to_three(connection, instruction, at)
            raise BadData("a number is out of range")
        return await count_to_three(connection, instruction, at)

    async with instructions(ledger_url, step) as ledger:
        while await ledger.carry_on(now()) is not None:
            pass
        failed, done = await shown(ledger, bad), await shown(ledger, good)

    assert (failed.failure, failed.ended_ms is None, failed.counts) == ("a number is out of range", False, {})
    assert (done.failure, done.counts) == (None, {"pages": PAGES})
    assert await pages_of(ledger_url) == [1, 2, 3]


async def test_instructions_take_turns(ledger_url: str) -> None:
    first, second = await an_instruction(ledger_url), await an_instruction(ledger_url)
    turns: list[UUID] = []
    at = now()

    async def step(_: Connection, instruction: OpenInstruction, __: Ms) -> Carried:
        turns.append(instruction.id)
        return Carried(cursor="", is_last=turns.count(instruction.id) == PAGES)

    async with instructions(ledger_url, step) as ledger:
        for later in range(2 * PAGES):
            await ledger.carry_on(Ms(at + later))

    assert turns == [first, second] * PAGES


async def test_a_page_waits_for_its_time(ledger_url: str) -> None:
    await an_instruction(ledger_url)
    at = now()

    async def step(_: Connection, __: OpenInstruction, at: Ms) -> Carried:
        return Carried(cursor="", not_before_ms=Ms(at + 500))

    async with instructions(ledger_url, step) as ledger:
        await ledger.carry_on(at)
        next_ms = await ledger.next_ms()
        too_soon = await ledger.carry_on(Ms(at + 499))
        in_time = await ledger.carry_on(Ms(at + 500))

    assert (next_ms, too_soon, in_time is None) == (at + 500, None, False)


async def test_a_kind_that_only_newer_brokers_know_is_left_to_them(ledger_url: str) -> None:
    await an_instruction(ledger_url, kind=InstructionKind.CANCEL)

    async with instructions(ledger_url, count_to_three) as ledger:
        assert await ledger.next_ms() is None
        assert await ledger.carry_on(now()) is None
