"""Outcomes on their way from a worker to the stream: kept until they are there, with what was spent on them."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import pytest
from nats.aio.msg import Msg

from broker.bus.desired import LARGEST_MESSAGE
from broker.bus.notices import announce_abort
from broker.bus.runs import Runs
from schemas import subjects
from schemas.codec import BUNDLE_BYTES, MSG_ID, packed
from schemas.jetstream.client import NatsClient as Nats
from schemas.job import Attempt
from schemas.outcome import (
    BadRequest,
    Cancelled,
    Charge,
    EngineFault,
    EngineLost,
    Expired,
    Failed,
    Outcome,
    Released,
    ResponseTooLarge,
    Succeeded,
    TimedOut,
    Usage,
)
from schemas.units import Ms, NanoUsd
from tests.builders import a_chat, a_report, a_success
from tests.real.test_worker import FOREVER_S, QUICK, Bench, Pausing, a_pool, a_reporter, an_ask
from workers.ports import LARGEST_BODY, Chunk, EngineDied, EngineRequest, Progress, Step
from workers.report import ReportDelays

pytestmark = pytest.mark.real
SPENT, CHARGE = Usage(7, 3), Charge(NanoUsd(11), "provider")


async def takes(nc: Nats, most_bytes: int) -> None:
    """Have OUTCOME refuse what is larger."""
    js = nc.jetstream()
    config = (await js.stream_info(subjects.OUTCOME)).config
    await js.update_stream(replace(config, max_msg_size=most_bytes))


async def tries_of(nc: Nats) -> list[Msg]:
    """Every outcome that is published from now on, whether it is stored or not."""
    tries: list[Msg] = []

    async def heard(message: Msg) -> None:
        tries.append(message)

    await nc.subscribe(subjects.outcome("d"), cb=heard)
    return tries


async def test_an_outcome_is_published_until_it_is_stored_and_its_message_goes_only_then(nc: Nats) -> None:
    async with a_pool(nc, delays=ReportDelays(retry_s=0.01)) as bench:
        await takes(nc, 1)
        tries = await tries_of(nc)
        attempt = a_chat("x")
        assert await Runs(nc).publish([attempt])
        await bench.until(lambda: len(tries) > 1)
        await bench.holds(subjects.OUTCOME, 0)
        await bench.holds(subjects.RUN, 1)
        await bench.leases(1)

        await takes(nc, LARGEST_MESSAGE)

        await bench.holds(subjects.OUTCOME, 1)
        await bench.holds(subjects.RUN, 0)
        assert len({(message.headers or {})[MSG_ID] for message in tries}) == 1


async def test_draining_waits_until_the_outcomes_are_stored(nc: Nats) -> None:
    async with a_pool(nc, delays=ReportDelays(retry_s=0.01)) as bench:
        await takes(nc, 1)
        tries = await tries_of(nc)
        assert await Runs(nc).publish([a_chat("x")])
        await bench.until(lambda: len(tries) > 0)

        draining = asyncio.create_task(bench.worker.drain())

        await bench.until(lambda: len(tries) > 2)
        assert not draining.done()
        await takes(nc, LARGEST_MESSAGE)
        async with asyncio.timeout(20):
            await draining
        await bench.holds(subjects.RUN, 0)


async def test_a_report_is_stored_only_once_the_stream_has_it(nc: Nats) -> None:
    async with a_reporter(nc, running=0, delays=ReportDelays(retry_s=0.01)) as found:
        await takes(nc, 1)
        tries = await tries_of(nc)
        report = a_report()
        await found.add(report)
        while len(tries) < 2:
            await asyncio.sleep(0.01)
        assert found.jobs.empty()

        await takes(nc, LARGEST_MESSAGE)

        async with asyncio.timeout(20):
            assert await found.jobs.get() == report.job


async def test_outcomes_that_travel_together_each_let_their_message_go(nc: Nats) -> None:
    delays = ReportDelays(share=FOREVER_S, longest_s=FOREVER_S, grace_s=FOREVER_S, enough=3)
    async with a_pool(nc, options=QUICK, delays=delays) as bench:
        assert await Runs(nc).publish([a_chat(f"n{n}") for n in range(3)])

        await bench.holds(subjects.OUTCOME, 1)
        await bench.holds(subjects.RUN, 0)


async def test_outcomes_too_large_for_one_message_are_stored_in_several(nc: Nats) -> None:
    async with a_reporter(nc, running=0) as found:
        reports = [a_report(a_success(body=b"x" * (BUNDLE_BYTES * 2 // 5))) for _ in range(4)]

        await found.add(*reports)

        async with asyncio.timeout(20):
            assert {await found.jobs.get() for _ in reports} == {report.job for report in reports}
        assert await found.messages() == 2


async def test_a_request_whose_reply_has_no_subject_is_not_run_and_does_no_harm(nc: Nats) -> None:
    async with a_pool(nc, reserve=1) as bench:
        await nc.jetstream().publish(subjects.now("d"), packed(an_ask("x", reply_to="no subject")))

        assert isinstance(await bench.outcome(a_chat("x")), Succeeded)

        await bench.holds(subjects.RUN, 0)
        await bench.until(lambda: not bench.pool.held)


class Spending(Pausing):
    """An engine that says what it has spent, and then does what it is asked to."""

    async def run(self, request: EngineRequest) -> AsyncGenerator[Step, None]:
        yield Progress(SPENT, CHARGE)
        yield Progress()  # at work, and nothing new is known
        if b"raise" in request.body:
            raise RuntimeError("scripted")
        if b"die" in request.body:
            raise EngineDied("scripted")
        if b"hang" in request.body:
            await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("raise", Failed(EngineFault("RuntimeError in the engine"), SPENT, CHARGE)),
        ("end", Failed(EngineFault("the engine ended without an outcome"), SPENT, CHARGE)),
        ("die", Failed(EngineLost("scripted"), SPENT, CHARGE)),
    ],
)
async def test_what_an_engine_spent_before_it_failed_is_reported(nc: Nats, text: str, outcome: Outcome) -> None:
    async with a_pool(nc, kind=Spending) as bench:
        assert await bench.outcome(a_chat(text)) == outcome


async def test_what_a_cancelled_attempt_has_spent_is_reported(nc: Nats) -> None:
    async with a_pool(nc, reserve=1, kind=Spending) as bench:
        ask = an_ask("hang")
        await nc.jetstream().publish(subjects.now("d"), packed(ask))
        await bench.until(lambda: bench.pool.interactive.running == 1)

        await announce_abort(nc, "d", str(ask.reply_to))

        assert (await bench.report()).outcome == Cancelled(SPENT, CHARGE)


async def test_what_was_put_back_has_spent_is_reported(nc: Nats) -> None:
    async with a_pool(nc, kind=Spending) as bench:
        await begun(bench, a_chat("hang"))

        bench.pool.put_back()

        assert (await bench.report()).outcome == Released(SPENT, CHARGE)


async def test_what_an_attempt_had_spent_by_its_deadline_is_reported(nc: Nats) -> None:
    async with a_pool(nc, kind=Spending) as bench:
        assert await bench.outcome(a_chat("hang", left_ms=100)) == Expired(SPENT, CHARGE)


@pytest.mark.parametrize(
    ("changes", "stage"), [({"attempt_timeout_s": 0.1}, "attempt"), ({"progress_timeout_s": 0.1}, "progress")]
)
async def test_what_an_attempt_had_spent_by_its_time_out_is_reported(
    nc: Nats, changes: dict[str, Any], stage: str
) -> None:
    async with a_pool(nc, kind=Spending, **changes) as bench:
        outcome = await bench.outcome(a_chat("hang"))

        assert isinstance(outcome, Failed)
        assert isinstance(outcome.failure, TimedOut)
        assert outcome == Failed(TimedOut(outcome.failure.after_ms, stage), SPENT, CHARGE)


class Steady(Pausing):
    """An engine that works for a while, and says now and then that it does."""

    async def run(self, request: EngineRequest) -> AsyncGenerator[Step, None]:  # noqa: ARG002 - the port's
        for _ in range(12):
            await asyncio.sleep(0.05)
            yield Progress()
        yield a_success()


async def test_an_attempt_that_makes_progress_is_not_ended(nc: Nats) -> None:
    async with a_pool(nc, kind=Steady, progress_timeout_s=0.4) as bench:
        assert isinstance(await bench.outcome(a_chat("x")), Succeeded)


class Long(Pausing):
    """An engine whose answers are the largest there are, or one byte larger."""

    async def run(self, request: EngineRequest) -> AsyncGenerator[Step, None]:
        size = LARGEST_BODY + (b"larger" in request.body)
        yield Succeeded(b"x" * size, SPENT, CHARGE)


async def test_a_response_that_no_message_can_carry_fails_with_what_it_cost(nc: Nats) -> None:
    async with a_pool(nc, kind=Long) as bench:
        largest, larger = await bench.outcome(a_chat("large")), await bench.outcome(a_chat("larger"))

        assert isinstance(largest, Succeeded)
        assert len(largest.body) == LARGEST_BODY
        assert larger == Failed(ResponseTooLarge(LARGEST_BODY + 1, LARGEST_BODY), SPENT, CHARGE)


class Odd(Pausing):
    """An engine that says what no message can hold."""

    async def run(self, request: EngineRequest) -> AsyncGenerator[Step, None]:  # noqa: ARG002 - the port's
        yield Failed(BadRequest("\ud800"))


async def test_what_an_engine_says_that_cannot_be_written_is_mended(nc: Nats) -> None:
    async with a_pool(nc, kind=Odd) as bench:
        outcome = await bench.outcome(a_chat("x"))

        assert outcome == Failed(BadRequest("\ufffd"))


NOON = Ms(1_795_000_000_000)
"""Long ago or ahead of the worker's clock: it does not matter."""


class Timed(Pausing):
    """An engine whose first token comes half-way."""

    async def run(self, request: EngineRequest) -> AsyncGenerator[Step, None]:  # noqa: ARG002 - the port's
        await asyncio.sleep(0.05)
        yield Progress()
        await asyncio.sleep(0.05)
        yield Chunk()
        await asyncio.sleep(0.05)
        yield a_success()


async def test_a_report_says_how_long_its_attempt_waited_ran_and_took_to_its_first_token(nc: Nats) -> None:
    async with a_pool(nc, kind=Timed) as bench:
        attempt = a_chat("x", admitted_ms=Ms(NOON - 5000), dispatched_ms=NOON)

        [report] = await bench.run(attempt)

        timings = report.timings
        assert timings.queue_ms == 5000
        assert timings.ttft_ms is not None
        assert 98 <= timings.ttft_ms <= timings.run_ms - 48


async def begun(bench: Bench, attempt: Attempt) -> None:
    assert await Runs(bench.nc).publish([attempt])
    await bench.until(lambda: bench.pool.running == 1)
