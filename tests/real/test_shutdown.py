"""How a worker ends: afterwards nothing is leased, and every slot is back."""

import asyncio

import pytest

from broker.bus.runs import Runs
from schemas import subjects
from schemas.codec import packed
from schemas.jetstream.client import NatsClient as Nats
from schemas.outcome import Outcome, Released, Succeeded
from tests.builders import a_chat
from tests.real.test_worker import HANG, Bench, a_pool, an_ask

pytestmark = pytest.mark.real
SHORT_S, LONG_S = 0.05, 3600.0
PACE = {"decode_tokens_per_s": 40.0, "failures": [HANG]}
"""An answer takes a fifth of a second, unless it hangs."""


async def begun(bench: Bench, text: str) -> None:
    """A dispatched attempt and an interactive one run."""
    assert await Runs(bench.nc).publish([a_chat(text)])
    await bench.nc.jetstream().publish(subjects.now("d"), packed(an_ask(text)))
    await bench.until(lambda: bench.pool.running == 2)


def ending(bench: Bench, *, drain_timeout_s: float = LONG_S) -> "asyncio.Task[bool]":
    async def announce() -> None:
        assert bench.pool.is_draining

    return asyncio.create_task(bench.worker.until_over(drain_timeout_s=drain_timeout_s, announce=announce))


async def outcomes(bench: Bench) -> set[type[Outcome]]:
    return {type((await bench.report()).outcome) for _ in range(2)}


async def nothing_is_held(bench: Bench) -> None:
    assert (bench.pool.running, bench.pool.held) == (0, [])
    await bench.leases(0)


async def test_a_worker_that_is_stopped_finishes_what_runs(nc: Nats) -> None:
    async with a_pool(nc, reserve=1, options=PACE) as bench:
        await begun(bench, "x")
        over = ending(bench)

        bench.worker.stop()

        async with asyncio.timeout(20):
            assert await over
        assert await outcomes(bench) == {Succeeded}
        await nothing_is_held(bench)
        await bench.holds(subjects.RUN, 0)


async def test_a_worker_that_is_stopped_twice_puts_back_what_runs(nc: Nats) -> None:
    async with a_pool(nc, reserve=1, options=PACE) as bench:
        await begun(bench, "hang")
        over = ending(bench)

        bench.worker.stop()
        bench.worker.stop()

        async with asyncio.timeout(20):
            assert await over
        assert await outcomes(bench) == {Released}
        await nothing_is_held(bench)


async def test_what_runs_when_the_time_to_drain_is_over_is_put_back(nc: Nats) -> None:
    async with a_pool(nc, reserve=1, options=PACE) as bench:
        await begun(bench, "hang")
        over = ending(bench, drain_timeout_s=SHORT_S)

        bench.worker.stop()

        async with asyncio.timeout(20):
            assert await over
        assert await outcomes(bench) == {Released}
        await nothing_is_held(bench)


@pytest.mark.parametrize("drains", [False, True], ids=["while it serves", "while it drains"])
async def test_a_worker_whose_engine_dies_puts_back_what_runs_and_ends_ill(nc: Nats, *, drains: bool) -> None:
    async with a_pool(nc, reserve=1, options=PACE) as bench:
        await begun(bench, "hang")
        over = ending(bench)
        if drains:
            bench.worker.stop()
            await bench.until(lambda: bench.pool.is_draining)

        bench.pool.died.set()

        async with asyncio.timeout(20):
            assert not await over
        assert await outcomes(bench) == {Released}
        await nothing_is_held(bench)


async def test_every_slot_is_back_after_a_worker_was_cancelled(nc: Nats) -> None:
    async with a_pool(nc, reserve=1, options=PACE) as bench:
        await begun(bench, "hang")

    assert (bench.pool.running, bench.pool.held) == (0, [])
    assert bench.reports.empty()


async def test_a_worker_that_is_cancelled_asks_for_nothing_more(nc: Nats) -> None:
    async with a_pool(nc, reserve=1) as bench:
        await bench.asks(subjects.RUN, pulls=1)
        await bench.asks(subjects.NOW, pulls=1)

    await bench.asks(subjects.RUN, pulls=0)
    await bench.asks(subjects.NOW, pulls=0)
