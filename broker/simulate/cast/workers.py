"""A worker process of a simulated world: the real worker, with the engine `simulated`, over a connection in memory."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from itertools import count
from uuid import UUID

import msgspec

from broker.simulate.cast.processes import Connect
from broker.simulate.world.world import Process
from schemas.engine_options import FailureKind, SimulatedOptions
from schemas.outcome import EngineFault, Failed, ResponseTooLarge, Succeeded
from workers.catalog import ActiveCatalog, active_catalog, declared_lease_ms
from workers.engines.simulated import Simulated, make
from workers.life import live
from workers.metrics import WorkerMetrics
from workers.ports import LARGEST_BODY, Capacity, EngineConfigError, EngineRequest, Overrides, Step
from workers.worker import Worker

_DRAIN_S = 20.0


@dataclass(frozen=True, slots=True)
class Done:
    """What an engine made of a request."""

    outcome: Succeeded | Failed
    by: Process


@dataclass(slots=True)
class Ran:
    """What engines really ran, whatever became of it."""

    begun: dict[UUID, int] = field(default_factory=dict)
    """How often each execution began."""
    attempts: dict[tuple[UUID, int], list[Process]] = field(default_factory=dict)
    """Where each attempt of a job began, the first time first."""
    bodies: dict[UUID, bytes] = field(default_factory=dict)
    """The request of each job."""
    done: dict[UUID, Done] = field(default_factory=dict)
    """By execution."""
    succeeded_s: dict[UUID, float] = field(default_factory=dict)
    """When an engine first answered each job."""
    deaths: dict[UUID, int] = field(default_factory=dict)
    """How many processes each job has ended."""
    wrong: list[str] = field(default_factory=list)
    overlapping: dict[UUID, str] = field(default_factory=dict)
    """Of which jobs two attempts ran in one process at once."""
    _running: set[tuple[int, UUID, int]] = field(default_factory=set)
    """The number of a process, a job, and an attempt."""

    def began(self, request: EngineRequest, by: Process) -> None:
        job, execution = names_of(request)
        self.begun[execution] = self.begun.get(execution, 0) + 1
        self.attempts.setdefault((job, request.attempt), []).append(by)
        if self.bodies.setdefault(job, request.body) != request.body:
            self.wrong.append(f"job {job} ran with the requests {self.bodies[job]!r} and {request.body!r}")
        running = (by.number, job, request.attempt)
        if running in self._running:
            self.wrong.append(f"attempt {request.attempt} of job {job} runs twice at once in {by}")
        if any(other[:2] == running[:2] for other in self._running):
            self.overlapping[job] = f"attempt {request.attempt} of {job} runs in {by} beside another"
        self._running.add(running)

    def is_over(self, request: EngineRequest, by: Process) -> None:
        self._running.discard((by.number, names_of(request)[0], request.attempt))


def names_of(request: EngineRequest) -> tuple[UUID, UUID]:
    """Return the ids of the job and of the execution."""
    job, _, execution = request.id.split(".")
    return UUID(job), UUID(execution)


class DeadlyEngine:
    """The simulated engine. A request that is scripted to crash ends its whole process, unless that survives all: then it
    fails.
    """

    def __init__(
        self, engine: Simulated, *, deadly: tuple[bytes, ...], process: Process, ran: Ran, survives_all: bool
    ) -> None:
        self._survives_all = survives_all
        self._engine = engine
        self._deadly = deadly
        self._process = process
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
        ran, (job, execution) = self._ran, names_of(request)
        ran.began(request, self._process)
        try:
            if any(words in request.body for words in self._deadly):
                await asyncio.sleep(0.01)
                if self._survives_all:
                    failed = Failed(EngineFault("it would have ended the engine"))
                    ran.done[execution] = Done(failed, self._process)
                    yield failed
                    return
                ran.deaths[job] = ran.deaths.get(job, 0) + 1
                self._process.die("its engine crashed")
                await asyncio.Event().wait()
            async with contextlib.aclosing(self._engine.run(request)) as steps:
                async for step in steps:
                    if isinstance(step, Succeeded):
                        step = _inflated(step, request.body)  # noqa: PLW2901
                    if isinstance(step, Succeeded | Failed):
                        ran.done[execution] = Done(_within_limit(step), self._process)
                        if isinstance(step, Succeeded):
                            ran.succeeded_s.setdefault(job, self._process.monotonic())
                    yield step
        finally:
            ran.is_over(request, self._process)


_SIZES = {b'"too large ': LARGEST_BODY + 1, b'"large ': 3_000_000}


def _inflated(outcome: Succeeded, body: bytes) -> Succeeded:
    """Make the answer large to a request that says so."""
    for words, size in _SIZES.items():
        if words in body:
            padding = b"x" * (size - len(outcome.body))
            return msgspec.structs.replace(outcome, body=outcome.body[:-1] + b',"padding":"' + padding + b'"}')
    return outcome


def _within_limit(outcome: Succeeded | Failed) -> Succeeded | Failed:
    """Return what is recorded of an outcome: an answer that is too large is none."""
    if isinstance(outcome, Failed) or len(outcome.body) <= LARGEST_BODY:
        return outcome
    return Failed(ResponseTooLarge(len(outcome.body), LARGEST_BODY), outcome.usage, outcome.charge)


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    name: str
    deployment: str
    slots: int


class SimulatedWorker:
    """One life of a worker."""

    def __init__(
        self, process: Process, plan: WorkerPlan, connect: Connect, ran: Ran, *, survives_all: bool = False
    ) -> None:
        self.process = process
        self.plan = plan
        self._survives_all = survives_all
        self.worker: Worker | None = None
        self._connect = connect
        self._ran = ran

    async def main(self) -> None:
        """Serve, or end like the command does if the catalog has no such deployment: it is started again."""
        try:
            await self._serve()
        except EngineConfigError as error:
            self.process.say(f"ends: {error}")

    async def _serve(self) -> None:
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
                clock=process.steady_clock(),
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
        return DeadlyEngine(
            engine, deadly=deadly, process=self.process, ran=self._ran, survives_all=self._survives_all
        )
