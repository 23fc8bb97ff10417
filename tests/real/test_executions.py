"""Each execution is recorded once and charged once, whatever NATS counts and however often its report comes."""

from collections.abc import Sequence

import pytest

from broker.core.settle import decide
from broker.ports import Ledger
from schemas.api import JobShow
from schemas.job import Attempt
from schemas.outcome import EngineFault, Failed, Outcome, Report, Usage
from schemas.ruling import Ruling
from tests.builders import a_report, a_success, an_id, now
from tests.real.test_ledger import PRICES, running

pytestmark = pytest.mark.real


async def settle(ledger: Ledger, *items: Report | Ruling) -> None:
    """Settle them as one group, as a broker does."""
    jobs = await ledger.settlement.open_jobs({item.job for item in items})
    verdicts = decide(items, jobs, prices=PRICES, alive=("d",), now=now(), unit=0.0)
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
