"""Jobs are cancelled by their ids: what waits ends at once, what runs is told to stop, and of two ends one is recorded."""

import asyncio
from typing import Any
from uuid import UUID

import msgspec
import pytest

from broker.core.records import Marked, Requeue
from broker.core.settle import decide
from broker.ports import Ledger
from schemas.api import State
from schemas.job import Attempt
from schemas.outcome import Cancelled, EngineFault, Failed, Outcome, Released, Report, Usage
from schemas.ruling import Cancel, Expire, PutBack, Ruling, Suspect, Suspicion
from schemas.units import Ms
from tests.builders import a_report, a_success, an_entry, an_id, now
from tests.settling import PRICES, a_batch, dispatched, running, state_of

SUSPICION = Suspicion(an_id())


async def cancelled(ledger: Ledger, *jobs: UUID, tenant: str = "default") -> dict[UUID, State | None]:
    """How they ended, None if they run."""
    return dict((await ledger.cancels.cancel_jobs(jobs, tenant, now())).states)


async def settle(ledger: Ledger, *items: Report | Ruling) -> None:
    jobs = await ledger.settlement.open_jobs({item.job for item in items})
    await ledger.settlement.settle(decide(items, jobs, prices=PRICES, now=now(), unit=0.5), now=now())


async def body_of(ledger: Ledger, job: UUID) -> bytes:
    shown = await ledger.jobs.find(job, "default")
    assert shown is not None
    return bytes(shown.body)


# those that wait


async def test_a_waiting_job_ends_at_once_and_never_starts(ledger: Ledger) -> None:
    batch = (await a_batch(ledger)).id
    alone, one, other = an_entry(), an_entry(batch=batch, custom_id="c"), an_entry(batch=batch)
    await ledger.intake.admit([alone, one, other])

    answer = await ledger.cancels.cancel_jobs([alone.id, one.id], "default", now())

    assert {(done.job, done.batch, done.custom_id, done.state) for done in answer.ended} == {
        (alone.id, None, None, State.CANCELLED),
        (one.id, batch, "c", State.CANCELLED),
    }
    assert answer.states == {alone.id: State.CANCELLED, one.id: State.CANCELLED}
    assert [attempt.job for attempt in await dispatched(ledger, alone, one, other)] == [other.id]
    counted = await ledger.batches.find(batch, "default")
    assert counted is not None
    assert (counted.counts.admitted, counted.counts.cancelled) == (2, 1)
    page = await ledger.batches.results(batch, "default", None, 10)
    assert page is not None
    assert [(result.job, result.state, bytes(result.body)) for result in page.results] == [
        (one.id, State.CANCELLED, b"null")
    ]


async def test_a_batch_is_complete_when_its_last_job_is_cancelled(ledger: Ledger) -> None:
    batch = (await a_batch(ledger)).id
    entry = an_entry(batch=batch)
    await ledger.intake.admit([entry])
    await ledger.batches.seal(batch, "default", 1, now())

    await cancelled(ledger, entry.id)

    complete = await ledger.batches.find(batch, "default")
    assert complete is not None
    assert complete.completed_ms is not None


@pytest.mark.parametrize("suspicion", [None, SUSPICION])
async def test_a_job_that_waits_for_its_time_or_a_run_apart_ends_too(
    ledger: Ledger, suspicion: Suspicion | None
) -> None:
    attempt = await running(ledger)
    later = Requeue(Ms(now() + 60_000), counted=True, suspicion=suspicion)
    [verdict] = decide([a_report(Released(), job=attempt.job)], {}, prices=PRICES, now=now(), unit=0.5)
    await ledger.settlement.settle([msgspec.structs.replace(verdict, transition=later)], now=now())

    assert await cancelled(ledger, attempt.job) == {attempt.job: State.CANCELLED}
    shown = await ledger.jobs.find(attempt.job, "default")
    assert shown is not None
    assert (shown.attempt, await ledger.suspects.waiting()) == (1, [])


async def test_another_tenants_job_is_not_known_and_stays_as_it_is(ledger: Ledger) -> None:
    waits, runs = an_entry(), await running(ledger)
    await ledger.intake.admit([waits])

    assert await cancelled(ledger, waits.id, runs.job, an_id(), tenant="another") == {}

    assert await state_of(ledger, waits.id) is State.QUEUED
    assert await ledger.cancels.marked() == []


# those that run


async def test_a_running_job_is_marked_and_ends_with_its_workers_report(ledger: Ledger) -> None:
    attempt = await running(ledger)

    assert await cancelled(ledger, attempt.job) == {attempt.job: None}
    [marked] = await ledger.cancels.marked()
    assert (marked.job, marked.attempt) == (attempt.job, 1)
    shown = await ledger.jobs.find(attempt.job, "default")
    assert shown is not None
    assert (shown.state, shown.cancel_ms) == (State.RUNNING, marked.cancel_ms)

    await settle(ledger, a_report(Cancelled(Usage(10, 3), body=b'{"so":"far"}'), job=attempt.job))

    ended = await ledger.jobs.find(attempt.job, "default")
    assert ended is not None
    assert (ended.state, ended.usage, bytes(ended.body)) == (State.CANCELLED, Usage(10, 3), b'{"so":"far"}')
    assert ended.cost_nano_usd > 0
    assert await ledger.cancels.marked() == []


async def test_a_job_is_to_be_cancelled_since_it_first_was(ledger: Ledger) -> None:
    attempt = await running(ledger)

    first = await ledger.cancels.cancel_jobs([attempt.job], "default", Ms(1))
    again = await ledger.cancels.cancel_jobs([attempt.job], "default", Ms(2))

    assert first.marked == again.marked == (Marked(attempt.job, 1, "d", Ms(1)),)


