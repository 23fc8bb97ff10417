"""What executions cost, wherever it is added up: the job, its batch, its result, the deployment's day."""

from typing import Any

import pytest

from broker.core.records import Final, Ignore, Requeue, Spend, Verdict
from broker.core.settle import decide
from broker.ports import Ledger
from schemas.api import BatchList, BatchStatus, Counts, JobShow, State
from schemas.job import Attempt
from schemas.outcome import BadRequest, Charge, EngineFault, Failed, Usage
from schemas.ruling import EndRequest, Expire
from schemas.units import Ms, NanoUsd
from tests.builders import a_success, an_attempt, an_entry, now
from tests.settling import PRICES, a_batch, a_verdict, dispatched, running, settled

FIRST, SECOND = Usage(100, 20, 30), Usage(1000, 200, 300)


BOTH = Usage(1100, 220, 330)


DAY_MS = 24 * 3_600_000


def failed(usage: Usage, nano_usd: int = 7) -> Failed:
    return Failed(EngineFault("x"), usage, Charge(NanoUsd(nano_usd), "provider"))


def succeeded(usage: Usage, nano_usd: int = 60) -> Any:
    return a_success(usage=usage, charge=Charge(NanoUsd(nano_usd), "provider"))


def again(attempt: Attempt, usage: Usage, **changes: Any) -> Verdict:
    """A failure that lets the job wait again."""
    return a_verdict(attempt, failed(usage), transition=Requeue(now(), counted=True), **changes)


async def shown(ledger: Ledger, attempt: Attempt) -> JobShow:
    job = await ledger.jobs.find(attempt.job, attempt.tenant)
    assert job is not None
    return job


async def test_an_answer_that_was_mended_is_marked(ledger: Ledger) -> None:
    odd, usual = await running(ledger), await running(ledger)

    await ledger.settlement.settle([a_verdict(odd, a_success(mended=True))], now=now())
    await ledger.settlement.settle([a_verdict(usual, a_success())], now=now())

    marks = [one.mended for attempt in (odd, usual) for one in (await shown(ledger, attempt)).executions]
    assert marks == [True, False]


async def test_what_a_failed_execution_cost_is_its_jobs_and_its_batchs(ledger: Ledger) -> None:
    batch = await a_batch(ledger)
    attempt = await running(ledger, batch=batch.id)

    await ledger.settlement.settle([again(attempt, FIRST)], now=now())

    job, counted = await shown(ledger, attempt), await ledger.batches.find(batch.id, "default")
    assert counted is not None
    assert (job.usage, job.cost_nano_usd) == (counted.usage, counted.cost_nano_usd) == (FIRST, 7)


async def test_an_end_adds_to_what_was_spent_before(ledger: Ledger) -> None:
    batch = await a_batch(ledger)
    attempt = await running(ledger, batch=batch.id)
    await ledger.settlement.settle([a_verdict(attempt, failed(FIRST), transition=Ignore())], now=now())

    await ledger.settlement.settle([a_verdict(attempt, succeeded(SECOND), delivery=2)], now=now())

    job, counted = await shown(ledger, attempt), await ledger.batches.find(batch.id, "default")
    page = await ledger.batches.results(batch.id, "default", None, 9)
    assert counted is not None
    assert page is not None
    [result] = page.results
    assert [run.usage for run in job.executions] == [FIRST, SECOND]
    assert (job.usage, job.cost_nano_usd) == (BOTH, 67)
    assert (result.usage, result.cost_nano_usd) == (BOTH, 67)
    assert (counted.usage, counted.cost_nano_usd) == (BOTH, 67)
    assert await ledger.batches.page("default", BatchList(9)) == (counted,)


async def test_a_late_success_adds_to_what_was_spent_before(ledger: Ledger) -> None:
    attempt = await running(ledger)
    await ledger.settlement.settle([again(attempt, FIRST)], now=now())

    await ledger.settlement.settle([a_verdict(attempt, succeeded(SECOND), delivery=2)], now=now())

    job = await shown(ledger, attempt)
    assert (job.usage, job.cost_nano_usd) == (BOTH, 67)


async def test_two_executions_of_a_job_in_one_group_both_cost(ledger: Ledger) -> None:
    attempt = await running(ledger)
    late = [
        a_verdict(attempt, failed(usage), transition=Ignore(), delivery=n)
        for n, usage in enumerate((FIRST, SECOND), 1)
    ]

    await ledger.settlement.settle(late, now=now())

    job = await shown(ledger, attempt)
    assert (job.usage, job.cost_nano_usd) == (BOTH, 14)


