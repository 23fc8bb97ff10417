"""Each execution is recorded once and charged once, whatever NATS counts and however often its report comes."""

from collections.abc import Sequence

import pytest

from broker.core.lost import lost_executions
from broker.core.records import Ignore, Spend
from broker.core.settle import decide
from broker.ledger.settlement import MOST_EXECUTIONS
from broker.ports import Ledger
from schemas.api import JobShow, State
from schemas.job import Attempt
from schemas.outcome import EngineFault, Failed, Outcome, Report, Usage
from schemas.ruling import EndRequest, Lost, Ruling
from schemas.units import Ms, NanoUsd
from tests.builders import a_report, a_success, an_attempt, an_id, now
from tests.settling import PRICES, a_batch, a_verdict, running


async def settle(ledger: Ledger, *items: Report | Ruling) -> None:
    """Settle them as one group, as a broker does."""
    if not items:
        return
    jobs = await ledger.settlement.open_jobs({item.job for item in items})
    gone = [item for item in items if isinstance(item, Lost)]
    requests = await ledger.attempts.requests_of({one.job for one in gone}) if gone else {}
    lost = lost_executions(gone, requests=requests, recorded={}, prices=PRICES)
    verdicts = decide(items, jobs, prices=PRICES, lost=lost, alive=("d",), now=now(), unit=0.0)
    await ledger.settlement.settle(verdicts, now=now())


async def shown(ledger: Ledger, attempt: Attempt) -> JobShow:
    job = await ledger.jobs.find(attempt.job, "default")
    assert job is not None
    return job


def an_execution_of(attempt: Attempt, outcome: Outcome | None = None) -> Report:
    """A report of an execution of its own, of the first delivery, as far as NATS knows."""
    return a_report(
        outcome or a_success(usage=Usage(1, 0)),
        job=attempt.job,
        attempt=attempt.number,
        delivery=1,
        execution=an_id(),
    )


@pytest.mark.parametrize("groups", [[2], [1, 1]], ids=["in one group", "in two groups"])
@pytest.mark.parametrize("outcome", [a_success(usage=Usage(1, 0)), Failed(EngineFault("x"), Usage(1, 0))])
async def test_two_executions_with_the_same_attempt_and_delivery_are_both_recorded(
    ledger: Ledger, groups: Sequence[int], outcome: Outcome
) -> None:
    """NATS counts deliveries from 1 again when it has lost a consumer's state, or when an attempt is published again."""
    attempt = await running(ledger)
    reports = [an_execution_of(attempt, outcome), an_execution_of(attempt, outcome)]

    for size in groups:
        await settle(ledger, *reports[:size])
        reports = reports[size:]

    job = await shown(ledger, attempt)
    assert len({run.id for run in job.executions}) == 2
    assert (job.usage, job.cost_nano_usd) == (Usage(2, 0), 2000)


@pytest.mark.parametrize("groups", [[2], [1, 1]], ids=["in one group", "in two groups"])
async def test_a_report_that_comes_twice_is_recorded_once(ledger: Ledger, groups: Sequence[int]) -> None:
    attempt = await running(ledger)
    report = an_execution_of(attempt)

    for size in groups:
        await settle(ledger, *[report] * size)

    job = await shown(ledger, attempt)
    assert [run.id for run in job.executions] == [report.execution]
    assert (job.usage, job.cost_nano_usd) == (Usage(1, 0), 1000)


def what_was_lost(report: Report) -> Lost:
    """What a broker says of an execution whose worker died, or seemed to."""
    return Lost(
        job=report.job,
        attempt=report.attempt,
        deployment=report.deployment,
        execution=report.execution,
        worker=report.worker,
        started_ms=Ms(5),
    )


ESTIMATE = 17_000 + 8 * 2_000
"""By the price of the deployment: 68 bytes of body are 17 tokens, and it asks for 8."""