@pytest.mark.parametrize(
    "outcome", [Failed(EngineFault("x")), Released()], ids=lambda outcome: type(outcome).__name__
)
async def test_a_job_that_is_to_be_cancelled_is_not_tried_again(ledger: Ledger, outcome: Outcome) -> None:
    attempt = await running(ledger)
    await cancelled(ledger, attempt.job)

    await settle(ledger, a_report(outcome, job=attempt.job))

    assert await state_of(ledger, attempt.job) is State.CANCELLED
    assert await ledger.attempts.running() == []


async def test_a_job_that_is_to_be_cancelled_is_not_put_back(ledger: Ledger) -> None:
    put_back, suspect = await running(ledger), await running(ledger)
    await cancelled(ledger, put_back.job, suspect.job)

    await settle(ledger, PutBack(put_back.job, 1), Suspect(suspect.job, 1, SUSPICION))

    assert [await state_of(ledger, one.job) for one in (put_back, suspect)] == [State.CANCELLED] * 2


async def test_what_runs_elsewhere_in_the_group_is_tried_again(ledger: Ledger) -> None:
    attempt, other = await running(ledger), await running(ledger)
    await cancelled(ledger, attempt.job)

    await settle(ledger, *(a_report(Released(), job=one.job) for one in (attempt, other)))

    assert await state_of(ledger, other.job) is State.QUEUED


async def test_a_success_that_is_recorded_first_stays(ledger: Ledger) -> None:
    attempt = await running(ledger)
    await cancelled(ledger, attempt.job)

    await settle(ledger, a_report(job=attempt.job))

    assert await state_of(ledger, attempt.job) is State.SUCCEEDED
    assert await cancelled(ledger, attempt.job) == {attempt.job: State.SUCCEEDED}


async def test_of_a_report_and_a_ruling_the_report_says_more(ledger: Ledger) -> None:
    attempt = await running(ledger)
    await cancelled(ledger, attempt.job)
    report = a_report(Cancelled(Usage(1, 1), body=b"{}"), job=attempt.job)

    await settle(ledger, Cancel(attempt.job, 1), report)

    assert await body_of(ledger, attempt.job) == b"{}"


async def test_a_ruling_beats_a_failure_that_could_be_tried_again_and_a_success_beats_it(ledger: Ledger) -> None:
    fails, succeeds = await running(ledger), await running(ledger)
    await cancelled(ledger, fails.job, succeeds.job)

    await settle(
        ledger,
        Cancel(fails.job, 1),
        Cancel(succeeds.job, 1),
        a_report(Failed(EngineFault("x")), job=fails.job),
        a_report(job=succeeds.job),
    )

    assert await state_of(ledger, fails.job) is State.CANCELLED
    assert await state_of(ledger, succeeds.job) is State.SUCCEEDED


@pytest.mark.parametrize("outcome", [a_success(), Failed(EngineFault("x"), Usage(5, 5)), Cancelled(Usage(5, 5))])
async def test_what_is_reported_after_the_ruling_is_waste_and_is_paid_for(ledger: Ledger, outcome: Outcome) -> None:
    attempt = await running(ledger)
    await cancelled(ledger, attempt.job)
    await settle(ledger, Cancel(attempt.job, 1))

    await settle(ledger, a_report(outcome, job=attempt.job))

    shown = await ledger.jobs.find(attempt.job, "default")
    assert shown is not None
    assert (shown.state, [one.waste for one in shown.executions]) == (State.CANCELLED, [True])
    assert shown.cost_nano_usd == shown.executions[0].cost_nano_usd > 0


async def test_a_ruling_on_another_attempt_ends_nothing(ledger: Ledger) -> None:
    attempt = await running(ledger)

    await settle(ledger, Cancel(attempt.job, 2))

    assert await state_of(ledger, attempt.job) is State.RUNNING


async def test_a_job_that_expires_first_stays_expired(ledger: Ledger) -> None:
    attempt = await running(ledger)
    await cancelled(ledger, attempt.job)

    await settle(ledger, Expire(attempt.job))
    await settle(ledger, Cancel(attempt.job, 1))

    assert await state_of(ledger, attempt.job) is State.EXPIRED


async def test_cancels_race_with_dispatch_and_lose_no_job(ledger: Ledger) -> None:
    entries = [an_entry() for _ in range(300)]
    await ledger.intake.admit(entries)

    starting = [dispatched(ledger, *entries[n : n + 20]) for n in range(0, 300, 20)]
    ending = [
        ledger.cancels.cancel_jobs([one.id for one in entries[n : n + 30]], "default", now())
        for n in range(0, 300, 30)
    ]
    started, answers = await asyncio.gather(_all(starting), asyncio.gather(*ending))

    ended = {one.job for answer in answers for one in answer.ended}
    marked = {one.job for answer in answers for one in answer.marked}
    assert ended | marked == {entry.id for entry in entries}
    assert ended.isdisjoint(marked)
    assert marked == {attempt.job for attempt in started}


async def _all(starting: list[Any]) -> list[Attempt]:
    return [attempt for part in starting for attempt in await part]


async def test_cancels_race_with_reports_and_one_wins(ledger: Ledger) -> None:
    attempts = [await running(ledger) for _ in range(60)]

    async def report(one: Attempt) -> None:
        await settle(ledger, a_report(Released() if one.job.int % 2 else a_success(), job=one.job))

    answers = await asyncio.gather(*(cancelled(ledger, one.job) for one in attempts), *map(report, attempts))

    for one, answer in zip(attempts, answers[: len(attempts)], strict=True):
        assert answer is not None
        said, is_now = answer[one.job], await state_of(ledger, one.job)
        assert is_now in {State.SUCCEEDED, State.CANCELLED}
        assert said in {None, is_now}
