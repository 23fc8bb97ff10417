"""Suspects in the ledger: how they wait for a run apart, run, are cleared and convicted."""

from typing import Any

import pytest

from broker.core.explain import with_holds
from broker.core.price import Prices
from broker.core.records import Pick, Settled
from broker.core.settle import decide
from broker.core.suspects import Turn
from broker.errors import Deposed
from broker.ports import Ledger
from schemas.api import HoldCode, JobShow, State
from schemas.job import Attempt
from schemas.outcome import EngineFault, Failed, Released, Report, WorkerLost
from schemas.ruling import Convict, Ruling, Suspect, Suspicion
from schemas.units import Ms
from tests.builders import a_catalog, a_report, a_worker, an_entry, an_id, now

CATALOG = a_catalog()


PRICES = Prices(catalog=CATALOG, source="catalog:1")


async def lead(ledger: Ledger) -> int:
    term = await ledger.leadership.lead("me", lease_ms=60_000)
    assert term is not None
    return term


async def dispatched(ledger: Ledger, **changes: Any) -> Attempt:
    entry = an_entry(**changes)
    await ledger.intake.admit([entry])
    picks = [Pick(entry.flow, entry.place, "d")]
    [attempt] = await ledger.attempts.dispatch(picks, term=await lead(ledger), controls=1, now=now())
    return attempt


async def settle(ledger: Ledger, *items: Report | Ruling) -> Settled:
    jobs = await ledger.settlement.open_jobs([item.job for item in items])
    verdicts = decide(items, jobs, prices=PRICES, alive=("d",), now=now(), unit=0.5)
    return await ledger.settlement.settle(verdicts, now=now())


async def suspected(ledger: Ledger, suspicion: Suspicion, **changes: Any) -> Attempt:
    """Return the attempt during which its worker died."""
    attempt = await dispatched(ledger, **changes)
    await settle(ledger, Suspect(attempt.job, attempt.number, suspicion))
    return attempt


async def run_apart(ledger: Ledger, suspicion: Suspicion, *attempts: Attempt) -> list[Attempt]:
    turn = Turn(a_worker(), "d", suspicion.group, tuple(attempt.job for attempt in attempts))
    return await ledger.suspects.dispatch(turn, term=await lead(ledger), now=now())


async def shown(ledger: Ledger, attempt: Attempt) -> JobShow:
    job = await ledger.jobs.find(attempt.job, "default")
    assert job is not None
    return with_holds(job, catalog=CATALOG, pools={}, now=now())


async def test_a_suspect_waits_for_a_run_apart_and_says_so(ledger: Ledger) -> None:
    suspicion = Suspicion(an_id(), 1, Ms(700))
    attempt = await suspected(ledger, suspicion)

    [waiting] = await ledger.suspects.waiting()
    job = await shown(ledger, attempt)

    assert (waiting.job, waiting.model, waiting.suspicion) == (attempt.job, "m", suspicion)
    assert await ledger.backlog.move_due(Ms(now() + 60_000), limit=10) == []
    assert (job.state, job.not_before_ms) == (State.QUEUED, None)
    assert job.waiting is not None
    assert [hold.code for hold in job.waiting.holds] == [HoldCode.SUSPECTED]
    assert [lane.waiting for lane in await ledger.status.backlog(now())] == [1]


async def test_suspects_run_apart_on_one_worker_in_their_group_and_through_no_stream(ledger: Ledger) -> None:
    suspicion = Suspicion(an_id())
    waiting = [await suspected(ledger, suspicion) for _ in range(2)]
    await dispatched(ledger)

    attempts = await run_apart(ledger, suspicion, *waiting)

    assert [(one.job, one.number, one.group) for one in attempts] == [
        (one.job, 2, suspicion.group) for one in waiting
    ]
    apart = await ledger.suspects.running()
    assert [(one.job, one.attempt, one.worker, one.suspicion) for one in apart] == [
        (one.job, 2, a_worker(), suspicion) for one in waiting
    ]
    assert sorted(str(one.ward) for one in await ledger.attempts.running()) == ["None", a_worker(), a_worker()]
    assert await run_apart(ledger, suspicion, *waiting) == []


