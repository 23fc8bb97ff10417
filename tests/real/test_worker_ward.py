"""A worker runs what is sent to it alone apart from all others; the test is its broker."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest
from msgspec.structs import replace

from broker.bus.notices import announce_abort
from broker.bus.runs import Runs
from schemas import subjects
from schemas.codec import FULL, KIND, packed
from schemas.jetstream import Message
from schemas.jetstream.client import NatsClient as Nats
from schemas.job import Attempt
from schemas.outcome import Released, Succeeded
from schemas.units import Ms
from schemas.worker import NOT_BEGUN, held_in
from tests.builders import a_chat, a_worker, an_id
from tests.real.test_worker import HANG, Bench, a_pool, an_ask
from workers.pool import SlotPool
from workers.ports import Capacity
from workers.ward import Waiting, Ward

pytestmark = pytest.mark.real


@asynccontextmanager
async def a_ward(nc: Nats, **changes: Any) -> AsyncIterator[Bench]:
    """A worker that listens already."""
    async with a_pool(nc, **changes) as bench:
        await bench.asks(subjects.RUN, pulls=1)
        yield bench


async def send(nc: Nats, *attempts: Attempt) -> None:
    for attempt in attempts:
        await nc.publish(subjects.ward(a_worker()), packed(attempt))


def a_group(*texts: str, group: UUID | None = None) -> list[Attempt]:
    group = group or an_id()
    return [a_chat(text, group=group) for text in texts]


def held(bench: Bench) -> dict[UUID, bool]:
    """What the beat names, and whether it has begun."""
    return {one.job: one.execution != NOT_BEGUN for one in held_in(bench.worker.beat().held)}


def end(bench: Bench, attempt: Attempt) -> None:
    [one] = [one for one in bench.pool.held if one.attempt.job == attempt.job]
    one.end(Released())


async def test_a_group_runs_and_its_reports_ack_no_message(nc: Nats) -> None:
    async with a_ward(nc) as bench:
        attempts = a_group("a", "b")

        await send(nc, *attempts)
        reports = [await bench.report() for _ in attempts]

        assert {report.job for report in reports} == {attempt.job for attempt in attempts}
        assert all(isinstance(report.outcome, Succeeded) for report in reports)
        assert [report.run_ack for report in reports] == [None, None]


async def test_a_group_waits_for_what_runs_and_nothing_joins_it(nc: Nats) -> None:
    async with a_ward(nc, options={"failures": [HANG]}) as bench:
        before, after = a_chat("hang"), a_chat("after")
        assert await Runs(nc).publish([before])
        await bench.until(lambda: bench.pool.running == 1)
        await bench.asks(subjects.RUN, pulls=1)

        suspects = a_group("hang", "hang")
        await send(nc, *suspects)
        await bench.asks(subjects.RUN, pulls=0)
        assert await Runs(nc).publish([after])

        assert held(bench) == {before.job: True, **{one.job: False for one in suspects}}
        end(bench, before)
        assert (await bench.report()).job == before.job
        await bench.until(lambda: bench.pool.running == 2)
        assert held(bench) == {one.job: True for one in suspects}
        await bench.asks(subjects.RUN, pulls=0)
        await bench.asks(subjects.NOW, pulls=0)
        for one in suspects:
            end(bench, one)
        assert {(await bench.report()).job for _ in suspects} == {one.job for one in suspects}
        assert (await bench.report()).job == after.job


async def test_two_groups_never_run_together_and_others_run_between_them(nc: Nats) -> None:
    async with a_ward(nc, options={"failures": [HANG]}) as bench:
        [first], [second] = a_group("hang"), a_group("hang")
        await send(nc, first, second)
        await bench.until(lambda: held(bench) == {first.job: True, second.job: False})
        assert await Runs(nc).publish([other := a_chat("other")])

        end(bench, first)

        assert [(await bench.report()).job for _ in range(2)] == [first.job, other.job]
        await bench.until(lambda: held(bench) == {second.job: True})


async def test_more_of_a_group_than_there_are_slots_runs_in_turns(nc: Nats) -> None:
    async with a_ward(nc, slots=2, options={"failures": [HANG]}) as bench:
        suspects = a_group("hang", "hang", "hang")
        await send(nc, *suspects)

        await bench.until(lambda: sorted(held(bench).values()) == [False, True, True] and bench.pool.running == 2)


async def test_a_request_that_was_on_its_way_is_turned_back_while_a_group_runs(nc: Nats) -> None:
    async with a_ward(nc, tick_s=60.0, options={"failures": [HANG]}, reserve=2) as bench:
        await bench.asks(subjects.NOW, pulls=1)
        bench.pool.is_apart = True
        ask = an_ask("hello")
        words = await nc.subscribe(str(ask.reply_to))

        await nc.jetstream().publish(subjects.now("d"), packed(ask))

        assert ((await words.next_msg(timeout=10)).headers or {})[KIND] == FULL


async def test_a_suspected_request_runs_apart_and_is_answered(nc: Nats) -> None:
    async with a_ward(nc, reserve=1) as bench:
        request = replace(an_ask("hello"), group=an_id())
        answers: asyncio.Queue[Message] = asyncio.Queue()
        await nc.subscribe(str(request.reply_to), cb=answers.put)

        await send(nc, request)

        report = await bench.report()
        assert isinstance(report.outcome, Succeeded)
        assert report.interactive is not None
        async with asyncio.timeout(5):
            assert (await answers.get()).headers


async def test_a_request_whose_relay_gives_it_up_while_it_waits_is_forgotten(nc: Nats) -> None:
    async with a_ward(nc, reserve=1, options={"failures": [HANG]}) as bench:
        blocking = a_chat("hang")
        assert await Runs(nc).publish([blocking])
        await bench.until(lambda: bench.pool.running == 1)
        request = replace(an_ask("hello"), group=an_id())
        await send(nc, request)
        await bench.until(lambda: request.job in held(bench))

        await announce_abort(nc, "d", str(request.reply_to))

        await bench.until(lambda: held(bench) == {blocking.job: True})


def test_the_time_that_a_suspect_waits_counts() -> None:
    waiting = Waiting(a_chat("x", left_ms=Ms(100)), since_s=0.0)

    assert waiting.after_waiting(0.04).left_ms == 60
    assert waiting.after_waiting(1.0).left_ms == 0


async def test_a_draining_worker_puts_waiting_suspects_back(nc: Nats) -> None:
    async with a_ward(nc, options={"failures": [HANG]}) as bench:
        blocking = a_chat("hang")
        assert await Runs(nc).publish([blocking])
        await bench.until(lambda: bench.pool.running == 1)
        [suspect] = a_group("x")
        await send(nc, suspect)
        await bench.until(lambda: suspect.job in held(bench))

        draining = asyncio.create_task(bench.worker.drain())
        report = await bench.report()

        assert (report.job, report.outcome) == (suspect.job, Released())
        end(bench, blocking)
        await asyncio.wait_for(draining, 10)


@pytest.mark.parametrize("payload", [b"\xff", packed(a_chat("without a group"))])
async def test_what_is_no_attempt_of_a_group_is_ignored(nc: Nats, payload: bytes) -> None:
    async with a_ward(nc) as bench:
        await nc.publish(subjects.ward(a_worker()), payload)
        [good] = a_group("x")
        await send(nc, good)

        assert (await bench.report()).job == good.job
        assert bench.reports.empty()


async def test_a_request_that_is_ended_while_its_beginning_is_announced_does_not_run(nc: Nats) -> None:
    ended = replace(an_ask("hello"), group=UUID(int=1))
    other = replace(ended, job=an_id(), reply_to=f"{ended.reply_to}2")
    begun, has_begun = list[Attempt](), asyncio.Event()

    def begin(attempt: Attempt) -> None:
        begun.append(attempt)
        has_begun.set()

    async def announce() -> None:
        ward.forget(str(ended.reply_to))

    async def nothing() -> None: ...

    ward = Ward(
        nc,
        SlotPool(lambda: Capacity(2, 0)),
        subject=subjects.ward(a_worker()),
        start=begin,
        offered=begin,
        pulls_follow=nothing,
        announce=announce,
    )
    await ward.open()
    await send(nc, ended, other)
    await nc.flush()
    serving = asyncio.create_task(ward.serve())
    try:
        async with asyncio.timeout(10):
            await has_begun.wait()
        assert [one.job for one in begun] == [other.job]
    finally:
        serving.cancel()
        await ward.close()