async def test_an_execution_costs_its_own_job_only(ledger: Ledger) -> None:
    attempt, other, last = await running(ledger), await running(ledger), await running(ledger)

    late = [a_verdict(one, failed(FIRST), transition=Ignore()) for one in (attempt, last)]
    await ledger.settlement.settle(late, now=now())

    assert (await shown(ledger, other)).usage == Usage()


async def test_an_interactive_request_costs_its_earlier_attempts_too(ledger: Ledger) -> None:
    first, other, last = (an_attempt(reply_to="x", key="k") for _ in range(3))
    second, last_again = (
        an_attempt(job=one.job, number=2, admitted_ms=one.admitted_ms, reply_to="x", key="k") for one in (first, last)
    )
    await settled(
        ledger,
        a_verdict(first, failed(FIRST), interactive=first),
        a_verdict(last, failed(FIRST), interactive=last),
        a_verdict(other, succeeded(FIRST), interactive=other),
    )

    ends = [a_verdict(one, succeeded(SECOND), interactive=one) for one in (second, last_again)]
    await settled(ledger, *ends)

    for one in (first, last):
        job = await shown(ledger, one)
        assert (job.usage, job.cost_nano_usd) == (BOTH, 67)
    assert (await shown(ledger, other)).usage == FIRST


async def test_an_interactive_request_that_is_given_up_on_costs_its_attempts(ledger: Ledger) -> None:
    attempt = an_attempt(reply_to="x", key="k")
    tries = [
        a_verdict(attempt, failed(usage), interactive=attempt, delivery=n)
        for n, usage in enumerate((FIRST, SECOND), 1)
    ]
    await settled(ledger, *tries)

    await settled(
        ledger, *decide([EndRequest(attempt, Failed(EngineFault("x")))], {}, prices=PRICES, now=now(), unit=0)
    )

    job = await shown(ledger, attempt)
    assert (job.usage, job.cost_nano_usd) == (BOTH, 14)


async def test_an_execution_that_ends_its_job_after_all_costs_once(ledger: Ledger) -> None:
    batch = await a_batch(ledger)
    attempt = await running(ledger, batch=batch.id)
    refused = Failed(BadRequest("x"), SECOND, Charge(NanoUsd(60), "provider"))
    late = a_verdict(attempt, refused, transition=Ignore(), delivery=2)
    await ledger.settlement.settle([again(attempt, FIRST), late], now=now())

    ends = await settled(
        ledger, a_verdict(attempt, refused, transition=Final(State.FAILED, None, BadRequest("x")), delivery=2)
    )

    job, counted = await shown(ledger, attempt), await ledger.batches.find(batch.id, "default")
    assert counted is not None
    assert ends == [(attempt.job, State.FAILED)]
    assert (job.usage, job.cost_nano_usd) == (counted.usage, counted.cost_nano_usd) == (BOTH, 67)


