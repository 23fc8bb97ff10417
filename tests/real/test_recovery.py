"""What is lost in silence comes back: announcements, answers, attempts, outcomes, pulls."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from broker.bus.notices import announce_waiting
from broker.bus.runs import Runs, attempts_in_run
from broker.core.price import Prices
from broker.core.records import ONLY_SHARD, Entry, Pick, Requeue, Running, Shard
from broker.core.settle import decide
from broker.core.suspects import Turn
from broker.errors import Unavailable
from broker.ledger.attempts import PgAttempts
from broker.ledger.connection import Database
from broker.ledger.seal_keys import PgSealKeys
from broker.ports import Ledger
from broker.roles.dispatch import ROUND
from broker.roles.sweep import OVERDUE_MS
from schemas import subjects
from schemas.api import State
from schemas.catalog import Catalog, Model, Route
from schemas.jetstream.client import NatsClient as Nats
from schemas.job import Attempt
from schemas.outcome import EngineFault, Failed, Released, Throttled
from schemas.ruling import Suspect, Suspicion
from schemas.units import Ms
from schemas.worker import WorkerBeat
from tests.builders import a_report, a_route, a_success, a_worker, an_attempt, an_entry, an_id, now
from tests.declared import declare_streams
from tests.real.test_dispatch import a_beat, a_leader, committed, dispatched, running
from tests.reporting import report
from tests.settling import a_verdict
from tests.system import until
from workers.beat import beat, delete_beat

pytestmark = pytest.mark.real
NEVER_S = 3600.0
ON_NOTICE: dict[str, Any] = {"idle_s": NEVER_S, "reread_s": NEVER_S, "recount_s": NEVER_S, "sweep_s": NEVER_S}
"""A leader that looks once, and then only when it hears of something or knows when something is due."""


class Losing(PgAttempts):
    """Attempts whose first dispatch is committed, and its answer lost."""

    has_lost = False

    async def dispatch(
        self, picks: Sequence[Pick], *, term: int, controls: int, now: Ms, shard: Shard = ONLY_SHARD
    ) -> list[Attempt]:
        attempts = await super().dispatch(picks, term=term, controls=controls, now=now, shard=shard)
        if not self.has_lost:
            self.has_lost = True
            raise Unavailable("Postgres", "the answer was lost")
        return attempts


class Still:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = now()

    def __call__(self) -> Ms:
        return self.now

    def move(self, ms: int) -> None:
        self.now = Ms(self.now + ms)


def two_models() -> Catalog:
    """`m` on two deployments, `n` on the first of them only."""
    m = a_route(Route("d"), Route("e"))
    return Catalog(models={**m.models, "n": Model(route=(Route("d"),))}, deployments=m.deployments)


async def announced(nc: Nats, ledger: Ledger, *entries: Entry) -> None:
    """Taken in, as intake does it."""
    admitted = await ledger.intake.admit(entries)
    await announce_waiting(nc, admitted.waiting)


async def succeeded(ledger: Ledger, one: Running) -> None:
    """Recorded, and announced to nobody."""
    report = a_report(a_success(), job=one.job, attempt=one.attempt, deployment=one.deployment)
    prices = Prices(catalog=Catalog(), source="catalog:1")
    await ledger.settlement.settle(decide([report], {}, prices=prices, now=now(), unit=0.5), now=now())


async def runs(ledger: Ledger, job: UUID, *, attempt: int = 1) -> None:
    async def it_does() -> bool:
        return any((one.job, one.attempt) == (job, attempt) for one in await ledger.attempts.running())

    await until(it_does, f"attempt {attempt} runs")


async def is_left_alone(nc: Nats, ledger: Ledger, job: UUID) -> None:
    """Its first attempt runs on `d`, and nobody has said that it shall end, which settle might not have read yet."""
    assert (await nc.jetstream().stream_info(subjects.OUTCOME)).state.last_seq == 0
    assert (job, 1, "d") in {(one.job, one.attempt, one.deployment) for one in await ledger.attempts.running()}


async def holds(nc: Nats, stream: str, messages: int) -> None:
    async def it_does() -> bool:
        return (await nc.jetstream().stream_info(stream)).state.messages == messages

    await until(it_does, f"{stream} holds {messages}")


async def ended(ledger: Ledger, job: UUID) -> State:
    async def it_has() -> bool:
        shown = await ledger.jobs.find(job, "default")
        return shown is not None and shown.settled_ms is not None

    await until(it_has, "the job has ended")
    shown = await ledger.jobs.find(job, "default")
    assert shown is not None
    return shown.state


async def swept(nc: Nats, ledger: Ledger, *, on: str = "e") -> None:
    """Wait until the leader has measured its workers and swept after that: twice it finds a stray."""
    for _ in range(2):
        strays: Sequence[Attempt] = []
        while not strays:  # unless the leader was faster
            strays = await committed(ledger, an_entry(tenant="stray"), on)

        async def is_back(job: UUID = strays[0].job) -> bool:
            return (job, 1) in await attempts_in_run(nc)

        await until(is_back, "the stray is published")


@asynccontextmanager
async def saying(nc: Nats, state: WorkerBeat) -> AsyncIterator[None]:
    """A worker's beats."""
    task = asyncio.create_task(beat(nc, lambda: state))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


