"""The partitions of days: made by time, whatever messages say."""

import asyncio
from datetime import UTC, datetime
from uuid import UUID, uuid4

import asyncpg
import pytest

from broker.config import Keep
from broker.core.records import Final
from broker.errors import DayNotKept
from broker.ledger import open_ledger
from broker.ledger.days import day_of, missing_days
from broker.ports import Ledger
from broker.roles.upkeep import Upkeep
from schemas.api import State
from schemas.ids import NEWEST_MS, OLDEST_MS, uuid7
from schemas.units import Ms
from tests.builders import a_success, an_attempt, an_entry, an_id, now
from tests.settling import a_verdict
from tests.system import until

pytestmark = pytest.mark.real
DAY_MS = 24 * 3_600_000
NOON = Ms(20_000 * DAY_MS + DAY_MS // 2)
DAYS = "select count(*) from pg_class where relnamespace = 'infermq'::regnamespace"


def test_the_days_that_an_id_may_be_of_are_made_and_two_more() -> None:
    assert missing_days([], NOON) == list(range(19_993, 20_003))
    late = Ms(NOON + DAY_MS // 2 - NEWEST_MS)
    assert missing_days([], late) == list(range(19_993, 20_004))
    assert day_of(uuid7(Ms(NOON - OLDEST_MS), 1)) == 19_993


def test_days_that_stand_are_not_made_again() -> None:
    assert missing_days(range(19_900, 20_003), NOON) == []
    assert missing_days([*range(19_993, 19_999), 20_000], NOON) == [19_999, 20_001, 20_002]


def test_a_day_before_the_first_that_stands_was_dropped_and_stays_so() -> None:
    assert missing_days(range(19_997, 20_002), NOON) == [20_002]


def test_days_of_a_clock_that_was_wrong_keep_none_from_being_made() -> None:
    assert missing_days([30_000], NOON) == list(range(19_993, 20_003))


@pytest.mark.parametrize("count", [150])
async def test_forged_reports_make_no_days(ledger: Ledger, ledger_url: str, count: int) -> None:
    connection = await asyncpg.connect(ledger_url)
    before = await connection.fetchval(DAYS)

    for n in range(count):
        job = uuid7(Ms(now() - (n + 20) * DAY_MS if n % 2 else now() + (n + 20) * DAY_MS), n)
        request = an_attempt(job=job, admitted_ms=Ms(now() - n * DAY_MS), reply_to="x", key="k")
        with pytest.raises(DayNotKept):
            await ledger.settlement.settle([a_verdict(request, a_success(), interactive=request)], now=now())

    assert await connection.fetchval(DAYS) == before
    await connection.close()


@pytest.mark.parametrize("job", [UUID(int=0), UUID(int=2**128 - 1), uuid7(Ms(281_474_976_710_000), 1), uuid4()])
async def test_a_job_of_a_day_that_is_not_kept_is_refused(ledger: Ledger, job: UUID) -> None:
    with pytest.raises(DayNotKept):
        await ledger.intake.admit([an_entry(id=job)])


async def test_a_ledger_that_slept_takes_the_jobs_of_today_at_once(ledger_url: str) -> None:
    """Also before the role has looked."""
    later = Ms(now() + 30 * DAY_MS)
    async with open_ledger(ledger_url, clock=lambda: later) as ledger:
        today, oldest = an_entry(id=uuid7(later, 1)), an_entry(id=uuid7(Ms(later - OLDEST_MS), 2))

        admitted = await ledger.intake.admit([today, oldest])

        assert len(admitted.waiting) == 2
        request = an_attempt(job=uuid7(later, 3), reply_to="x", key="k")
        verdict = a_verdict(request, a_success(), interactive=request, transition=Final(State.SUCCEEDED, b"{}", None))
        assert len((await ledger.settlement.settle([verdict], now=later)).final) == 1


async def test_a_day_that_was_dropped_does_not_come_back(ledger: Ledger, ledger_url: str) -> None:
    connection = await asyncpg.connect(ledger_url)
    oldest = Ms(now() - OLDEST_MS)
    for table in ("jobs", "bodies", "executions", "results"):
        await connection.execute(f"drop table infermq.{table}_{datetime.fromtimestamp(oldest / 1000, UTC):%Y%m%d}")
    before = await connection.fetchval(DAYS)

    await ledger.days.keep()
    with pytest.raises(DayNotKept):
        await ledger.intake.admit([an_entry(id=uuid7(oldest, 1))])
    await ledger.intake.admit([an_entry(id=an_id())])

    assert await connection.fetchval(DAYS) == before
    await connection.close()


async def test_new_days_are_made_as_time_passes_and_wait_for_no_reader(ledger_url: str) -> None:
    at = now()
    reader = await asyncpg.connect(ledger_url)
    before = await reader.fetchval(DAYS)
    async with open_ledger(ledger_url, clock=lambda: at) as ledger:
        upkeep = asyncio.create_task(
            Upkeep(days=ledger.days, retention=ledger.retention, keep=Keep(), clock=now, every_s=0.01).serve()
        )
        transaction = reader.transaction()
        await transaction.start()
        await reader.execute("select from infermq.jobs, infermq.bodies, infermq.executions, infermq.results")
        at = Ms(at + DAY_MS)

        async def made() -> bool:
            return bool(await reader.fetchval(DAYS) > before)

        await until(made, "the next day is made")
        await transaction.rollback()
        upkeep.cancel()
        await asyncio.gather(upkeep, return_exceptions=True)
    await reader.close()
