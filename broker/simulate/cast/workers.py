"""A worker process of a simulated world: the real worker, with the engine `simulated`, over a connection in memory."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from itertools import count
from uuid import UUID

import msgspec

from broker.simulate.cast.processes import Connect
from broker.simulate.world.world import Process
from schemas.engine_options import FailureKind, SimulatedOptions
from workers.catalog import ActiveCatalog, active_catalog, declared_lease_ms
from workers.engines.simulated import Simulated, make
from workers.life import live
from workers.metrics import WorkerMetrics
from workers.ports import Capacity, EngineRequest, Overrides, Step
from workers.worker import Worker

_DRAIN_S = 20.0


@dataclass(slots=True)
class Ran:
    """What engines really ran, whatever became of it."""

    begun: dict[UUID, int] = field(default_factory=dict)
    """How often each execution began."""

    def began(self, request: EngineRequest) -> None:
        execution = UUID(request.id.rpartition(".")[2])
        self.begun[execution] = self.begun.get(execution, 0) + 1


class DeadlyEngine:
    """The simulated engine. A request that is scripted to crash ends its whole process."""

    def __init__(self, engine: Simulated, *, deadly: tuple[bytes, ...], die: Callable[[], None], ran: Ran) -> None:
        self._engine = engine
        self._deadly = deadly
        self._die = die
        self._ran = ran

    async def start(self) -> Capacity:
        return await self._engine.start()

    def capacity(self) -> Capacity:
        return self._engine.capacity()

    async def gone(self) -> str:
        return await self._engine.gone()

    async def close(self) -> None:
        await self._engine.close()

    async def run(self, request: EngineRequest) -> AsyncGenerator[Step, None]:
        self._ran.began(request)
        if any(words in request.body for words in self._deadly):
            await asyncio.sleep(0.01)
            self._die()
            await asyncio.Event().wait()
        async with contextlib.aclosing(self._engine.run(request)) as steps:
            async for step in steps:
                yield step


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    name: str
    deployment: str
    slots: int


class SimulatedWorker:
    """One life of a worker."""

    def __init__(self, process: Process, plan: WorkerPlan, connect: Connect, ran: Ran) -> None:
        self.process = process
        self.plan = plan
        self.worker: Worker | None = None
        self._connect = connect
        self._ran = ran

    async def main(self) -> None:
        process, reconnected = self.process, asyncio.Event()
        async with self._connect(process, came_back=reconnected.set) as nc:
            catalog = await active_catalog(nc, self.plan.deployment)
            engine = self._engine(catalog)
            await engine.start()
            numbers = count(1)
            self.worker = Worker(
                nc,
                engine,
                name=self.plan.name,
                catalog=catalog,
                lease_ms=await declared_lease_ms(nc, self.plan.deployment),
                clock=process.wall_ms,
                entropy=lambda: process.random.getrandbits(74),
                message_ids=lambda: f"{process.number}-{next(numbers)}",
                metrics=WorkerMetrics("0"),
                reconnected=reconnected,
            )
            await live(
                self.worker, nc, catalog=catalog, drain_timeout_s=_DRAIN_S, ready=lambda: process.say("serves")
            )

    def _engine(self, catalog: ActiveCatalog) -> DeadlyEngine:
        deployment = catalog.deployment
        options = msgspec.convert(deployment.options, SimulatedOptions)
        deadly = tuple(one.match.encode() for one in options.failures if one.kind is FailureKind.CRASH)
        engine = make(deployment, Overrides(self.plan.slots))
        return DeadlyEngine(engine, deadly=deadly, die=lambda: self.process.die("its engine crashed"), ran=self._ran)
