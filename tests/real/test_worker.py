"""A worker against a real NATS; the test is its broker."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import msgspec
import pytest
from msgspec.structs import replace
from nats.js.api import RawStreamMsg

from broker.bus.notices import announce_abort
from broker.bus.runs import Runs
from schemas import subjects
from schemas.catalog import Deployment, Revision
from schemas.codec import FULL, KIND, Bundle, packed
from schemas.engine_options import SimulatedOptions
from schemas.jetstream import Message, deliveries
from schemas.jetstream.client import NatsClient as Nats
from schemas.job import Attempt, Lane
from schemas.outcome import (
    BadRequest,
    Cancelled,
    ContextTooLong,
    EngineFault,
    EngineLost,
    Expired,
    Failed,
    Failure,
    Outcome,
    Released,
    Report,
    ResponseTooLarge,
    Succeeded,
    TimedOut,
    Timings,
    failure_kind,
    public_message,
)
from schemas.units import Ms
from schemas.worker import held_in
from tests.builders import BODY, a_catalog, a_chat, a_report, an_attempt, an_entropy, an_id, now
from tests.declared import declare_pool, declare_streams
from tests.scripted import round_trip
from workers.catalog import ActiveCatalog
from workers.engines.simulated import Simulated
from workers.metrics import WorkerMetrics
from workers.pool import Slots
from workers.ports import Capacity
from workers.puller import Puller
from workers.reply import problem_of
from workers.report import REPORT_DELAYS, ReportDelays, Reporter, wait_s
from workers.worker import Worker

pytestmark = pytest.mark.real
_reports = Bundle(Report)


class Pausing(Simulated):
    """An engine that takes nothing for a while, as one whose provider throttles it does."""

    paused = False

    def capacity(self) -> Capacity:
        return Capacity(0, 0) if self.paused else super().capacity()


class Bench:
    """A worker, and what it reports."""

    def __init__(self, nc: Nats, worker: Worker, engine: Pausing) -> None:
        self.nc = nc
        self.worker = worker
        self.pool = worker.pool
        self.engine = engine
        self.reports: asyncio.Queue[Report] = asyncio.Queue()

    async def heard(self, message: Message) -> None:
        reports, why = _reports.unpack(message.data)
        assert why is None
        for report in reports:
            self.reports.put_nowait(report)

    async def report(self) -> Report:
        async with asyncio.timeout(20):
            return await self.reports.get()

    async def run(self, *attempts: Attempt) -> list[Report]:
        assert await Runs(self.nc).publish(attempts)
        return [await self.report() for _ in attempts]

    async def outcome(self, attempt: Attempt) -> Outcome:
        return (await self.run(attempt))[0].outcome

    async def holds(self, stream: str, messages: int) -> None:
        """Wait until a stream holds so many."""
        async with asyncio.timeout(10):
            while (await self.nc.jetstream().stream_info(stream)).state.messages != messages:
                await asyncio.sleep(0.01)

    async def stored(self, stream: str) -> list[RawStreamMsg]:
        """What a stream holds."""
        js = self.nc.jetstream()
        state = (await js.stream_info(stream)).state
        return [await js.get_msg(stream, number) for number in range(state.first_seq, state.last_seq + 1)]

    async def leases(self, attempts: int) -> None:
        """Wait until the worker holds so many."""
        async with asyncio.timeout(20):
            while True:
                info = await self.nc.jetstream().consumer_info(subjects.RUN, subjects.pool_consumer("d"))
                if info.num_ack_pending == attempts:
                    return
                await asyncio.sleep(0.01)

    async def asks(self, stream: str, *, pulls: int) -> None:
        """Wait until the worker has so many pulls of a stream out."""
        async with asyncio.timeout(20):
            while True:
                info = await self.nc.jetstream().consumer_info(stream, subjects.pool_consumer("d"))
                if info.num_waiting == pulls:
                    return
                await asyncio.sleep(0.01)

    async def redelivers_after(self, seconds: float) -> None:
        """How long a lease lasts that is not extended."""
        js = self.nc.jetstream()
        config = (await js.consumer_info(subjects.RUN, subjects.pool_consumer("d"))).config
        config.ack_wait = seconds
        await js.add_consumer(subjects.RUN, config)

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():
                await asyncio.sleep(0.01)


@asynccontextmanager
async def a_pool(
    nc: Nats,
    *,
    lease_ms: int = 15_000,
    slots: int = 4,
    options: dict[str, Any] | None = None,
    tick_s: float = 0.02,
    delays: ReportDelays = REPORT_DELAYS,
    kind: type[Pausing] = Pausing,
    **changes: Any,
) -> AsyncIterator[Bench]:
    await declare_streams(nc)
    await declare_pool(nc, "d", slots=slots)
    catalog = a_catalog(options=options, **changes)
    deployment: Deployment = catalog.deployments["d"]
    options_read = msgspec.convert(deployment.options, SimulatedOptions)
    engine = kind(options_read, Capacity(slots, deployment.reserve), deployment.context_tokens)
    worker = Worker(
        nc,
        engine,
        name="w",
        catalog=ActiveCatalog(Revision(1, Ms(0), catalog), "d"),
        lease_ms=Ms(lease_ms),
        clock=now,
        entropy=an_entropy,
        message_ids=lambda: str(an_id()),
        metrics=WorkerMetrics(),
        reconnected=asyncio.Event(),
        tick_s=tick_s,
        keepalive_ms=Ms(50),
        delays=delays,
    )
    bench = Bench(nc, worker, engine)
    await nc.subscribe(subjects.outcome("d"), cb=bench.heard)
    serving = asyncio.create_task(worker.serve())
    try:
        yield bench
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


HANG = {"match": "hang", "kind": "hang"}
SLOW = {"decode_tokens_per_s": 1.0}
"""Eight seconds an answer: as good as for ever here."""


async def test_an_attempt_says_its_limit_of_output_where_the_catalog_does_not(nc: Nats) -> None:
    async with a_pool(nc, options={"output_tokens": 10}) as bench:
        body = b'{"messages":[{"role":"user","content":"Say much."}]}'

        outcome = await bench.outcome(an_attempt(model="other@d", body=body, max_output_tokens=3))

        assert isinstance(outcome, Succeeded)
        assert outcome.usage.output_tokens == 3


async def test_attempts_run_and_their_messages_go_once_the_outcome_is_stored(nc: Nats) -> None:
    async with a_pool(nc) as bench:
        attempts = [a_chat(f"n{n}") for n in range(20)]

        reports = await bench.run(*attempts)

        assert {report.job for report in reports} == {attempt.job for attempt in attempts}
        assert all(isinstance(report.outcome, Succeeded) for report in reports)
        assert all(report.run_ack and report.delivery == 1 for report in reports)
        await bench.holds(subjects.RUN, 0)


async def test_never_more_is_leased_than_there_are_slots(nc: Nats) -> None:
    async with a_pool(nc, slots=3, reserve=1, options={"failures": [HANG]}) as bench:
        assert await Runs(nc).publish([a_chat("hang") for _ in range(10)])
        await bench.until(lambda: bench.pool.leased.running == 3)
        for _ in range(3):  # meanwhile it could ask for more
            await heard_by(nc, an_ask("x"))

        info = await nc.jetstream().consumer_info(subjects.RUN, subjects.pool_consumer("d"))

        assert info.num_ack_pending == 3
        assert info.num_pending == 7


NO_TICK_S = 60.0
"""Pulls stay out, whatever the capacity is."""


async def test_a_beat_names_every_execution_that_is_held_until_its_outcome_is_stored(nc: Nats) -> None:
    async with a_pool(nc, slots=2, reserve=1, options={"failures": [HANG]}) as bench:
        jobs = [a_chat("hang"), a_chat("hang", number=3)]
        assert await Runs(nc).publish(jobs)
        request = an_ask("hang")
        await nc.jetstream().publish(subjects.now("d"), packed(request))
        await bench.until(lambda: bench.pool.running == 3)

        held = list(held_in(bench.worker.beat().held))

        assert {(one.job, one.attempt) for one in held} == {(one.job, one.number) for one in [*jobs, request]}
        assert len({one.execution for one in held}) == 3
        bench.pool.put_back()
        await bench.until(lambda: not bench.pool.held)
        assert not bench.worker.beat().held


async def test_no_attempt_comes_for_which_no_slot_is_free(nc: Nats) -> None:
    async with a_pool(nc, slots=2, options=SLOW, tick_s=NO_TICK_S) as bench:
        assert await Runs(nc).publish([a_chat("a")])
        await bench.until(lambda: bench.pool.running == 1)

        assert await Runs(nc).publish([a_chat("b"), a_chat("c")])
        await bench.until(lambda: bench.pool.running == 2)
        await round_trip(nc)

        consumer = await nc.jetstream().consumer_info(subjects.RUN, subjects.pool_consumer("d"))
        assert (consumer.num_ack_pending, consumer.num_pending) == (2, 1)


async def test_what_comes_when_capacity_fell_is_put_back_once(nc: Nats) -> None:
    async with a_pool(nc, tick_s=NO_TICK_S) as bench:
        await bench.asks(subjects.RUN, pulls=1)
        bench.engine.paused = True

        report = (await bench.run(a_chat("second")))[0]

        assert report.outcome == Released()
        assert report.delivery == 1
        await bench.holds(subjects.RUN, 0)


async def test_a_pull_is_withdrawn_when_capacity_falls(nc: Nats) -> None:
    async with a_pool(nc) as bench:
        await bench.asks(subjects.RUN, pulls=1)
        bench.engine.paused = True
        await bench.asks(subjects.RUN, pulls=0)

        assert await Runs(nc).publish([a_chat("later")])
        bench.engine.paused = False

        assert isinstance((await bench.report()).outcome, Succeeded)


async def test_an_interactive_attempt_that_comes_when_capacity_fell_is_turned_back_and_leaves_no_trace(
    nc: Nats,
) -> None:
    async with a_pool(nc, reserve=1, tick_s=NO_TICK_S) as bench:
        await heard_by(nc, an_ask("first"))
        await bench.report()
        await bench.asks(subjects.NOW, pulls=1)
        bench.engine.paused = True
        second = an_ask("second")
        words = await nc.subscribe(str(second.reply_to))

        await nc.jetstream().publish(subjects.now("d"), packed(second))

        assert ((await words.next_msg(timeout=10)).headers or {})[KIND] == FULL
        assert bench.reports.empty()
        assert bench.pool.held == []


async def test_what_cannot_be_run_fails_and_the_others_go_on(nc: Nats) -> None:
    scripts = [{"match": "bug", "kind": "raise"}, {"match": "fault", "kind": "engine_fault"}]
    async with a_pool(nc, options={"failures": scripts}) as bench:
        attempts = [a_chat("bug"), a_chat("fault"), an_attempt(body=b"nope"), a_chat("good")]

        reports = {report.job: report.outcome for report in await bench.run(*attempts)}

        bug, fault, _, good = (reports[attempt.job] for attempt in attempts)
        assert isinstance(bug, Failed)
        assert isinstance(bug.failure, EngineFault)
        assert fault == Failed(EngineFault("scripted"))
        assert isinstance(good, Succeeded)


DEEP = 100_000


@pytest.mark.parametrize(
    "data",
    [b"\xc1nope", b"\x81\xa6tenant\xa1\xff", b"\x81\xa1x" + b"\x91" * DEEP + b"\xc0"],
    ids=["no msgpack", "no text", "too deep"],
)
async def test_a_message_that_is_no_attempt_is_let_go_and_does_no_harm(nc: Nats, data: bytes) -> None:
    async with a_pool(nc, reserve=1) as bench:
        await nc.jetstream().publish(subjects.run("d"), data)
        await nc.jetstream().publish(subjects.now("d"), data)

        assert isinstance(await bench.outcome(a_chat("x")), Succeeded)
        assert (await heard_by(nc, an_ask("x")))[-1].headers
        await bench.holds(subjects.RUN, 0)
        [letter] = await bench.stored(subjects.ADVISORY)  # so the broker hears of it
        assert letter.subject == f"$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.{subjects.RUN}.d"


@pytest.mark.parametrize("body", [b'{"x": ' + b"[" * DEEP, b'{"stream": "\xff"}'], ids=["too deep", "no text"])
async def test_a_request_whose_body_cannot_be_read_is_answered_and_does_no_harm(nc: Nats, body: bytes) -> None:
    async with a_pool(nc, reserve=1):
        bad = an_attempt(body=body, lane=Lane.INTERACTIVE, reply_to="infermq.reply.d.b.bad", key="k")

        assert len(await heard_by(nc, bad)) == 1
        assert (await heard_by(nc, an_ask("x")))[-1].headers


async def test_an_attempt_whose_deadline_has_passed_is_not_run(nc: Nats) -> None:
    async with a_pool(nc, options={"failures": [{"match": "x", "kind": "raise"}]}) as bench:
        assert await bench.outcome(a_chat("x", left_ms=0)) == Expired()


async def test_an_attempt_is_ended_at_its_deadline(nc: Nats) -> None:
    async with a_pool(nc, options=SLOW) as bench:
        assert await bench.outcome(a_chat("x", left_ms=300)) == Expired()


async def test_an_attempt_that_takes_too_long_or_stands_still_is_ended(nc: Nats) -> None:
    async with a_pool(nc, options=SLOW, attempt_timeout_s=0.3) as bench:
        outcome = await bench.outcome(a_chat("x"))
        assert isinstance(outcome, Failed)
        assert isinstance(outcome.failure, TimedOut)
        assert outcome.failure.stage == "attempt"
    script = [{"match": "x", "kind": "hang"}]
    async with a_pool(nc, options={"failures": script}, progress_timeout_s=0.3) as bench:
        outcome = await bench.outcome(a_chat("x"))
        assert isinstance(outcome, Failed)
        assert isinstance(outcome.failure, TimedOut)
        assert outcome.failure.stage == "progress"


async def test_leases_are_extended_while_the_engine_works(nc: Nats) -> None:
    async with a_pool(nc, lease_ms=400, options={"decode_tokens_per_s": 7.0}) as bench:
        await bench.redelivers_after(0.8)

        [report] = await bench.run(a_chat("x"))

        assert deliveries(report.run_ack or "") == 1
        assert report.timings.run_ms >= 1000


async def test_an_attempt_delivered_again_while_it_runs_runs_on_under_its_new_lease(nc: Nats) -> None:
    async with a_pool(nc, options={"decode_tokens_per_s": 20.0}) as bench:
        await bench.redelivers_after(0.1)

        [report] = await bench.run(a_chat("x"))

        assert report.delivery == 1
        assert deliveries(report.run_ack or "") > 1
        await bench.holds(subjects.RUN, 0)
        await bench.holds(subjects.OUTCOME, 1)


async def test_an_attempt_delivered_again_after_its_report_is_not_run_again(nc: Nats) -> None:
    async with a_pool(nc) as bench:
        attempt = a_chat("x")
        await bench.run(attempt)

        assert await Runs(nc).publish([attempt])
        after = a_chat("after")
        [report] = await bench.run(after)

        assert report.job == after.job
        assert bench.reports.empty()
        await bench.holds(subjects.RUN, 0)


async def test_an_attempt_whose_report_is_gone_is_run_again_by_who_reported_it(nc: Nats) -> None:
    async with a_pool(nc) as bench:
        attempt = a_chat("x")
        first = (await bench.run(attempt))[0]

        assert await Runs(nc).publish([replace(attempt, is_stray=True)])
        second = await bench.report()

        assert (second.job, second.attempt) == (first.job, first.attempt)
        assert second.execution != first.execution
        await bench.holds(subjects.RUN, 0)


async def test_a_request_that_is_aborted_stops(nc: Nats) -> None:
    async with a_pool(nc, reserve=1, options=SLOW) as bench:
        ask = an_ask("x")
        await nc.jetstream().publish(subjects.now("d"), packed(ask))
        await bench.until(lambda: bench.pool.interactive.running == 1)

        await announce_abort(nc, "d", str(ask.reply_to))

        assert (await bench.report()).outcome == Cancelled()
        assert bench.pool.running == 0


async def test_an_aborted_request_leaves_a_dispatched_job_with_its_id_running(nc: Nats) -> None:
    """Whoever asks chooses the id, which may be another tenant's job's."""
    async with a_pool(nc, reserve=1, options=SLOW) as bench:
        ask = an_ask("x")
        assert await Runs(nc).publish([a_chat("y", job=ask.job)])
        await nc.jetstream().publish(subjects.now("d"), packed(ask))
        await bench.until(lambda: bench.pool.running == 2)

        await announce_abort(nc, "d", str(ask.reply_to))

        assert (await bench.report()).interactive is not None
        assert bench.pool.running == 1


DEFERRABLE = 2


class Stored:
    """A reporter at work, and what of its reports is stored. Its worker runs some attempts and has some free slots."""

    def __init__(self, nc: Nats, group: asyncio.TaskGroup, *, running: int, delays: ReportDelays) -> None:
        self.nc = nc
        self.free = 0
        slots = Slots(lambda: running + self.free)
        slots.running = running
        self.reporter = Reporter(
            nc,
            "d",
            worker="w",
            slots=slots,
            deferrable=lambda: DEFERRABLE,
            clock=now,
            message_ids=lambda: str(an_id()),
            metrics=WorkerMetrics(),
            delays=delays,
        )
        self.jobs: asyncio.Queue[UUID] = asyncio.Queue()
        self.waiting: list[asyncio.Task[None]] = []
        self._group = group

    async def add(self, *reports: Report, can_wait: bool = True) -> None:
        for report in reports:
            self.waiting.append(self._group.create_task(self._stored(report, can_wait=can_wait)))
        await self.nc.flush()

    async def _stored(self, report: Report, *, can_wait: bool) -> None:
        await self.reporter.stored(report, is_deferrable=can_wait)
        self.jobs.put_nowait(report.job)

    async def messages(self) -> int:
        return (await self.nc.jetstream().stream_info(subjects.OUTCOME)).state.messages


FOREVER_S = 3600.0
PATIENT = ReportDelays(share=FOREVER_S, longest_s=FOREVER_S, grace_s=0.0)
"""An outcome that may wait for others waits as long as the test does."""


@asynccontextmanager
async def a_reporter(nc: Nats, *, running: int, delays: ReportDelays = PATIENT) -> AsyncIterator[Stored]:
    await declare_streams(nc)
    async with asyncio.TaskGroup() as group:
        found = Stored(nc, group, running=running, delays=delays)
        serving = group.create_task(found.reporter.serve())
        yield found
        for task in (serving, *found.waiting):
            task.cancel()


def a_long_one(**changes: Any) -> Report:
    timings = Timings(started_ms=now(), queue_ms=Ms(0), run_ms=Ms(3_600_000_000))
    return a_report(timings=timings, **changes)


async def test_outcomes_wait_for_more_while_every_slot_is_busy(nc: Nats) -> None:
    async with a_reporter(nc, running=1) as found:
        await found.add(a_long_one(), can_wait=False)
        await found.add(a_long_one(), can_wait=False)
        assert await found.messages() == 0

        found.free = 1
        await found.add(a_long_one(), can_wait=False)

        async with asyncio.timeout(20):
            assert len({await found.jobs.get() for _ in range(3)}) == 3
        assert await found.messages() == 1


@pytest.mark.parametrize("more", [{"can_wait": False}, {"can_wait": True}], ids=["a standard one", "one too many"])
async def test_a_few_bulk_outcomes_wait_although_a_slot_is_free(nc: Nats, more: dict[str, bool]) -> None:
    async with a_reporter(nc, running=1) as found:
        found.free = 1
        for _ in range(DEFERRABLE):
            await found.add(a_long_one())
        assert await found.messages() == 0

        await found.add(a_long_one(), **more)

        async with asyncio.timeout(20):
            assert len({await found.jobs.get() for _ in range(DEFERRABLE + 1)}) == DEFERRABLE + 1
        assert await found.messages() == 1


QUICK = {"decode_tokens_per_s": 400.0}
"""An answer takes a few milliseconds, so that a share of its run is not nothing."""


async def test_what_is_no_result_does_not_wait_beside_free_slots(nc: Nats) -> None:
    async with a_pool(nc, reserve=0, options={"failures": [HANG]}, delays=PATIENT) as bench:
        assert await Runs(nc).publish([a_chat("hang"), a_chat("hang", left_ms=100)])

        assert (await bench.report()).outcome == Expired()


async def test_under_a_daily_cap_no_result_waits_beside_free_slots(nc: Nats) -> None:
    script = {**QUICK, "failures": [HANG]}
    async with a_pool(nc, options=script, delays=PATIENT, daily_cap_usd=1.0) as bench:
        assert await Runs(nc).publish([a_chat("hang"), a_chat("good")])

        assert isinstance((await bench.report()).outcome, Succeeded)


async def test_a_result_does_not_wait_while_only_interactive_attempts_run(nc: Nats) -> None:
    async with a_pool(nc, reserve=1, options={**QUICK, "failures": [HANG]}, delays=PATIENT) as bench:
        await nc.jetstream().publish(subjects.now("d"), packed(an_ask("hang")))
        await bench.until(lambda: bench.pool.interactive.running == 1)

        assert isinstance(await bench.outcome(a_chat("good")), Succeeded)


async def test_a_message_stays_while_its_outcome_waits_so_a_killed_worker_loses_no_job(nc: Nats) -> None:
    delays = ReportDelays(share=FOREVER_S, longest_s=FOREVER_S, grace_s=FOREVER_S)
    async with a_pool(nc, slots=2, options={"decode_tokens_per_s": 80.0}, delays=delays) as bench:
        long = BODY.replace(b"8}", b"800}")
        assert await Runs(nc).publish([a_chat("x"), an_attempt(body=long), an_attempt(body=long)])

        await bench.leases(3)  # so the first has ended: there are two slots

        await bench.holds(subjects.RUN, 3)
        await bench.holds(subjects.OUTCOME, 0)


async def test_outcomes_do_not_wait_once_they_are_many(nc: Nats) -> None:
    async with a_reporter(nc, running=1) as found, asyncio.timeout(20):
        reports = [a_long_one() for _ in range(PATIENT.enough)]
        for report in reports:
            await found.add(report)

        assert {await found.jobs.get() for _ in reports} == {report.job for report in reports}
        assert await found.messages() == 1


@pytest.mark.parametrize(
    ("running", "changes"), [(0, {}), (1, {"interactive": an_attempt()})], ids=["nothing runs", "a caller waits"]
)
async def test_an_outcome_that_need_not_wait_is_stored_at_once(
    nc: Nats, running: int, changes: dict[str, Any]
) -> None:
    async with a_reporter(nc, running=running) as found, asyncio.timeout(20):
        report = a_long_one(**changes)
        await found.add(report)

        assert await found.jobs.get() == report.job


async def test_an_outcome_waits_a_quarter_of_its_run_at_most(nc: Nats) -> None:
    async with a_reporter(nc, running=1, delays=REPORT_DELAYS) as found, asyncio.timeout(20):
        report = a_report(timings=Timings(started_ms=now(), queue_ms=Ms(0), run_ms=Ms(80)))
        await found.add(report)

        assert await found.jobs.get() == report.job
    assert wait_s(report, REPORT_DELAYS) == pytest.approx(0.02)
    assert wait_s(a_long_one(), REPORT_DELAYS) == REPORT_DELAYS.longest_s


async def test_slots_that_were_not_asked_for_are_once_those_asked_for_are_filled(nc: Nats) -> None:
    await declare_streams(nc)
    await declare_pool(nc, "d", slots=5)
    free, came = 3, asyncio.Event()

    def start(_: Message) -> None:
        nonlocal free
        free -= 1
        if free == 0:
            came.set()

    puller = Puller(nc, stream=subjects.RUN, consumer=subjects.pool_consumer("d"), free=lambda: free, start=start)
    await puller.open()
    while (await nc.jetstream().consumer_info(subjects.RUN, subjects.pool_consumer("d"))).num_waiting < 1:
        await asyncio.sleep(0.01)
    free = 5  # two more, too few to be worth a request beside the three
    puller.wake()

    assert await Runs(nc).publish([a_chat(f"n{n}") for n in range(5)])

    async with asyncio.timeout(20):
        await came.wait()
    await puller.close()


async def test_draining_finishes_what_runs_and_takes_nothing_more(nc: Nats) -> None:
    async with a_pool(nc, slots=2, options={"decode_tokens_per_s": 20.0}) as bench:
        assert await Runs(nc).publish([a_chat(f"n{n}") for n in range(6)])
        await bench.until(lambda: bench.pool.running == 2)

        await bench.worker.drain()

        assert bench.pool.running == 0
        assert len(await bench.stored(subjects.OUTCOME)) >= 1
        assert [isinstance((await bench.report()).outcome, Succeeded) for _ in range(2)] == [True, True]
        await bench.holds(subjects.RUN, 4)
        assert bench.reports.empty()


async def test_a_drained_worker_asks_for_nothing(nc: Nats) -> None:
    async with a_pool(nc, reserve=1) as bench:
        await bench.asks(subjects.RUN, pulls=1)
        await bench.asks(subjects.NOW, pulls=1)

        await bench.worker.drain()

        await bench.asks(subjects.RUN, pulls=0)
        await bench.asks(subjects.NOW, pulls=0)


async def test_what_was_on_its_way_to_a_draining_worker_is_put_back_but_a_caller_is_answered(nc: Nats) -> None:
    async with a_pool(nc, reserve=1, tick_s=NO_TICK_S) as bench:
        await bench.asks(subjects.RUN, pulls=1)
        await bench.asks(subjects.NOW, pulls=1)
        bench.pool.is_draining = True

        assert await bench.outcome(a_chat("x")) == Released()

        heard = await heard_by(nc, an_ask("x", stream=False))
        assert [message.headers[KIND] for message in heard if message.headers] == ["final"]


async def test_putting_back_releases_what_runs(nc: Nats) -> None:
    async with a_pool(nc, options=SLOW) as bench:
        assert await Runs(nc).publish([a_chat("x")])
        await bench.until(lambda: bench.pool.running == 1)
        draining = asyncio.create_task(bench.worker.drain())

        bench.pool.put_back()

        assert (await bench.report()).outcome == Released()
        await draining


async def test_a_dead_engine_is_seen_and_takes_nothing_more(nc: Nats) -> None:
    async with a_pool(nc, options={"failures": [{"match": "x", "kind": "engine_lost"}]}) as bench:
        outcome = await bench.outcome(a_chat("x"))

        assert outcome == Failed(EngineLost("scripted"))
        assert bench.pool.died.is_set()
        await bench.asks(subjects.RUN, pulls=0)


async def test_what_was_on_its_way_to_a_dead_engine_is_put_back(nc: Nats) -> None:
    async with a_pool(nc, tick_s=NO_TICK_S) as bench:
        await bench.asks(subjects.RUN, pulls=1)
        bench.pool.died.set()

        assert await bench.outcome(a_chat("x")) == Released()


async def heard_by(nc: Nats, attempt: Attempt) -> list[Message]:
    """What the gateway hears of an interactive attempt."""
    heard: list[Message] = []
    last = asyncio.Event()

    async def note(message: Message) -> None:
        heard.append(message)
        if (message.headers or {}).get(KIND) in {"final", "error"}:
            last.set()

    await nc.subscribe(str(attempt.reply_to), cb=note)
    await nc.jetstream().publish(subjects.now("d"), packed(attempt))
    async with asyncio.timeout(20):
        await last.wait()
    return heard


def an_ask(text: str, *, stream: bool = True, reply_to: str = "infermq.reply.d.b.x") -> Attempt:
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 5, "stream": stream}
    return an_attempt(body=json.dumps(body).encode(), lane=Lane.INTERACTIVE, reply_to=reply_to, key="k")


async def test_an_interactive_answer_streams_and_ends_once_its_outcome_is_stored(nc: Nats) -> None:
    async with a_pool(nc) as bench:
        ask = an_ask("x")

        heard = await heard_by(nc, ask)

        assert [message.headers[KIND] for message in heard if message.headers] == ["chunk"] * 5 + ["final"]
        assert [message.headers["Infermq-Seq"] for message in heard if message.headers] == list("123456")
        await bench.holds(subjects.OUTCOME, 1)
        assert (await bench.report()).interactive == ask


async def test_an_answer_that_nobody_streams_comes_whole(nc: Nats) -> None:
    async with a_pool(nc):
        heard = await heard_by(nc, an_ask("x", stream=False))

        assert [message.headers[KIND] for message in heard if message.headers] == ["final"]


async def test_a_silent_engine_is_kept_alive_and_a_failure_is_said(nc: Nats) -> None:
    script = [{"match": "x", "kind": "hang"}]
    async with a_pool(nc, options={"failures": script}, attempt_timeout_s=0.2):
        heard = await heard_by(nc, an_ask("x"))

        kinds = [message.headers[KIND] for message in heard if message.headers]
        assert kinds[0] == "keepalive"
        assert kinds[-1] == "error"
        assert json.loads(heard[-1].data)["error"]["code"] == "timed_out"
        assert (heard[-1].headers or {})["Infermq-Failure"]


@pytest.mark.parametrize(
    ("failure", "limit"),
    [(ContextTooLong("too long", 512), 512), (ResponseTooLarge(9, 7), 7), (BadRequest("x"), None)],
)
def test_a_limit_is_told_as_a_value(failure: Failure, limit: int | None) -> None:
    problem = problem_of(Failed(failure))

    assert (problem.code, problem.message, problem.limit) == (failure_kind(failure), public_message(failure), limit)
