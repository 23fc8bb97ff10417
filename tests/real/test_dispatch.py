"""The leader with a real ledger and real streams; of the workers only what they say of themselves."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from broker.bus.beats import Beats
from broker.bus.runs import Rulings, Runs
from broker.core.backlog import FIRST_PAGE
from broker.core.pools import alive, snapshot
from broker.core.price import Prices
from broker.core.records import Entry, Pick, Running
from broker.core.settle import decide
from broker.metrics import BrokerMetrics
from broker.ports import Clock, Ledger
from broker.roles.controls_watch import ControlsWatch
from broker.roles.daily_spend import DailySpend
from broker.roles.dispatch import Dispatch
from broker.roles.late_acks import LateAcks
from broker.roles.sweep import OVERDUE_MS, Sweep
from schemas.api import State
from schemas.catalog import Catalog, Route
from schemas.jetstream.client import NatsClient as Nats
from schemas.job import Attempt, Lane
from schemas.outcome import Charge, Failed, Throttled
from schemas.units import Ms, NanoUsd
from schemas.worker import WorkerBeat
from tests import builders
from tests.builders import SEAL_KEY, a_batch_id, a_report, a_route, a_success, an_attempt, an_entry, now
from tests.declared import declare_pool, declare_streams
from tests.reporting import a_settle, report
from tests.system import until
from workers.beat import beat

pytestmark = pytest.mark.real


def a_beat(deployment: str, *, interactive: int = 0, **changes: Any) -> WorkerBeat:
    fields = {"deployment": deployment, "reserve": 0, "running": interactive, "interactive": interactive}
    return builders.a_beat(f"of-{deployment}", **{**fields, **changes})


@asynccontextmanager
async def a_leader(
    nc: Nats,
    ledger: Ledger,
    catalog: Catalog,
    *beats: WorkerBeat,
    settles: bool = True,
    clock: Clock = now,
    overdue_ms: Ms = OVERDUE_MS,
    **timing: Any,
) -> AsyncIterator[BrokerMetrics]:
    """Dispatch and settle over these workers, which take nothing."""
    await declare_streams(nc)
    for deployment in catalog.deployments:
        await declare_pool(nc, deployment, slots=4)
    heard, daily_spend, metrics = Beats(nc, clock=now), DailySpend(ledger.spend, now), BrokerMetrics()
    await heard.listen()
    controls = ControlsWatch(nc, ledger.controls)
    term = await ledger.leadership.lead("me", lease_ms=60_000)
    assert term is not None
    runs, rulings = Runs(nc), Rulings(nc, a_batch_id, lambda: SEAL_KEY)
    sweep = Sweep(
        nc=nc,
        attempts=ledger.attempts,
        jobs=ledger.settlement,
        runs=runs,
        rulings=rulings,
        catalog=lambda: catalog,
        clock=clock,
        metrics=metrics,
        overdue_ms=overdue_ms,
    )
    dispatch = Dispatch(
        nc,
        controls=controls,
        backlog=ledger.backlog,
        attempts=ledger.attempts,
        runs=runs,
        rulings=rulings,
        sweep=sweep,
        catalog=lambda: catalog,
        beats=heard,
        daily_spend=daily_spend,
        metrics=metrics,
        clock=clock,
        term=term,
        remade=asyncio.Event(),
        **{"idle_s": 0.05, "sweep_s": 0.1, "lease_s": 0.05, **timing},
    )
    settle = a_settle(
        nc,
        ledger,
        catalog=catalog,
        alive=lambda: alive(snapshot(catalog, heard.alive(), daily_spend.accounts(catalog), now=now())),
        late_acks=LateAcks(nc, beats=heard.alive),
        metrics=metrics,
    )
    saying = [beat(nc, lambda one=one: one) for one in beats]  # type: ignore[misc]
    roles = [dispatch.serve, settle.serve] if settles else [dispatch.serve]
    tasks = [asyncio.create_task(work) for work in (*saying, *(role() for role in (controls.serve, *roles)))]
    try:
        yield metrics
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def running(ledger: Ledger, *, at_least: int = 1) -> Sequence[Running]:
    async def enough() -> bool:
        return len(await ledger.attempts.running()) >= at_least

    await until(enough, f"{at_least} attempts run")
    return await ledger.attempts.running()


async def execute(url: str, query: str, *values: object) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(query, *values)
    finally:
        await connection.close()


async def spend(ledger: Ledger, requests: int, *, each: NanoUsd) -> None:
    """Interactive requests that `d` answered today."""
    answered = [an_attempt(lane=Lane.INTERACTIVE) for _ in range(requests)]
    outcome = a_success(charge=Charge(each, "provider"))
    verdicts = decide(
        [a_report(outcome, job=attempt.job, interactive=attempt) for attempt in answered],
        {},
        prices=Prices(catalog=Catalog(), source="catalog:1"),
        now=now(),
        unit=0.5,
    )
    await ledger.settlement.settle(verdicts, now=now())


async def committed(ledger: Ledger, entry: Entry, deployment: str) -> Sequence[Attempt]:
    """Running by the ledger, and in no stream."""
    term = await ledger.leadership.lead("me", lease_ms=60_000)
    assert term is not None
    await ledger.intake.admit([entry])
    return await ledger.attempts.dispatch(
        [Pick(entry.flow, entry.place, deployment)], term=term, controls=1, now=now()
    )


async def dispatched(nc: Nats, ledger: Ledger, entry: Entry, deployment: str) -> None:
    """As a leader did that is gone."""
    await declare_streams(nc)
    assert await Runs(nc).publish(await committed(ledger, entry, deployment))


@pytest.mark.parametrize("route", [(Route("d"), Route("e")), (Route("e"),)], ids=["in its route", "out of its route"])
async def test_attempts_of_a_deployment_without_workers_go_to_another(
    nc: Nats, ledger: Ledger, route: tuple[Route, ...]
) -> None:
    entry = an_entry()
    await dispatched(nc, ledger, entry, "d")

    async with a_leader(nc, ledger, a_route(*route), a_beat("e")):

        async def moved() -> bool:
            return await ledger.attempts.running() == [Running(entry.id, 2, "e", entry.flow)]

        await until(moved, "the job runs elsewhere")
        open_jobs = await ledger.settlement.open_jobs([entry.id])

    assert open_jobs[entry.id].uncounted == 1


async def test_attempts_of_a_deployment_with_workers_stay(nc: Nats, ledger: Ledger) -> None:
    gone, stays = an_entry(), an_entry()
    await dispatched(nc, ledger, gone, "d")
    await dispatched(nc, ledger, stays, "f")

    async with a_leader(nc, ledger, a_route(Route("d"), Route("e"), Route("f")), a_beat("e"), a_beat("f")):

        async def moved() -> bool:
            return any(one.job == gone.id and one.attempt == 2 for one in await ledger.attempts.running())

        await until(moved, "the other job was put back")
        left = await ledger.attempts.running()

    assert Running(stays.id, 1, "f", stays.flow) in left


async def test_jobs_that_wait_for_a_spare_do_not_hold_up_those_behind_them(
    nc: Nats, ledger: Ledger, ledger_url: str
) -> None:
    failed = [an_entry(deadline_ms=Ms(now() + 3_600_000)) for _ in range(1500)]
    await ledger.intake.admit(failed)
    await execute(ledger_url, "update infermq.waiting set tried = array['d'], attempt = 1")
    fresh = [an_entry(deadline_ms=Ms(now() + 7_200_000)) for _ in range(20)]
    await ledger.intake.admit(fresh)

    async with a_leader(nc, ledger, a_route(Route("d"), Route("e", 0)), a_beat("d"), a_beat("e", slots=1)):

        async def first_has_work() -> bool:
            return any(one.deployment == "d" for one in await ledger.attempts.running())

        await until(first_has_work, "the first deployment has work")


@pytest.mark.parametrize("there", [("d",), ("d", "e")], ids=["away", "at its cap"])
async def test_while_the_other_deployment_takes_nothing_a_throttled_job_waits_as_it_was_asked_to(
    nc: Nats, ledger: Ledger, there: tuple[str, ...]
) -> None:
    entry = an_entry()
    await dispatched(nc, ledger, entry, "d")
    throttled = a_report(Failed(Throttled(Ms(600_000))), job=entry.id)

    async with a_leader(nc, ledger, a_route(Route("d"), Route("e"), e=0.0), *map(a_beat, there)):
        await report(nc, throttled)

        async def waits() -> bool:
            return await ledger.backlog.next_due() is not None

        await until(waits, "the job waits for its time")
        shown = await ledger.jobs.find(entry.id, "default")

    assert shown is not None
    assert shown.waiting is not None
    assert shown.not_before_ms is not None
    assert shown.not_before_ms > now() + 500_000
    assert shown.waiting.tried == ("d",)


@pytest.mark.parametrize(("interactive", "started"), [(0, 10), (2, 8)])
async def test_near_its_cap_a_deployment_starts_what_is_left_pays_for(
    nc: Nats, ledger: Ledger, *, interactive: int, started: int
) -> None:
    await spend(ledger, 30, each=NanoUsd(500_000_000))
    await ledger.intake.admit([an_entry() for _ in range(64)])

    async with a_leader(nc, ledger, a_route(Route("d"), d=20.0), a_beat("d", slots=64, interactive=interactive)):
        found = await running(ledger)

    assert Counter(one.deployment for one in found) == {"d": started}


async def test_a_job_expires_on_time_behind_more_of_a_higher_priority_than_are_read_ahead(
    nc: Nats, ledger: Ledger
) -> None:
    """Nothing has room, so that nothing is ever consumed of what comes first."""
    at = now()
    first = [an_entry(priority=1, deadline_ms=Ms(at + 3_600_000)) for _ in range(FIRST_PAGE + 10)]
    late = [an_entry(priority=rank, deadline_ms=Ms(at + 1_000)) for rank in (0, -1)]
    kept = an_entry(priority=-1, deadline_ms=Ms(at + 3_600_000))
    await ledger.intake.admit([*first, *late, kept])

    async def is_over() -> bool:
        shown = [await ledger.jobs.find(entry.id, "default") for entry in late]
        return all(job is not None and job.state is State.EXPIRED for job in shown)

    async with a_leader(nc, ledger, a_route(Route("d")), reread_s=0.2, idle_s=0.1):
        await until(is_over, "both have expired")

    shown = [await ledger.jobs.find(entry.id, "default") for entry in (first[-1], kept)]
    assert [job.state for job in shown if job is not None] == [State.QUEUED, State.QUEUED]


async def test_of_one_tenants_jobs_the_highest_priority_is_dispatched_first(nc: Nats, ledger: Ledger) -> None:
    others, high = [an_entry() for _ in range(200)], an_entry(priority=5)
    await ledger.intake.admit([*others, high])

    async def some_run() -> bool:
        return bool(await ledger.attempts.running())

    async with a_leader(nc, ledger, a_route(Route("d")), a_beat("d", slots=1)):
        await until(some_run, "some run")

    running = {one.job for one in await ledger.attempts.running()}
    assert high.id in running
    assert len(running) < 100
