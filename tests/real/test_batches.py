"""Batches as the ledger keeps them: sealed once, complete when all has ended, read in order."""

from collections.abc import AsyncIterator
from uuid import UUID

import asyncpg
import pytest

from broker.core.records import Entry, Requeue
from broker.ledger import open_ledger
from broker.ledger.connection import SETTINGS
from broker.ports import Ledger
from schemas.api import State
from schemas.ids import uuid7
from schemas.outcome import EngineFault, Failed
from schemas.units import Ms
from tests.builders import a_success, an_entry, now
from tests.contract.ledger.test_batches import an_end, results_of
from tests.settling import a_batch, a_verdict, dispatched, running

pytestmark = pytest.mark.real


DAY_MS = 24 * 3_600_000


@pytest.fixture(params=["usual", "unusual"])
async def planned(ledger_url: str, request: pytest.FixtureRequest) -> AsyncIterator[Ledger]:
    """The ledger where the planner goes by indexes, whose order may be the wanted one by chance, and where it does not."""
    if request.param == "unusual":
        connection = await asyncpg.connect(ledger_url)
        name = await connection.fetchval("select current_database()")
        for way in ("nestloop", "indexscan", "indexonlyscan"):
            await connection.execute(f'alter database "{name}" set enable_{way} = off')
        await connection.close()
    async with open_ledger(ledger_url, clock=now) as opened:
        yield opened


async def test_a_job_of_a_batch_waits_as_one_of_it_also_after_a_failure(ledger: Ledger, ledger_url: str) -> None:
    batch = await a_batch(ledger)
    first, again, other = an_entry(batch=batch.id), an_entry(batch=batch.id), an_entry()
    await ledger.intake.admit([first, again, other])
    [attempt] = await dispatched(ledger, again)
    back = a_verdict(attempt, Failed(EngineFault("x")), transition=Requeue(now(), counted=True))
    await ledger.settlement.settle([back], now=now())

    connection = await asyncpg.connect(ledger_url, server_settings=SETTINGS)
    found = await connection.fetch("select job from infermq.waiting where batch = $1", batch.id)
    plan = await connection.fetch("explain select job from infermq.waiting where batch = $1", batch.id)

    await connection.close()
    assert {row["job"] for row in found} == {first.id, again.id}
    assert "waiting_of_batch" in "".join(row[0] for row in plan)


async def test_results_come_in_the_order_recorded_and_in_one_transaction_by_id(planned: Ledger) -> None:
    batch = await a_batch(planned)
    yesterday = [an_entry(id=uuid7(Ms(now() - DAY_MS), n), batch=batch.id) for n in range(2)]
    today = [an_entry(batch=batch.id) for _ in range(4)]
    older, newer = [*today[2:], yesterday[1]], [yesterday[0], *today[:2]]
    await planned.intake.admit([*yesterday, *today])
    for group in (older, newer):
        attempts = await dispatched(planned, *group)
        await planned.settlement.settle([an_end(one, State.SUCCEEDED) for one in attempts], now=now())

    read = [await results_of(planned, batch, a_page=size) for size in (1, 2, 500)]

    recorded = [*_ids(older), *_ids(newer)]
    assert [[result.job for result in results] for results in read] == [recorded] * 3


def _ids(entries: list[Entry]) -> list[UUID]:
    return sorted(entry.id for entry in entries)


async def test_executions_of_a_job_come_by_attempt_and_delivery(planned: Ledger) -> None:
    await planned.settlement.settle([an_end(await running(planned), State.SUCCEEDED)], now=now())
    first = await running(planned)
    back = a_verdict(first, Failed(EngineFault("x")), transition=Requeue(now(), counted=True))
    await planned.settlement.settle([back], now=now())
    entry = an_entry(id=first.job, deadline_ms=first.deadline_ms)
    [second] = await dispatched(planned, entry)
    for attempt, delivery in ((second, 2), (second, 1), (first, 3), (first, 2)):
        await planned.settlement.settle([a_verdict(attempt, a_success(), delivery=delivery)], now=now())

    shown = await planned.jobs.find(first.job, "default")

    assert shown is not None
    assert [(run.attempt, run.delivery) for run in shown.executions] == [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2)]