# announcements


async def test_a_job_that_was_announced_starts_at_once(nc: Nats, ledger: Ledger) -> None:
    async with a_leader(nc, ledger, a_route(Route("d")), a_beat("d"), idle_s=NEVER_S, reread_s=NEVER_S):
        for tenant in "ab":  # by the second, the first reading is over
            entry = an_entry(tenant=tenant)
            await announced(nc, ledger, entry)
            await runs(ledger, entry.id)


async def test_a_job_that_waits_for_a_worker_starts_when_one_comes(nc: Nats, ledger: Ledger) -> None:
    first, waits = an_entry(), an_entry(model="n")
    async with a_leader(nc, ledger, two_models(), a_beat("e"), idle_s=NEVER_S):
        await announced(nc, ledger, first, waits)
        await runs(ledger, first.id)

        async with saying(nc, a_beat("d")):
            await runs(ledger, waits.id)


async def test_a_job_whose_announcement_was_lost_is_found(nc: Nats, ledger: Ledger) -> None:
    first, lost = an_entry(tenant="a"), an_entry(tenant="b")
    async with a_leader(nc, ledger, a_route(Route("d")), a_beat("d"), reread_s=0.1):
        await announced(nc, ledger, first)
        await runs(ledger, first.id)

        await ledger.intake.admit([lost])

        await runs(ledger, lost.id)


async def test_a_job_that_is_put_back_starts_again_at_once(nc: Nats, ledger: Ledger) -> None:
    entry = an_entry()
    async with a_leader(nc, ledger, a_route(Route("d")), a_beat("d"), idle_s=NEVER_S, reread_s=NEVER_S):
        await announced(nc, ledger, entry)
        await runs(ledger, entry.id)

        await report(nc, a_report(Released(), job=entry.id))

        await runs(ledger, entry.id, attempt=2)


async def test_a_job_that_waits_for_its_time_starts_when_that_comes(nc: Nats, ledger: Ledger) -> None:
    clock, entry = Still(), an_entry()
    async with a_leader(nc, ledger, a_route(Route("d")), a_beat("d"), reread_s=NEVER_S, clock=clock):
        await announced(nc, ledger, entry)
        await runs(ledger, entry.id)
        await report(nc, a_report(Failed(Throttled(Ms(600_000))), job=entry.id))
        await swept(nc, ledger)
        assert await ledger.backlog.next_due() is not None

        clock.move(1_300_000)

        await runs(ledger, entry.id, attempt=2)


async def delayed(ledger: Ledger, *entries: Entry, due_ms: Ms) -> None:
    """Put back until that instant, and announced to nobody."""
    attempts = [attempt for entry in entries for attempt in await committed(ledger, entry, "d")]
    again = Requeue(due_ms, counted=True)
    await ledger.settlement.settle(
        [a_verdict(one, Failed(EngineFault("x")), transition=again) for one in attempts], now=now()
    )


