"""A worker from its start to its end, with an engine of the test's own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from broker.bus.beats import Beats
from broker.bus.catalogs import Catalogs
from broker.bus.runs import Runs
from schemas import subjects
from schemas.catalog import Revision
from schemas.engine_options import FailureKind, ScriptedFailure, SimulatedOptions
from schemas.jetstream.client import NatsClient as Nats
from schemas.outcome import Failed, TimedOut
from schemas.units import Ms
from schemas.worker import DENIED, Paused
from tests.builders import a_catalog, a_chat, now
from tests.declared import declare_pool
from tests.real.test_worker_process import apply, is_forgotten, reported
from tests.system import until
from workers.cli import serve
from workers.config import WorkerConfig
from workers.engines.simulated import Simulated
from workers.ports import Capacity

pytestmark = pytest.mark.real


class Mortal(Simulated):
    """An engine that dies when it is told to."""

    def __init__(self) -> None:
        super().__init__(
            SimulatedOptions(failures=(ScriptedFailure("hang", FailureKind.HANG),)), Capacity(4, 1), 4096
        )
        self.dead = asyncio.Event()

    async def gone(self) -> str:
        await self.dead.wait()
        return "old age"


@asynccontextmanager
async def serving(url: str, engine: Simulated) -> AsyncIterator[asyncio.Task[int]]:
    """A worker that is ready; its exit code."""
    ready = asyncio.Event()
    config = WorkerConfig(nats_url=url, deployment="d", name="w")
    task = asyncio.create_task(serve(config, ready=lambda *_: ready.set(), started=engine))
    try:
        async with asyncio.timeout(20):
            await ready.wait()
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_an_engine_that_dies_while_nothing_runs_ends_its_worker(nc: Nats, nats_url: str) -> None:
    await apply(nc, None)
    engine = Mortal()
    async with serving(nats_url, engine) as worker:
        engine.dead.set()

        async with asyncio.timeout(20):
            assert await worker == 1
    assert await is_forgotten(nc)


async def test_the_catalog_announced_last_holds_for_what_runs(nc: Nats, nats_url: str) -> None:
    await apply(nc, None)
    async with serving(nats_url, Mortal()):
        assert await Runs(nc).publish([a_chat("hang")])
        for number, timeout_s in ((3, 300.0), (2, 0.1)):  # the brokers' ledger was restored
            newer = Revision(number, Ms(0), a_catalog(attempt_timeout_s=timeout_s))
            await Catalogs(nc).publish(newer)

        [report] = await reported(nc, 1)

        assert isinstance(report.outcome, Failed)
        assert isinstance(report.outcome.failure, TimedOut)


class Refused(Simulated):
    """An engine whose provider refuses its key."""

    why = Paused(DENIED, "401", Ms(1))

    def __init__(self) -> None:
        super().__init__(SimulatedOptions(), Capacity(0, 0, self.why), 4096)


async def test_a_worker_says_in_its_beat_why_its_engine_pauses(nc: Nats, nats_url: str) -> None:
    await apply(nc, None)
    beats = Beats(nc, clock=now)
    await beats.listen()

    async with serving(nats_url, Refused()):

        async def is_heard() -> bool:
            return [beat.paused for beat in beats.alive()] == [Refused.why]

        await until(is_heard, "the worker says why")


class Seen(Mortal):
    """An engine that tells when its worker has read the catalog and asks what it can run."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()

    def capacity(self) -> Capacity:
        self.asked.set()
        return super().capacity()


async def test_a_catalog_applied_while_a_worker_starts_holds(nc: Nats, nats_url: str) -> None:
    await apply(nc, None)
    await nc.publish(subjects.declared_pool("d"), b"", headers={"KV-Operation": "DEL"})  # so it is not ready yet
    engine = Seen()

    async def makes_it_ready() -> None:
        await engine.asked.wait()
        newer = Revision(2, Ms(0), a_catalog(attempt_timeout_s=0.1))
        await Catalogs(nc).publish(newer)
        await declare_pool(nc, "d", slots=64)

    async with asyncio.timeout(40), asyncio.TaskGroup() as group:
        group.create_task(makes_it_ready())
        async with serving(nats_url, engine):
            assert await Runs(nc).publish([a_chat("hang")])

            [report] = await reported(nc, 1)

    assert isinstance(report.outcome, Failed)
    assert isinstance(report.outcome.failure, TimedOut)
