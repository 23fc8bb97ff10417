"""The composition root of a worker: the only place that reads arguments, environment, clock and signals."""

import asyncio
import contextlib
import ctypes
import gc
import importlib.metadata
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Annotated

import msgspec
import typer
import uvloop
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error, NoServersError
from nats.js.errors import NotFoundError

from schemas import subjects
from schemas.catalog import Deployment, Revision
from schemas.clock import wall_clock
from schemas.codec import UNREADABLE
from schemas.units import Ms
from schemas.worker import WorkerBeat
from workers.beat import beat, leave, say
from workers.config import WorkerConfig
from workers.connection import Connection
from workers.engines import factory
from workers.http import build_app, listening
from workers.metrics import Metrics
from workers.pool import Pool
from workers.ports import Capacity, Engine, EngineConfigError, EngineDied, Limits

log = logging.getLogger("infermq.worker")
USAGE, FAILED = 2, 1
_LOOK_S = 0.2
_LEAVE_S = 10.0
"""How long what was put back may take to be reported; without NATS it is delivered again when its lease ends."""
_GC = (20_000, 50, 100)
"""Thresholds of the garbage collector: messages are freed by their counts, so looking for cycles seldom is enough."""
_PENDING_BYTES = 16 * 1024 * 1024
_PR_SET_PDEATHSIG = 1
_revision = msgspec.json.Decoder(Revision)