async def test_a_job_that_waits_for_its_time_is_not_kept_waiting_when_that_comes(nc: Nats, ledger: Ledger) -> None:
    """The leader hears of it, and of nothing else."""
    entry = an_entry()
    async with a_leader(nc, ledger, a_route(Route("d")), a_beat("d"), **ON_NOTICE):
        await announced(nc, ledger, entry)
        await runs(ledger, entry.id)

        await report(nc, a_report(Failed(Throttled(Ms(300))), job=entry.id))

        await runs(ledger, entry.id, attempt=2)


async def test_a_job_that_waits_for_its_time_starts_under_the_next_leader(nc: Nats, ledger: Ledger) -> None:
    entry = an_entry()
    await delayed(ledger, entry, due_ms=Ms(now() + 500))

    async with a_leader(nc, ledger, a_route(Route("d")), a_beat("d"), **ON_NOTICE):
        await runs(ledger, entry.id, attempt=2)


async def test_a_job_whose_time_was_not_announced_starts_when_that_comes(nc: Nats, ledger: Ledger) -> None:
    entry = an_entry()
    async with a_leader(nc, ledger, a_route(Route("d")), a_beat("d"), recount_s=0.1, reread_s=NEVER_S):
        await swept(nc, ledger, on="d")
        await delayed(ledger, entry, due_ms=Ms(now() + 100))

        await runs(ledger, entry.id, attempt=2)


async def test_all_whose_time_comes_at_once_are_moved_page_by_page(nc: Nats, ledger: Ledger) -> None:
    entries = [an_entry() for _ in range(ROUND + 2)]
    await ledger.intake.admit(entries)
    term = await ledger.leadership.lead("me", lease_ms=60_000)
    assert term is not None
    picks = [Pick(entry.flow, entry.place, "d") for entry in entries]
    attempts = await ledger.attempts.dispatch(picks, term=term, controls=1, now=now())
    again = Requeue(Ms(now() + 500), counted=True)
    await ledger.settlement.settle(
        [a_verdict(one, Failed(EngineFault("x")), transition=again) for one in attempts], now=now()
    )

    async with a_leader(nc, ledger, a_route(Route("d")), **ON_NOTICE):

        async def none_is_left() -> bool:
            return await ledger.backlog.next_due() is None

        await until(none_is_left, "all are in the backlog")


async def test_a_job_whose_deadline_passes_while_it_waits_for_its_time_is_ended(nc: Nats, ledger: Ledger) -> None:
    entry = an_entry(deadline_ms=Ms(now() + 500))
    await delayed(ledger, entry, due_ms=Ms(now() + 3_600_000))

    async with a_leader(nc, ledger, a_route(Route("d"))):
        assert await ended(ledger, entry.id) is State.EXPIRED


async def test_room_that_was_announced_is_used_at_once(nc: Nats, ledger: Ledger) -> None:
    await ledger.intake.admit([an_entry() for _ in range(3)])
    async with a_leader(nc, ledger, a_route(Route("d")), a_beat("d", slots=1), idle_s=NEVER_S, recount_s=NEVER_S):
        first, _ = await running(ledger, at_least=2)

        await report(nc, a_report(a_success(), job=first.job))

        await holds(nc, subjects.RUN, 3)


async def test_room_whose_announcement_was_lost_is_found(nc: Nats, ledger: Ledger) -> None:
    await ledger.intake.admit([an_entry() for _ in range(3)])
    async with a_leader(nc, ledger, a_route(Route("d")), a_beat("d", slots=1), recount_s=0.1):
        first, _ = await running(ledger, at_least=2)

        await succeeded(ledger, first)

        await holds(nc, subjects.RUN, 3)


async def test_a_new_leader_counts_what_runs_already(nc: Nats, ledger: Ledger) -> None:
    for _ in range(2):
        await dispatched(nc, ledger, an_entry(tenant="a"), "d")
    await ledger.intake.admit([an_entry(tenant="b"), an_entry(tenant="c")])
    async with a_leader(nc, ledger, a_route(Route("d")), a_beat("d", slots=2), recount_s=NEVER_S, lease_s=1800.0):
        found = await running(ledger, at_least=3)

        await swept(nc, ledger)

        assert len([one for one in await ledger.attempts.running() if one.deployment == "d"]) == len(found) == 3