async def test_a_suspect_is_run_by_the_leader_only(ledger: Ledger) -> None:
    suspicion = Suspicion(an_id())
    attempt = await suspected(ledger, suspicion)
    turn = Turn(a_worker(), "d", suspicion.group, (attempt.job,))

    with pytest.raises(Deposed):
        await ledger.suspects.dispatch(turn, term=await lead(ledger) + 1, now=now())

    assert len(await ledger.suspects.waiting()) == 1


async def test_a_suspect_whose_run_apart_ends_is_cleared(ledger: Ledger) -> None:
    suspicion = Suspicion(an_id())
    both = [await suspected(ledger, suspicion) for _ in range(2)]
    flow = an_entry().flow
    done, failed = await run_apart(ledger, suspicion, *both)

    await settle(
        ledger,
        a_report(job=done.job, attempt=2),
        a_report(Failed(EngineFault("x")), job=failed.job, attempt=2, deployment="e"),
    )

    assert await ledger.suspects.waiting() == []
    assert (await shown(ledger, done)).state is State.SUCCEEDED
    assert [job.place.job for job in await ledger.backlog.page(flow, after=None, limit=9)] == [failed.job]


async def test_a_suspect_that_its_worker_puts_back_waits_for_a_run_apart_again(ledger: Ledger) -> None:
    suspicion = Suspicion(an_id(), 1)
    [attempt] = await run_apart(ledger, suspicion, await suspected(ledger, suspicion))

    await settle(ledger, a_report(Released(), job=attempt.job, attempt=2))

    [waiting] = await ledger.suspects.waiting()
    assert waiting.suspicion == suspicion
    [again] = await run_apart(ledger, suspicion, attempt)
    assert again.number == 3


async def test_deaths_of_workers_do_not_use_up_a_jobs_attempts(ledger: Ledger) -> None:
    suspicion = Suspicion(an_id())
    attempt = await suspected(ledger, suspicion, max_attempts=1)
    for _ in range(3):
        [attempt] = await run_apart(ledger, suspicion, attempt)
        await settle(ledger, Suspect(attempt.job, attempt.number, suspicion))

    job = (await ledger.settlement.open_jobs([attempt.job]))[attempt.job]

    assert (job.attempt, job.uncounted, job.suspicion) == (4, 4, suspicion)


async def test_a_convicted_job_is_dead_with_what_happened(ledger: Ledger) -> None:
    suspicion = Suspicion(an_id(), 1)
    [attempt] = await run_apart(ledger, suspicion, await suspected(ledger, suspicion))

    await settle(ledger, Convict(attempt.job, attempt.number, 2))

    job = await shown(ledger, attempt)
    assert (job.state, job.failure) == (State.DEAD, WorkerLost(2))


async def test_a_suspect_is_convicted_of_no_attempt_that_it_does_not_run(ledger: Ledger) -> None:
    suspicion = Suspicion(an_id(), 1)
    attempt = await suspected(ledger, suspicion)

    await settle(ledger, Convict(attempt.job, attempt.number, 2))

    assert (await shown(ledger, attempt)).state is State.QUEUED


async def test_those_whose_worker_had_not_died_come_back_into_the_backlog(ledger: Ledger) -> None:
    cleared, other = Suspicion(an_id()), Suspicion(an_id())
    attempt, suspect = await suspected(ledger, cleared), await suspected(ledger, other)

    await ledger.suspects.clear([cleared.group])

    assert [one.job for one in await ledger.suspects.waiting()] == [suspect.job]
    assert [place.job for _, place in await ledger.backlog.move_due(now(), limit=9)] == [attempt.job]
