"""The ledger in memory, where it is no ledger on Postgres: how its transactions end, and who waits for whom."""

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import pytest

import broker.ledger
from broker.core.records import Audited, DeadLetter
from broker.errors import Conflict, Unavailable
from broker.ledger.sql import query
from broker.ports import Ledger
from broker.simulate.ledger.areas import ledger_of
from broker.simulate.ledger.statements import STATEMENTS
from broker.simulate.ledger.tables import Tables
from broker.simulate.ledger.transactions import Gate, OpenGate
from broker.simulate.timers import LoopTimers
from schemas.dead import DeadFilter
from schemas.units import Ms
from tests.builders import a_dead_letter, an_entropy, an_entry, an_id, now


class Failing(OpenGate):
    """A gate that can be shut, before or behind the ledger. It notes who comes."""

    def __init__(self) -> None:
        self.is_away = False
        self.loses_answers = False
        self.came: list[str] = []

    async def before(self, name: str) -> None:
        self.came.append(name)
        if self.is_away:
            raise Unavailable("the ledger")

    async def after(self, name: str) -> None:  # noqa: ARG002
        if self.loses_answers:
            raise Unavailable("the ledger")


@pytest.fixture
async def tables() -> Tables:
    return Tables(_timers(), an_entropy)


async def a_process(tables: Tables, gate: Gate) -> Ledger:
    ledger = ledger_of(tables, _timers(), gate, now)
    await ledger.days.keep()
    return ledger


def _timers() -> LoopTimers:
    return LoopTimers(asyncio.get_running_loop(), wall_ns=now() * 1_000_000)


def somebody() -> Audited:
    return Audited(an_id(), now(), "default", "k")


async def tenants(ledger: Ledger) -> list[str]:
    return [one.name for one in await ledger.tenants.page(None, now=now(), limit=9)]


async def test_what_fails_in_the_middle_changes_nothing(tables: Tables) -> None:
    ledger = await a_process(tables, OpenGate())
    by = somebody()
    await ledger.tenants.create("acme", None, by)
    version = await ledger.api_keys.version()

    with pytest.raises(Conflict):
        await ledger.tenants.create("other", None, by)  # the entry of the audit is there already

    assert await tenants(ledger) == ["acme", "default"]
    assert await ledger.api_keys.version() == version
    assert len(await ledger.audit.page(None, 9, None)) == 1


async def test_before_the_ledger_a_call_fails_and_changes_nothing(tables: Tables) -> None:
    gate = Failing()
    ledger = await a_process(tables, gate)
    gate.is_away = True

    with pytest.raises(Unavailable):
        await ledger.tenants.create("acme", None, somebody())

    gate.is_away = False
    assert await tenants(ledger) == ["default"]


async def test_behind_the_ledger_a_call_fails_and_has_changed_what_it_would(tables: Tables) -> None:
    gate = Failing()
    ledger = await a_process(tables, gate)
    gate.loses_answers = True

    with pytest.raises(Unavailable):
        await ledger.tenants.create("acme", None, somebody())

    gate.loses_answers = False
    assert await tenants(ledger) == ["acme", "default"]


async def test_each_transaction_of_a_call_passes_the_gate(tables: Tables) -> None:
    gate = Failing()
    ledger = await a_process(tables, gate)
    entry = an_entry()
    await ledger.intake.admit([entry])
    gate.came.clear()

    await ledger.cancels.cancel_jobs([entry.id], "default", now())

    assert gate.came == ["cancels", "cancels"]  # what ends it, and what reads how it ended


async def test_rows_are_held_while_their_messages_are_published(tables: Tables) -> None:
    ledger, other = [await a_process(tables, OpenGate()) for _ in range(2)]
    letter = a_dead_letter()
    await ledger.dead_letters.record([letter])
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(letters: Sequence[DeadLetter]) -> Sequence[DeadLetter]:
        begun.set()
        await go_on.wait()
        return letters

    first = asyncio.create_task(requeue(ledger, letter, slowly))
    await begun.wait()
    dropping = asyncio.create_task(other.dead_letters.drop([letter.id], [], somebody(), {}))
    old = await other.retention.drop_messages(Ms(now() + 1), limit=9)
    await ledger.tenants.create("acme", None, somebody())  # whoever needs no such row goes on
    assert (old, dropping.done()) == (0, False)
    go_on.set()

    assert await first == [letter.id]
    assert await dropping == (0, 0)


async def test_what_a_killed_process_held_is_free(tables: Tables) -> None:
    gate = OpenGate()
    ledger, other = await a_process(tables, gate), await a_process(tables, OpenGate())
    letter = a_dead_letter()
    await ledger.dead_letters.record([letter])
    begun = asyncio.Event()

    async def never(_: Sequence[DeadLetter]) -> Sequence[DeadLetter]:
        begun.set()
        await asyncio.Event().wait()
        return ()

    killed = asyncio.create_task(requeue(ledger, letter, never))
    await begun.wait()
    dropping = asyncio.create_task(other.dead_letters.drop([letter.id], [], somebody(), {}))
    await asyncio.sleep(0)

    tables.locks.cut(gate)

    assert await dropping == (1, 0)
    assert await other.dead_letters.page(DeadFilter(), limit=9) == []
    killed.cancel()


async def requeue(ledger: Ledger, letter: DeadLetter, publish: object) -> list[UUID]:
    return await ledger.dead_letters.requeue([letter.id], publish, somebody(), {})  # type: ignore[arg-type]


def test_every_statement_of_the_ledger_has_its_function() -> None:
    on_postgres_only = {"migrate", "sums"}
    """Modules for which there is something else in memory."""
    of_blobs = {"put_piece", "piece", "drop_pieces"}
    [folder] = broker.ledger.__path__
    named = {
        name
        for module in Path(folder).glob("*.py")
        if module.stem not in on_postgres_only
        for name in re.findall(r'query\("(\w+)"\)', module.read_text())
    }

    missing = {name for name in named - of_blobs if query(name) not in STATEMENTS}

    assert not missing