# answers and attempts


async def test_a_dispatch_whose_answer_was_lost_is_published_soon(nc: Nats, ledger: Ledger, ledger_url: str) -> None:
    entry = an_entry()
    async with Database.open(ledger_url, connections=1) as database:
        losing = replace(ledger, attempts=Losing(database, PgSealKeys(database)))
        async with a_leader(nc, losing, a_route(Route("d")), a_beat("d"), sweep_s=NEVER_S):
            await announced(nc, ledger, entry)

            await holds(nc, subjects.RUN, 1)

            assert await attempts_in_run(nc) == {(entry.id, 1)}
            assert await ledger.attempts.running() == [Running(entry.id, 1, "d", entry.flow)]


async def test_attempts_that_the_stream_refused_are_published_soon(nc: Nats, ledger: Ledger) -> None:
    js = nc.jetstream()
    async with a_leader(nc, ledger, a_route(Route("d")), a_beat("d"), sweep_s=NEVER_S):
        info = await js.stream_info(subjects.RUN)
        await js.update_stream(info.config.evolve(max_msgs=1))
        await announced(nc, ledger, an_entry(), an_entry())
        await running(ledger, at_least=2)
        await holds(nc, subjects.RUN, 1)

        await js.update_stream(info.config)

        await holds(nc, subjects.RUN, 2)


async def test_it_is_noticed_when_the_stream_refuses_one_of_several(nc: Nats) -> None:
    await declare_streams(nc)
    info = await nc.jetstream().stream_info(subjects.RUN)
    await nc.jetstream().update_stream(info.config.evolve(max_msg_size=2000))
    large, small = an_attempt(body=b"x" * 3000), an_attempt()
    runs = Runs(nc)

    before = await runs.publish([small, small])
    during = await runs.publish([small, large, small])
    after = await runs.publish([small, small])

    assert (before, during, after) == (True, False, True)
    await holds(nc, subjects.RUN, 6)


async def test_only_what_is_in_no_stream_is_published_again(nc: Nats, ledger: Ledger) -> None:
    handed, reported, lost = an_entry(), an_entry(), an_entry()
    await dispatched(nc, ledger, handed, "d")
    await committed(ledger, reported, "d")
    await committed(ledger, lost, "d")
    await report(nc, a_report(a_success(), job=reported.id))

    async with a_leader(nc, ledger, a_route(Route("d")), a_beat("d"), settles=False) as metrics:
        await swept(nc, ledger, on="d")

        assert {(handed.id, 1), (lost.id, 1)} <= await attempts_in_run(nc)
        assert (reported.id, 1) not in await attempts_in_run(nc)
        assert metrics.registry.get_sample_value("infermq_strays_total") == 3  # with the two that were swept for


async def test_what_runs_apart_is_no_stray_and_is_not_given_up_on(nc: Nats, ledger: Ledger) -> None:
    entry, suspicion = an_entry(), Suspicion(an_id())
    [attempt] = await committed(ledger, entry, "d")
    [verdict] = decide(
        [Suspect(entry.id, 1, suspicion)],
        await ledger.settlement.open_jobs([entry.id]),
        prices=Prices(catalog=a_route(Route("d")), source="catalog:1"),
        now=now(),
        unit=0.5,
    )
    await ledger.settlement.settle([verdict], now=now())
    term = await ledger.leadership.lead("me", lease_ms=60_000)
    assert term is not None
    await ledger.suspects.dispatch(Turn(a_worker("gone"), "d", suspicion.group, (attempt.job,)), term=term, now=now())

    async with a_leader(nc, ledger, a_route(Route("d"), Route("e")), a_beat("e")):
        await swept(nc, ledger)

        assert (entry.id, 2) not in await attempts_in_run(nc)
        assert [one.job for one in await ledger.suspects.running()] == [entry.id]