app = typer.Typer(name="infermq worker", add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def main() -> None:
    app(prog_name="infermq worker")


@app.command()
def run(
    *,
    deployment: Annotated[str, typer.Option(help="The deployment of the catalog to serve.")],
    nats_url: Annotated[str, typer.Option(envvar="INFERMQ_NATS_URL", help="Where NATS is.")],
    slots: Annotated[
        int | None, typer.Option(min=1, help="Concurrent generations, instead of the catalog's.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Unique name; by default host and process id.")] = None,
    http_host: Annotated[str, typer.Option(help="Where /metrics and /healthz listen.")] = "127.0.0.1",
    http_port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port.")] = 0,
    drain_timeout_s: Annotated[float, typer.Option(help="How long running attempts may finish.")] = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line once it is ready.")] = False,
) -> None:
    """Serve one deployment: pull its jobs, run them, report what they came to."""
    die_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    config = WorkerConfig(
        nats_url=nats_url,
        deployment=deployment,
        name=name or f"{socket.gethostname()}-{os.getpid()}",
        slots=slots,
        http_host=http_host,
        http_port=http_port,
        drain_timeout_s=drain_timeout_s,
    )
    try:
        code = uvloop.run(serve(config, ready=_printer(config, as_json=as_json)))
    except EngineConfigError as error:
        typer.echo(f"error: {error}", err=True)
        code = USAGE
    except EngineDied as error:
        typer.echo(f"error: {error}", err=True)
        code = FAILED
    except (OSError, NoServersError, Error) as error:
        typer.echo(f"error: NATS at {nats_url}: {str(error) or type(error).__name__}", err=True)
        code = FAILED
    sys.exit(code)


def die_with_parent() -> None:
    """End with the process that started this one, even if that is killed, where it asks for it."""
    parent = os.environ.get("INFERMQ_PARENT")
    if parent is None:
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != int(parent):
        sys.exit(FAILED)


def _printer(config: WorkerConfig, *, as_json: bool) -> Callable[[str, Capacity], None]:
    def ready(url: str, capacity: Capacity) -> None:
        if as_json:
            state = {"ready": True, "http": url, "worker": config.name, "deployment": config.deployment}
            typer.echo(json.dumps({**state, "slots": capacity.slots, "reserve": capacity.reserve}))
        log.info("ready deployment=%s slots=%d http=%s", config.deployment, capacity.slots, url)

    return ready


async def serve(
    config: WorkerConfig, *, ready: Callable[[str, Capacity], None], started: Engine | None = None
) -> int:
    """Until a signal, or until the engine dies; the exit code. `started`: an engine to serve instead of a new one.

    Raises: EngineConfigError, nats-py's errors.
    """
    gc.set_threshold(*_GC)
    worker: Worker | None = None

    async def back() -> None:
        log.warning("nats reconnected")
        if worker is not None:
            worker.pool.reconnected()

    async def noted(error: Exception) -> None:
        log.warning("nats error=%s", str(error) or type(error).__name__)

    nc = Connection()
    await nc.connect(
        config.nats_url,
        name=f"infermq-worker-{config.name}",
        max_reconnect_attempts=-1,
        reconnect_time_wait=1,
        reconnected_cb=back,
        error_cb=noted,
        pending_size=_PENDING_BYTES,
        skip_subject_validation=True,  # schemas.subjects builds them all
    )
    try:
        revision, deployment = await _deployment(nc, config.deployment)
        engine = started or factory(deployment.engine)(deployment, Limits(config.slots))
        capacity = started.capacity() if started else await engine.start()
        gc.collect()
        gc.freeze()  # an engine's own objects are many, and a look at all of them stops everything for a third of a second
        lease_ms = await _lease_ms(nc, config.deployment)
        worker = Worker(nc, engine, config=config, revision=revision, capacity=capacity, lease_ms=lease_ms)
        return await worker.serve(ready)
    finally:
        await nc.close()


async def _deployment(nc: Client, name: str) -> tuple[Revision, Deployment]:
    """The active catalog, once there is one. Raises: EngineConfigError, for a name that it does not have."""
    said = False
    while (revision := await _active(nc)) is None:
        if not said:
            log.info("waiting for a catalog: infermq apply FILE")
            said = True
        await asyncio.sleep(_LOOK_S)
    deployment = revision.catalog.deployments.get(name)
    if deployment is None:
        known = ", ".join(sorted(revision.catalog.deployments))
        raise EngineConfigError(f"the catalog has no deployment {name!r}; known: {known or 'none'}")
    return revision, deployment


async def _active(nc: Client) -> Revision | None:
    try:
        subject = f"$KV.{subjects.CATALOG_BUCKET}.{subjects.ACTIVE}"
        message = await nc.jetstream().get_last_msg(f"KV_{subjects.CATALOG_BUCKET}", subject)
    except (NotFoundError, Error):
        return None
    return _revision.decode(message.data or b"")


async def _lease_ms(nc: Client, deployment: str) -> Ms:
    """The pool's lease, once the broker has declared its consumers."""
    js, name = nc.jetstream(), subjects.pool_consumer(deployment)
    while True:
        try:
            info = await js.consumer_info(subjects.RUN, name)
            await js.consumer_info(subjects.NOW, name)
        except (NotFoundError, Error):
            await asyncio.sleep(_LOOK_S)
        else:
            return Ms(int((info.config.ack_wait or 30) * 1000))


class Worker:
    """The parts of a running worker."""

    def __init__(
        self,
        nc: Client,
        engine: Engine,
        *,
        config: WorkerConfig,
        revision: Revision,
        capacity: Capacity,
        lease_ms: Ms,
    ) -> None:
        self.nc = nc
        self.engine = engine
        self.config = config
        self.revision = revision
        self.capacity = capacity
        self.metrics = Metrics()
        self.started_ms = wall_clock()
        self.pool = Pool(
            nc,
            engine,
            name=config.name,
            revision=lambda: self.revision,
            deployment=config.deployment,
            lease_ms=lease_ms,
            clock=wall_clock,
            metrics=self.metrics,
        )
        self._signals = 0
        self._signalled = asyncio.Event()

    async def serve(self, ready: Callable[[str, Capacity], None]) -> int:
        await self.nc.subscribe(f"$KV.{subjects.CATALOG_BUCKET}.{subjects.ACTIVE}", cb=self._applied)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        app = build_app(self.metrics.registry, self._health)
        async with (
            listening(app, host=self.config.http_host, port=self.config.http_port) as url,
            asyncio.TaskGroup() as group,
        ):
            roles = (self.pool.serve(), beat(self.nc, self._beat), self._watch_engine())
            tasks = {group.create_task(role) for role in roles}
            await say(self.nc, self._beat())
            await self.nc.flush()
            ready(url, self.capacity)
            code = await self._until_over()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await leave(self.nc, self.config.name)
        await self.engine.close()
        return code

    async def _watch_engine(self) -> None:
        """An engine may die while nothing runs."""
        log.error("engine gone: %s", await self.engine.gone())
        self.pool.died.set()

    async def _until_over(self) -> int:
        """Until a signal or the engine's death, then until everything is let go of."""
        signalled = asyncio.create_task(self._signalled.wait())
        died = asyncio.create_task(self.pool.died.wait())
        await asyncio.wait({signalled, died}, return_when=asyncio.FIRST_COMPLETED)
        died.cancel()
        self.pool.is_draining = True
        draining = asyncio.create_task(self.pool.drain())
        await say(self.nc, self._beat())
        if self.pool.died.is_set():
            log.error("the engine died: jobs are put back")
            self.pool.put_back()
        else:
            log.info("draining running=%d", self.pool.running)
            await self._drained(draining)
        signalled.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LEAVE_S):
                await draining
        return FAILED if self.pool.died.is_set() or draining.cancelled() else 0

    async def _drained(self, draining: asyncio.Task[None]) -> None:
        """Give it its time; a second signal ends that."""
        again = asyncio.create_task(self._second_signal())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.config.drain_timeout_s):
                await asyncio.wait({draining, again}, return_when=asyncio.FIRST_COMPLETED)
        again.cancel()
        if not draining.done():
            log.info("putting back running=%d", self.pool.running)
            self.pool.put_back()

    async def _second_signal(self) -> None:
        while self._signals < 2:
            self._signalled.clear()
            await self._signalled.wait()

    def _on_signal(self) -> None:
        self._signals += 1
        self._signalled.set()

    async def _applied(self, message: Msg) -> None:
        with contextlib.suppress(*UNREADABLE):
            revision = _revision.decode(message.data)
            if revision.number > self.revision.number:
                self.revision = revision

    def _beat(self) -> WorkerBeat:
        deployment = self.revision.catalog.deployments.get(self.config.deployment)
        capacity = self.engine.capacity()
        self.metrics.slots.labels("run").set(capacity.slots)
        self.metrics.slots.labels("now").set(capacity.reserve)
        self.metrics.running.labels("run").set(self.pool.running - self.pool.live)
        self.metrics.running.labels("now").set(self.pool.live)
        return WorkerBeat(
            worker=self.config.name,
            deployment=self.config.deployment,
            engine=deployment.engine if deployment else "?",
            slots=capacity.slots,
            reserve=capacity.reserve,
            running=self.pool.running,
            live=self.pool.live,
            draining=self.pool.is_draining,
            started_ms=self.started_ms,
            at_ms=wall_clock(),
            version=importlib.metadata.version("infermq"),
            paused=capacity.paused,
        )

    def _health(self) -> dict[str, object]:
        return {
            "worker": self.config.name,
            "deployment": self.config.deployment,
            "nats": self.nc.is_connected,
            "engine": not self.pool.died.is_set(),
            "running": self.pool.running,
            "draining": "yes" if self.pool.is_draining else "no",
        }
