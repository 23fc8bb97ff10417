"""What is kept no longer is dropped, a page at a time, and nothing else."""

import asyncio

import asyncpg
import pytest

from broker.ledger import open_ledger
from broker.ports import Ledger
from schemas.dead import DeadFilter, DeadWhat
from schemas.ids import uuid7
from schemas.units import Ms
from tests.builders import a_dead_letter, now
from tests.contract.ledger.test_dead_letters import a_dead_job
from tests.contract.ledger.test_retention import DAY_MS, an_upkeep, letters
from tests.holding import a_hand

pytestmark = pytest.mark.real


async def test_failures_of_jobs_that_are_gone_go_with_them(ledger: Ledger, ledger_url: str) -> None:
    job = await a_dead_job(ledger)
    gone = uuid7(Ms(now() - 100 * DAY_MS), 1)
    connection = await asyncpg.connect(ledger_url)
    await connection.execute(
        """insert into infermq.failures (job, tenant, model, state, kind, ended_ms)
           values ($1, 't', 'm', 'failed', 'engine_fault', 0)""",
        gone,
    )

    await an_upkeep(ledger).drop()

    left = [row["job"] for row in await connection.fetch("select job from infermq.failures")]
    await connection.close()
    assert left == [job]


async def test_what_another_holds_is_left_and_holds_nobody_up(ledger: Ledger, ledger_url: str) -> None:
    held, free = a_dead_letter(), a_dead_letter()
    await ledger.dead_letters.record([held, free])
    async with a_hand(ledger_url) as hand:
        await hand.hold("select from infermq.dead_letters where id = $1 for update", held.id)

        await an_upkeep(ledger, in_days=4, page=10).drop()

        assert [one.id for one in await ledger.dead_letters.page(DeadFilter(), limit=9)] == [held.id]


async def test_brokers_that_drop_at_once_leave_nothing_and_miss_nothing(ledger: Ledger, ledger_url: str) -> None:
    await ledger.dead_letters.record([a_dead_letter() for _ in range(50)])
    async with open_ledger(ledger_url, clock=now) as other:
        await asyncio.gather(*[an_upkeep(one, in_days=4, page=3).drop() for one in (ledger, other)])
    await an_upkeep(ledger, in_days=4).drop()

    assert await letters(ledger, DeadWhat.MESSAGE) == 0