async def test_a_lost_execution_costs_its_estimate_and_its_job_goes_on(ledger: Ledger) -> None:
    batch = await a_batch(ledger)
    attempt = await running(ledger, batch=batch.id)
    report = an_execution_of(attempt)

    for _ in range(2):
        await settle(ledger, what_was_lost(report))

    job, counted = await shown(ledger, attempt), await ledger.batches.find(batch.id, "default")
    [run] = job.executions
    assert counted is not None
    assert (run.id, run.outcome, run.waste, run.cost_source) == (report.execution, "lost", True, "catalog:1:estimate")
    assert (run.worker, run.started_ms) == (report.worker, 5)
    assert job.state is State.RUNNING
    assert job.cost_nano_usd == counted.cost_nano_usd == run.cost_nano_usd == ESTIMATE
    assert (await ledger.spend.read(now())).today["d"] == Spend(NanoUsd(ESTIMATE), 1)


@pytest.mark.parametrize("order", ["lost first", "lost last", "together"])
async def test_a_report_replaces_the_estimate_of_what_was_thought_lost(ledger: Ledger, order: str) -> None:
    batch = await a_batch(ledger)
    attempt = await running(ledger, batch=batch.id)
    report = an_execution_of(attempt)
    lost = what_was_lost(report)
    groups: dict[str, list[list[Report | Ruling]]]
    groups = {"lost first": [[lost], [report]], "lost last": [[report], [lost]], "together": [[lost, report]]}

    for group in groups[order]:
        await settle(ledger, *group)

    job, counted = await shown(ledger, attempt), await ledger.batches.find(batch.id, "default")
    [run] = job.executions
    assert counted is not None
    assert (run.id, run.outcome, run.waste) == (report.execution, "succeeded", False)
    assert job.state is State.SUCCEEDED
    assert (job.usage, job.cost_nano_usd) == (counted.usage, counted.cost_nano_usd) == (Usage(1, 0), 1000)
    assert (await ledger.spend.read(now())).today["d"] == Spend(NanoUsd(1000), 1)


async def test_a_duplicate_of_what_was_thought_lost_is_waste_that_costs(ledger: Ledger) -> None:
    attempt = await running(ledger)
    cut_off, other = an_execution_of(attempt), an_execution_of(attempt)

    for item in (what_was_lost(cut_off), other, cut_off):
        await settle(ledger, item)

    job = await shown(ledger, attempt)
    assert [(run.id, run.waste) for run in job.executions] == [(cut_off.execution, True), (other.execution, False)]
    assert (job.usage, job.cost_nano_usd) == (Usage(2, 0), 2000)


@pytest.mark.parametrize(
    "order", ["lost first", "lost last", "together", "reported", "reported first", "reported last"]
)
async def test_what_was_lost_of_a_request_is_charged_once_its_job_is_recorded(ledger: Ledger, order: str) -> None:
    """The ledger hears of an interactive request only when it ends."""
    await running(ledger)
    attempt = an_attempt(reply_to="x", key="k")
    report = a_report(job=attempt.job, interactive=attempt, execution=an_id())
    lost, end = what_was_lost(report), EndRequest(attempt, Failed(EngineFault("lost")))
    groups: dict[str, list[list[Report | Ruling]]] = {
        "lost first": [[lost], [end]],
        "lost last": [[end], [lost]],
        "together": [[lost, end]],
        "reported": [[lost], [report]],
        "reported first": [[report, lost], [end]],
        "reported last": [[lost, report], [end]],
    }

    for group in groups[order]:
        await settle(ledger, *group)

    job = await shown(ledger, attempt)
    [run] = job.executions
    assert run.id == report.execution
    assert job.cost_nano_usd == run.cost_nano_usd > 0
    assert (run.outcome, job.state) == (
        ("succeeded", State.SUCCEEDED) if order.startswith("reported") else ("lost", State.FAILED)
    )


async def test_the_execution_that_ends_a_job_is_recorded_however_many_its_attempt_had(ledger: Ledger) -> None:
    """Else the job would have an answer that no execution gave. The fixture checks the sums."""
    attempt = await running(ledger)
    wasted = [
        a_verdict(attempt, a_success(usage=Usage(1, 0)), delivery=n, transition=Ignore())
        for n in range(1, MOST_EXECUTIONS + 2)
    ]
    await ledger.settlement.settle(wasted[:-1], now=now())

    end = a_verdict(attempt, a_success(usage=Usage(1, 0)), delivery=MOST_EXECUTIONS + 2)
    await ledger.settlement.settle([end, wasted[-1]], now=now())

    job = await shown(ledger, attempt)
    assert job.state is State.SUCCEEDED
    assert [run.waste for run in job.executions] == [True] * MOST_EXECUTIONS + [False]