async def test_a_day_of_a_deployment_is_what_its_executions_cost(ledger: Ledger) -> None:
    noon = Ms(20_000 * DAY_MS + DAY_MS // 2)
    attempts = [await running(ledger) for _ in range(5)]
    group = [
        a_verdict(attempts[0], succeeded(FIRST, 1), deployment="d"),
        a_verdict(attempts[1], succeeded(FIRST, 2), deployment="e"),
        a_verdict(attempts[2], succeeded(FIRST, 4), deployment="d"),
        a_verdict(attempts[3], succeeded(FIRST, 0), deployment="d"),
    ]

    await ledger.settlement.settle(group, now=noon)
    await ledger.settlement.settle(group, now=noon)
    for delivery, at in enumerate((noon, Ms(noon + DAY_MS)), 1):
        late = a_verdict(attempts[4], failed(FIRST, 8), transition=Ignore(), delivery=delivery)
        await ledger.settlement.settle([late], now=at)

    assert (await ledger.spend.read(noon)).today == {"d": Spend(NanoUsd(13), 3), "e": Spend(NanoUsd(2), 1)}
    assert (await ledger.spend.read(Ms(noon + DAY_MS))).today == {"d": Spend(NanoUsd(8), 1)}
    assert (await ledger.spend.read(Ms(noon - DAY_MS))).today == {}


async def test_a_day_ends_at_midnight_utc(ledger: Ledger) -> None:
    midnight = Ms(20_000 * DAY_MS)
    attempt = await running(ledger)

    await ledger.settlement.settle([a_verdict(attempt, succeeded(FIRST, 1))], now=Ms(midnight - 1))

    assert (await ledger.spend.read(midnight)).today == {}
    assert (await ledger.spend.read(Ms(midnight - DAY_MS))).today == {"d": Spend(NanoUsd(1), 1)}


async def test_an_end_leaves_all_other_jobs_where_they_are(ledger: Ledger) -> None:
    at = Ms(now() + 60_000)
    waiting, other, third = (an_entry(deadline_ms=at) for _ in range(3))
    await ledger.intake.admit([waiting, other, third])
    going, going_on = await running(ledger, deadline_ms=at), await running(ledger, deadline_ms=at)
    gone = decide([Expire(job) for job in (waiting.id, going.job)], {}, prices=PRICES, now=now(), unit=0)

    ends = await settled(ledger, *gone)

    assert sorted(ends) == sorted([(waiting.id, State.EXPIRED), (going.job, State.EXPIRED)])
    assert [one.job for one in await ledger.attempts.running()] == [going_on.job]
    jobs = await ledger.backlog.page(other.flow, after=None, limit=9)
    assert {job.place.job for job in jobs} == {other.id, third.id}


@pytest.mark.parametrize("is_running", [False, True])
async def test_an_expiry_is_recorded_with_the_attempt_that_it_ended(ledger: Ledger, is_running: bool) -> None:  # noqa: FBT001
    entry = an_entry()
    await ledger.intake.admit([entry])
    [attempt] = await dispatched(ledger, entry)
    await ledger.settlement.settle([again(attempt, FIRST)], now=now())
    if is_running:
        await dispatched(ledger, entry)

    await settled(ledger, *decide([Expire(entry.id)], {}, prices=PRICES, now=now(), unit=0))

    assert (await shown(ledger, attempt)).attempt == (2 if is_running else 1)


@pytest.mark.parametrize("is_running", [False, True])
async def test_a_failure_of_an_attempt_that_is_over_does_not_end_its_job(ledger: Ledger, is_running: bool) -> None:  # noqa: FBT001
    entry = an_entry()
    await ledger.intake.admit([entry])
    [first] = await dispatched(ledger, entry)
    await ledger.settlement.settle([again(first, FIRST)], now=now())
    [second] = await dispatched(ledger, entry)
    if not is_running:
        await ledger.settlement.settle([again(second, FIRST)], now=now())
    late = a_verdict(first, failed(FIRST), transition=Final(State.DEAD, None, EngineFault("x")), delivery=2)

    ends = await settled(ledger, late)

    assert ends == []
    assert (await shown(ledger, first)).state is (State.RUNNING if is_running else State.QUEUED)


async def test_an_end_is_recorded_with_its_instant_and_its_failure(ledger: Ledger) -> None:
    usual, late = await running(ledger), await running(ledger)
    await ledger.settlement.settle([again(late, FIRST)], now=now())
    at = Ms(now() + 12_345)
    dead = Final(State.DEAD, None, EngineFault("why"))

    await ledger.settlement.settle(
        [a_verdict(one, failed(FIRST), transition=dead, delivery=2) for one in (usual, late)], now=at
    )

    for one in (usual, late):
        job = await shown(ledger, one)
        assert (job.state, job.attempt, job.settled_ms, job.failure) == (State.DEAD, 1, at, EngineFault("why"))


async def test_a_repeated_group_answers_the_same_ends_and_no_others(ledger: Ledger) -> None:
    attempt, other = await running(ledger), await running(ledger)
    await settled(ledger, a_verdict(attempt, succeeded(FIRST)), a_verdict(other, succeeded(FIRST)))

    ends = await settled(ledger, a_verdict(attempt, succeeded(FIRST)))

    assert ends == [(attempt.job, State.SUCCEEDED)]
    assert (await shown(ledger, attempt)).usage == FIRST


async def test_a_report_that_another_attempt_or_end_came_before_answers_no_end(ledger: Ledger) -> None:
    attempt, other = await running(ledger), await running(ledger)
    await settled(ledger, a_verdict(attempt, succeeded(FIRST)), a_verdict(other, succeeded(FIRST)))
    dead = Final(State.DEAD, None, EngineFault("x"))
    next_one = Attempt(**{name: getattr(attempt, name) for name in Attempt.__struct_fields__} | {"number": 2})

    other_attempt = await settled(ledger, a_verdict(next_one, succeeded(FIRST)))
    other_end = await settled(ledger, a_verdict(attempt, failed(FIRST), transition=dead, delivery=2))

    assert other_attempt == other_end == []


async def test_a_batch_stays_completed_when_it_was(ledger: Ledger) -> None:
    batch = await a_batch(ledger)
    attempt = await running(ledger, batch=batch.id)
    await ledger.batches.seal(batch.id, "default", 1, now())
    await settled(ledger, a_verdict(attempt, succeeded(FIRST)))
    completed = await ledger.batches.find(batch.id, "default")

    await ledger.settlement.settle([a_verdict(attempt, succeeded(SECOND), delivery=2)], now=Ms(now() + 10_000))

    after = await ledger.batches.find(batch.id, "default")
    assert completed is not None
    assert after is not None
    assert after.completed_ms == completed.completed_ms is not None
    assert after.usage == BOTH


async def test_only_the_batch_of_a_job_counts_it(ledger: Ledger) -> None:
    batch, other = await a_batch(ledger), await a_batch(ledger)
    attempts = [await running(ledger, batch=one) for one in (batch.id, None)]

    await settled(ledger, *(a_verdict(attempt, succeeded(FIRST)) for attempt in attempts))

    counted = await ledger.batches.find(batch.id, "default")
    assert counted is not None
    assert (counted.counts, counted.usage) == (Counts(admitted=1, succeeded=1), FIRST)
    assert await ledger.batches.find(other.id, "default") == other


@pytest.mark.parametrize("state", [State.SUCCEEDED, State.FAILED, State.EXPIRED, State.CANCELLED, State.DEAD])
async def test_a_batch_is_completed_by_ends_of_any_kind(ledger: Ledger, state: State) -> None:
    batch = await a_batch(ledger)
    attempts = [await running(ledger, batch=batch.id) for _ in range(2)]
    end = Final(state, None, None)
    await settled(ledger, a_verdict(attempts[0], succeeded(FIRST), transition=end))
    await ledger.batches.seal(batch.id, "default", 2, now())

    await settled(ledger, a_verdict(attempts[1], succeeded(FIRST), transition=end))

    completed = await ledger.batches.find(batch.id, "default")
    assert completed is not None
    assert completed.status is BatchStatus.COMPLETED
    assert completed.counts == Counts(admitted=2, **{state.value: 2})


async def test_ends_of_any_kind_complete_a_batch_that_is_sealed_after_them(ledger: Ledger) -> None:
    batch = await a_batch(ledger)
    states = [State.SUCCEEDED, State.FAILED, State.EXPIRED, State.CANCELLED, State.DEAD]
    ends = [
        a_verdict(await running(ledger, batch=batch.id), succeeded(FIRST), transition=Final(state, None, None))
        for state in states
    ]
    await settled(ledger, *ends)

    sealed = await ledger.batches.seal(batch.id, "default", len(states), now())

    assert sealed is not None
    assert sealed.status is BatchStatus.COMPLETED


@pytest.mark.parametrize("is_running", [False, True])
async def test_a_job_that_is_put_back_leaves_all_others_where_they_are(ledger: Ledger, is_running: bool) -> None:  # noqa: FBT001
    attempt, other = await running(ledger), await running(ledger)
    if not is_running:
        await settled(ledger, a_verdict(attempt, succeeded(FIRST)))

    done = await ledger.settlement.settle([again(attempt, SECOND, delivery=2)], now=now())

    assert [one.place.job for one in done.requeued] == ([attempt.job] if is_running else [])
    assert [one.job for one in await ledger.attempts.running()] == [other.job]


async def test_a_usual_end_leaves_all_other_jobs_where_they_are(ledger: Ledger) -> None:
    attempt, other = await running(ledger), await running(ledger)

    ends = await settled(ledger, a_verdict(attempt, succeeded(FIRST)))

    assert ends == [(attempt.job, State.SUCCEEDED)]
    assert [one.job for one in await ledger.attempts.running()] == [other.job]
    assert (await shown(ledger, other)).state is State.RUNNING


async def test_a_success_of_any_attempt_ends_its_waiting_job(ledger: Ledger) -> None:
    entry = an_entry()
    await ledger.intake.admit([entry])
    attempts: list[Attempt] = []
    for _ in range(2):
        attempts += await dispatched(ledger, entry)
        await ledger.settlement.settle([again(attempts[-1], FIRST)], now=now())

    ends = await settled(ledger, a_verdict(attempts[0], succeeded(SECOND), delivery=2))

    assert ends == [(entry.id, State.SUCCEEDED)]
    assert not await ledger.backlog.heads()


async def test_attempts_that_did_not_count_add_up(ledger: Ledger) -> None:
    entry = an_entry()
    await ledger.intake.admit([entry])
    for counted in (False, True, False):
        [attempt] = await dispatched(ledger, entry)
        back = Requeue(now(), counted=counted, tried=("d", "e"))
        await ledger.settlement.settle([a_verdict(attempt, failed(FIRST), transition=back)], now=now())

    job = (await ledger.settlement.open_jobs([entry.id]))[entry.id]

    assert (job.attempt, job.uncounted, job.tried) == (3, 2, ("d", "e"))
