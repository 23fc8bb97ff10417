"""Two attempts of one job that both have something to say."""

from broker.core.price import Prices
from broker.core.records import Final, Ignore, Pick, Requeue, Verdict
from broker.core.settle import decide
from broker.ports import Ledger
from schemas.api import State
from schemas.job import Attempt
from schemas.outcome import EngineFault, Failed, Report
from schemas.ruling import PutBack, Ruling
from schemas.units import Ms
from tests.builders import a_catalog, a_report, a_success, an_entry, now

PRICES = Prices(catalog=a_catalog(), source="catalog:1")


async def verdicts(ledger: Ledger, *items: Report | Ruling) -> list[Verdict]:
    jobs = await ledger.settlement.open_jobs([item.job for item in items])
    return decide(items, jobs, prices=PRICES, now=now(), unit=0.0)


async def in_its_second_attempt(ledger: Ledger) -> tuple[Attempt, Attempt]:
    entry = an_entry()
    await ledger.intake.admit([entry])
    term = await ledger.leadership.lead("me", lease_ms=60_000)
    assert term is not None
    pick = Pick(entry.flow, entry.place, "d")
    [first] = await ledger.attempts.dispatch([pick], term=term, controls=1, now=now())
    back = a_report(Failed(EngineFault("x")), job=entry.id)
    await ledger.settlement.settle(await verdicts(ledger, back), now=now())
    await ledger.backlog.move_due(Ms(now() + 60_000), limit=1)
    [second] = await ledger.attempts.dispatch([pick], term=term, controls=1, now=now())
    assert second.number == 2
    return first, second


async def test_a_late_success_and_the_failure_of_the_next_attempt_end_the_job_in_success(ledger: Ledger) -> None:
    first, second = await in_its_second_attempt(ledger)
    success = a_report(a_success(), job=first.job, attempt=1, delivery=2)
    failure = a_report(Failed(EngineFault("x")), job=second.job, attempt=2)

    done = await ledger.settlement.settle(await verdicts(ledger, success, failure), now=now())

    assert [(one.job, one.state) for one in done.final] == [(first.job, State.SUCCEEDED)]
    assert not await ledger.attempts.running()
    assert not await ledger.backlog.heads()


async def test_what_the_next_attempt_says_after_a_late_success_is_waste(ledger: Ledger) -> None:
    first, second = await in_its_second_attempt(ledger)
    reports = [a_report(a_success(), job=one.job, attempt=one.number, delivery=2) for one in (first, second)]
    ends = [await ledger.settlement.settle(await verdicts(ledger, report), now=now()) for report in reports]

    again = [await ledger.settlement.settle(await verdicts(ledger, report), now=now()) for report in reports]

    shown = await ledger.jobs.find(first.job, "default")
    assert shown is not None
    assert [len(one.final) for one in ends] == [1, 0]
    assert [len(one.final) for one in again] == [1, 0]
    assert [(run.attempt, run.waste) for run in shown.executions] == [(1, True), (1, False), (2, True)]
    assert shown.cost_nano_usd == sum(run.cost_nano_usd for run in shown.executions)


async def test_putting_back_an_attempt_that_is_over_leaves_the_next_one_running(ledger: Ledger) -> None:
    first, second = await in_its_second_attempt(ledger)
    running = await ledger.attempts.running()
    [verdict] = await verdicts(ledger, PutBack(first.job, 1))
    stale = Verdict(job=first.job, attempt=1, transition=Requeue(now(), counted=False), executed=None)

    done = await ledger.settlement.settle([verdict, stale], now=now())

    assert verdict.transition == Ignore()
    assert not done.requeued
    assert await ledger.attempts.running() == running
    assert running[0].attempt == second.number


async def test_a_success_that_cannot_be_stored_ends_only_its_own_attempt(ledger: Ledger) -> None:
    first, _ = await in_its_second_attempt(ledger)
    [verdict] = await verdicts(ledger, a_report(Failed(EngineFault("x")), job=first.job, delivery=2))
    failed = Final(State.FAILED, None, EngineFault("x"))
    late = Verdict(job=first.job, attempt=1, transition=failed, executed=verdict.executed)

    done = await ledger.settlement.settle([late], now=now())

    assert not done.final
    assert len(await ledger.attempts.running()) == 1
