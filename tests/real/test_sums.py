"""The check after every test sees each way in which a ledger can disagree with itself."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from broker.core.records import Ignore
from broker.ledger.connection import Connection
from broker.ports import Ledger
from schemas.ids import uuid7
from schemas.outcome import Charge, EngineFault, Failed, Refused, Usage
from schemas.units import Ms, NanoUsd
from tests.builders import a_success, an_attempt, an_entry, now
from tests.settling import a_batch, a_verdict, dispatched
from tests.sums import check_sums, disagreements

pytestmark = pytest.mark.real
COUNTED = ("input_tokens", "output_tokens", "cached_tokens", "cost_nano_usd")
ENDS = ("succeeded", "failed", "expired", "cancelled", "dead")
RUNNING_TOO = """insert into infermq.running (job, attempt, uncounted, deployment, dispatched_ms, deadline_ms, model, lane,
                     tenant, tokens)
                 select job, 1, 0, 'd', 0, 0, 'm', 'bulk', 't', 1 from infermq."""
WAITING_TOO = """insert into infermq.waiting (model, lane, tenant, deadline_ms, job)
                 select 'm', 'bulk', 'other', 0, job from infermq."""
A_FAILURE = """insert into infermq.failures (job, tenant, model, state, kind, ended_ms)
               select job, tenant, model, 'dead', 'timed_out', 0 from infermq."""
MORE = {
    "jobs": COUNTED,
    "executions": COUNTED,
    "batches": (*COUNTED, "admitted", *ENDS),
    "spend": ("cost_nano_usd", "executions"),
}
WRONG = [
    *(f"update infermq.{table} set {name} = {name} + 1" for table, names in MORE.items() for name in names),  # noqa: S608
    "delete from infermq.executions where waste",
    "update infermq.executions set waste = not waste",
    "update infermq.executions set waste = false",
    "delete from infermq.executions where not waste",
    "insert into infermq.results (job) select (left(job::text, 24) || '000000000000')::uuid from infermq.waiting",
    "delete from infermq.jobs where state <> 'open' and batch is not null",
    "delete from infermq.spend",
    "update infermq.spend set deployment = 'other'",
    "insert into infermq.spend values ('2026-01-01', 'other', 1, 1)",
    "update infermq.jobs set state = 'open' where state = 'succeeded'",
    "update infermq.jobs set state = 'failed' where state = 'succeeded'",
    "update infermq.jobs set state = 'failed' where state = 'open'",
    "delete from infermq.results",
    "delete from infermq.waiting",
    "update infermq.waiting set batch = gen_random_uuid()",
    "delete from infermq.running",
    "insert into infermq.results (job) select job from infermq.waiting",
    "update infermq.results set ordinal = ordinal + 1",
    "update infermq.results set ordinal = null",
    "update infermq.results set batch = null",
    "update infermq.results set ordinal = 2 where ordinal = 1",
    "delete from infermq.failures",
    "update infermq.failures set state = 'dead'",
    "update infermq.failures set kind = 'refused'",
    "update infermq.failures set tenant = 'other'",
    "update infermq.failures set model = 'other'",
    "update infermq.failures set batch = gen_random_uuid()",
    "update infermq.failures set ended_ms = ended_ms + 1",
    *(A_FAILURE + table for table in ("waiting", "running")),
    *(RUNNING_TOO + table for table in ("waiting", "results")),
    *(WAITING_TOO + table for table in ("waiting", "running", "results")),
]


@pytest.fixture
async def writer(ledger: Ledger, ledger_url: str) -> AsyncIterator[Connection]:
    """Of a ledger with a job that ended, one that waits and one that runs; what it writes is taken back."""
    batch = await a_batch(ledger)
    ended, runs, waits = an_entry(batch=batch.id), an_entry(), an_entry()
    refused = an_entry(refused=Refused("unknown_model", "m"))
    await ledger.intake.admit([ended, runs, waits, refused])
    attempt, _ = await dispatched(ledger, ended, runs)
    usage, charge = Usage(100, 20, 30), Charge(NanoUsd(7), "provider")
    late = a_verdict(attempt, Failed(EngineFault("x"), usage, charge), transition=Ignore())
    await ledger.settlement.settle(
        [late, a_verdict(attempt, a_success(usage=usage, charge=charge), delivery=2)], now=now()
    )
    connection = await asyncpg.connect(ledger_url)
    yield connection
    await connection.close()


async def test_a_ledger_that_agrees_with_itself_passes(writer: Connection, ledger_url: str) -> None:
    found = await disagreements(writer)

    await check_sums(ledger_url)
    assert found == []


async def test_what_ran_for_a_request_whose_end_is_not_known_counts_for_its_deployment(
    ledger: Ledger, ledger_url: str
) -> None:
    request = an_attempt(reply_to="r", key="k")
    failed = Failed(EngineFault("x"), Usage(7, 1), Charge(NanoUsd(7), "provider"))

    await ledger.settlement.settle([a_verdict(request, failed, interactive=request)], now=now())

    assert await ledger.jobs.find(request.job, request.tenant) is None
    connection = await asyncpg.connect(ledger_url)
    assert await connection.fetchval("select cost_nano_usd from infermq.spend where deployment = 'd'") == 7
    await connection.close()
    await check_sums(ledger_url)


async def test_each_way_of_disagreeing_is_noticed(writer: Connection) -> None:
    unnoticed = []
    for wrong in WRONG:
        writing = writer.transaction()
        await writing.start()
        changed = await writer.execute(wrong)
        if changed.endswith(" 0") or not await disagreements(writer):
            unnoticed.append(wrong)
        await writing.rollback()

    assert unnoticed == []


async def test_what_there_is_no_time_for_is_said(ledger: Ledger, writer: Connection) -> None:
    assert writer is not None

    check = await ledger.sums.check(within_s=0.0)
    whole = await ledger.sums.check(within_s=30.0)

    assert not check.is_whole
    assert check.checked_from_ms > now()
    assert (whole.disagreements, whole.checked_from_ms, whole.is_whole) == ((), 0, True)


async def test_jobs_of_all_hours_are_compared(ledger: Ledger, ledger_url: str) -> None:
    hours_ms = [now() - 3_600_000 * hours for hours in (0, 1, 2, 30, 100)]
    entries = [an_entry(id=uuid7(Ms(at), number)) for number, at in enumerate(hours_ms)]
    await ledger.intake.admit(entries)
    connection = await asyncpg.connect(ledger_url)

    await connection.execute("update infermq.jobs set output_tokens = 1")
    check = await ledger.sums.check(within_s=30.0)
    await connection.execute("update infermq.jobs set output_tokens = 0")
    await connection.close()

    assert len(check.disagreements) == len(entries)


async def test_the_check_says_what_disagrees(ledger_url: str, writer: Connection) -> None:
    await writer.execute("update infermq.spend set executions = executions + 1")

    with pytest.raises(AssertionError, match="deployment d spent"):
        await check_sums(ledger_url)

    await writer.execute("update infermq.spend set executions = executions - 1")