async def test_running_jobs_are_ended_seconds_after_their_deadlines_and_not_before(nc: Nats, ledger: Ledger) -> None:
    """Their worker stands still, or its clock is slow."""
    clock = Still()
    long_ago, just_now = an_entry(deadline_ms=clock() - OVERDUE_MS - 1), an_entry(deadline_ms=clock() - 1)
    for entry in (long_ago, just_now):
        await dispatched(nc, ledger, entry, "d")

    async with a_leader(nc, ledger, a_route(Route("d")), clock=clock, recount_s=0.05):
        assert await ended(ledger, long_ago.id) is State.EXPIRED
        await swept(nc, ledger)

        assert just_now.id in {one.job for one in await ledger.attempts.running()}
        clock.move(OVERDUE_MS)
        assert await ended(ledger, just_now.id) is State.EXPIRED

    assert OVERDUE_MS <= 5_000


async def test_a_job_whose_deadline_passes_in_the_backlog_is_ended(nc: Nats, ledger: Ledger) -> None:
    past, ahead = an_entry(deadline_ms=now() - 1), an_entry()
    await ledger.intake.admit([past, ahead])

    async with a_leader(nc, ledger, a_route(Route("d"))):
        assert await ended(ledger, past.id) is State.EXPIRED

        assert len(await ledger.backlog.page(ahead.flow, after=None, limit=9)) == 1


# silence of workers


async def test_a_deployment_is_given_up_on_only_after_long_silence(nc: Nats, ledger: Ledger) -> None:
    clock, entry = Still(), an_entry()
    await dispatched(nc, ledger, entry, "d")
    route = a_route(Route("d"), Route("e"))

    async with a_leader(nc, ledger, route, a_beat("e"), lease_s=0.75, clock=clock):
        await swept(nc, ledger)
        clock.move(1000)
        await swept(nc, ledger)
        await is_left_alone(nc, ledger, entry.id)

        clock.move(1000)

        await runs(ledger, entry.id, attempt=2)


async def test_a_deployment_that_is_heard_again_begins_anew(nc: Nats, ledger: Ledger) -> None:
    clock, entry, only_there = Still(), an_entry(), an_entry(model="n")
    await dispatched(nc, ledger, entry, "d")

    async with a_leader(nc, ledger, two_models(), a_beat("e"), lease_s=0.75, clock=clock):
        await swept(nc, ledger)
        clock.move(1000)
        await swept(nc, ledger)
        async with saying(nc, a_beat("d")):
            await announced(nc, ledger, only_there)
            await runs(ledger, only_there.id)
        await delete_beat(nc, a_worker("of-d"))
        clock.move(1000)
        await swept(nc, ledger)

        await is_left_alone(nc, ledger, entry.id)


async def test_what_a_draining_worker_has_left_is_not_given_up(nc: Nats, ledger: Ledger) -> None:
    clock, entry = Still(), an_entry()
    await dispatched(nc, ledger, entry, "d")
    beats = (a_beat("d", draining=True), a_beat("e"))

    async with a_leader(nc, ledger, a_route(Route("d"), Route("e")), *beats, lease_s=0.75, clock=clock):
        for _ in range(2):
            await swept(nc, ledger)
            clock.move(2000)
        await swept(nc, ledger)

        await is_left_alone(nc, ledger, entry.id)


async def test_while_the_leader_was_away_no_worker_was_silent(nc: Nats, ledger: Ledger) -> None:
    clock, entry = Still(), an_entry()
    await dispatched(nc, ledger, entry, "d")

    async with a_leader(nc, ledger, a_route(Route("d"), Route("e")), a_beat("e"), lease_s=5.0, clock=clock):
        await swept(nc, ledger)

        clock.move(600_000)
        await swept(nc, ledger)

        await is_left_alone(nc, ledger, entry.id)


async def test_while_nobody_is_heard_it_is_the_leader_that_is_cut_off(nc: Nats, ledger: Ledger) -> None:
    clock, entry = Still(), an_entry()
    await dispatched(nc, ledger, entry, "d")

    async with a_leader(nc, ledger, a_route(Route("d"), Route("e")), lease_s=0.75, clock=clock):
        await swept(nc, ledger)
        clock.move(2000)
        await swept(nc, ledger)

        async with saying(nc, a_beat("e")):
            started = an_entry(tenant="another")
            await announced(nc, ledger, started)
            await runs(ledger, started.id)
            await swept(nc, ledger)

        await is_left_alone(nc, ledger, entry.id)
