"""Everything on this machine: NATS, Postgres, a broker and workers, as children of one process."""

import asyncio
import contextlib
import fcntl
import importlib.resources
import itertools
import json
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from broker.client import Client, NoBroker, RequestRefused
from broker.config import RUN_FILE, RunInfo, UpConfig, catalog_text, read_run_file
from broker.errors import Unavailable
from broker.ledger import migrate
from broker.local.servers import ANY_PORT, Child, Started, is_free, nats_server, postgres_server, spawn
from schemas.catalog import Catalog, parse

log = logging.getLogger(__name__)
CATALOG = "infermq.toml"
_READY_S = 120.0
_LOAD_S = 1800.0
"""A large model takes its time."""
_TELL_S = 10.0
_TOLD = 120
"""Characters of a log line."""
_DRAIN_S = 75.0
_POLL_S = 0.02
_WATCH_S = 0.2
_FIRST_RESTART_S = 1.0
_LAST_RESTART_S = 30.0
_STEADY_S = 60.0
"""A child that lived so long is restarted without much waiting."""
_MISCONFIGURED = 2
"""A worker's exit code when no restart will help."""

Say = Callable[[str], None]


@dataclass(slots=True)
class Kept:
    """A child that is restarted when it ends."""

    name: str
    command: Sequence[str]
    log: Path
    http_port: int = 0
    """The port it should have; 0: any free one."""
    child: Child | None = None
    http: str = ""
    restart_s: float = _FIRST_RESTART_S
    started: float = 0.0
    gave_up: bool = False
    due: float = field(default=0.0)
    """When to start it again."""

    def start(self, say: Say) -> None:
        """Start it on its port, or on any free one if that is taken."""
        self.started, self.due = time.monotonic(), 0.0
        port = self.http_port
        if port and not is_free(port):
            say(f"port {port} is taken: {self.name} listens on another")
            port = 0
        self._answer.unlink(missing_ok=True)
        answer = os.open(self._answer, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            command = [*self.command, "--http-port", str(port)]
            self.child = spawn(self.name, command, log=self.log, stdout=answer)
        finally:
            os.close(answer)

    async def stop(self) -> None:
        if self.child is not None:
            await self.child.stop(*([signal.SIGTERM] if self.http else []), within_s=_DRAIN_S)

    @property
    def _answer(self) -> Path:
        return self.log.with_suffix(".ready")

    async def ready(self, *, say: Say, within_s: float) -> None:
        """Wait for the line that it prints once it is; tell of its log meanwhile. Raises: Unavailable."""
        assert self.child is not None  # noqa: S101 - it was started
        began = told = time.monotonic()
        while self.child.is_running() and time.monotonic() < began + within_s:
            if self.look():
                return
            if time.monotonic() > told + _TELL_S:
                told = time.monotonic()
                last = self.child.tail().rpartition("\n")[2]
                say(f"{self.name} is starting, {told - began:.0f} s: {last[-_TOLD:]}")
            await asyncio.sleep(_POLL_S)
        raise self.child.failed()

    def look(self) -> bool:
        """Whether it has said that it is ready. Libraries of an engine may talk on the same stream."""
        with contextlib.suppress(OSError):
            for line in self._answer.read_text(errors="replace").splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    self.http = json.loads(line)["http"]
                    return True
        return False


@asynccontextmanager
async def running(config: UpConfig, say: Say) -> AsyncIterator["Up"]:
    """Start all of it, watch it while the block runs, stop it in order. Raises: Unavailable, CatalogError."""
    config.data.mkdir(parents=True, exist_ok=True)
    with _locked(config.data):
        async with AsyncExitStack() as stack:
            up = await _started(config, say, stack)
            watching = asyncio.create_task(up.watch())
            try:
                yield up
            finally:
                watching.cancel()
                (config.data / RUN_FILE).unlink(missing_ok=True)
                await up.stop()


@contextlib.contextmanager
def _locked(data: Path) -> Iterator[None]:
    with (data / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            info = read_run_file(data)
            who = f" (process {info.pid})" if info else ""
            raise Unavailable(
                "infermq", f"another `infermq up` runs on {data}{who}: a second one needs --data"
            ) from error
        yield


async def _started(config: UpConfig, say: Say, stack: AsyncExitStack) -> "Up":
    text = _catalog_text(config)
    catalog = parse(text)
    servers: list[Child] = []
    nats_url, postgres_url = await _servers(config, stack, servers.append)
    for name in await migrate(postgres_url):
        say(f"database: applied {name}")
    ports = _http_ports(config, nats_url, say)
    up = Up(config, nats_url, postgres_url, say=say, servers=servers, http_ports=ports)
    stack.push_async_callback(up.stop)
    await up.start_broker()
    await up.apply(text)
    await up.start_workers(catalog)
    up.write_run_file()
    return up


def _catalog_text(config: UpConfig) -> str:
    if config.catalog is not None:
        return catalog_text(config.catalog)
    beside = config.data.parent / CATALOG
    if beside.exists():
        return catalog_text(beside)
    return importlib.resources.files("broker").joinpath("default.toml").read_text()


async def _servers(config: UpConfig, stack: AsyncExitStack, started: Started) -> tuple[str, str]:
    """The URLs, of our own servers where none are given; both start side by side."""

    async def nats() -> str:
        if config.nats_url is not None:
            return config.nats_url
        port = config.port or ANY_PORT
        return await stack.enter_async_context(nats_server(config.data / "nats", port=port, started=started))

    async def postgres() -> str:
        if config.postgres_url is not None:
            return config.postgres_url
        return await stack.enter_async_context(postgres_server(config.data / "postgres", started=started))

    both = asyncio.gather(nats(), postgres(), return_exceptions=True)
    try:
        first, second = await asyncio.shield(both)
    except asyncio.CancelledError:
        await both  # half a database could not be started again
        raise
    for url in (first, second):
        if isinstance(url, BaseException):
            raise url
    return str(first), str(second)


def _http_ports(config: UpConfig, nats_url: str, say: Say) -> Iterator[int]:
    """The ports of the broker and then of each worker.

    Who has the port of NATS has those after it: of two that start at once, only one tries to listen there.
    """
    if not config.port:
        return itertools.repeat(0)
    if config.nats_url is None and urlsplit(nats_url).port != config.port:
        say(f"port {config.port} is taken: NATS listens at {nats_url}, the others on free ports too")
        return itertools.repeat(0)
    return itertools.count(config.port + 1)


class Up:
    """What is running."""

    def __init__(
        self,
        config: UpConfig,
        nats_url: str,
        postgres_url: str,
        *,
        say: Say,
        servers: Sequence[Child],
        http_ports: Iterator[int],
    ) -> None:
        self.config = config
        self.nats_url = nats_url
        self.postgres_url = postgres_url
        self._say = say
        self._servers = servers
        self._http_ports = http_ports
        self.lost = asyncio.Event()
        """A server ended by itself: nothing here can go on without it."""
        self._logs = config.data / "logs"
        self._logs.mkdir(exist_ok=True)
        self._children: list[Kept] = []
        self._stopping: list[Kept] = []

    def __repr__(self) -> str:
        return f"Up({[kept.child for kept in self._children]})"

    def info(self) -> RunInfo:
        workers = {kept.name: kept.http for kept in self._children[1:] if not kept.gave_up}
        return RunInfo(
            pid=os.getpid(),
            nats_url=self.nats_url,
            postgres_url=self.postgres_url,
            broker_http=self._children[0].http,
            workers=workers,
        )

    def pids(self) -> dict[str, int]:
        """Of the broker and the workers."""
        return {kept.name: kept.child.process.pid for kept in self._children if kept.child is not None}

    def unable(self) -> list[str]:
        """The workers that no restart will help."""
        return [kept.name for kept in self._children if kept.gave_up]

    async def start_broker(self) -> None:
        command = [sys.executable, "-m", "broker", "serve", "--json"]
        urls = ["--nats-url", self.nats_url, "--postgres-url", self.postgres_url]
        lease = ["--lease-s", str(self.config.lease_s)]
        await self._keep("broker", [*command, *urls, *lease]).ready(say=self._say, within_s=_READY_S)

    async def apply(self, text: str) -> None:
        """Make this the active catalog, unless it is."""
        async with Client.connect(self.nats_url) as client:
            for _ in range(100):
                try:
                    active = await client.catalog()
                except RequestRefused:
                    break
                except NoBroker:
                    await asyncio.sleep(_POLL_S)
                    continue
                if active.toml == text:
                    return
                break
            shown = await client.apply_catalog(text)
            self._say(f"catalog: applied revision {shown.number}")

    async def start_workers(self, catalog: Catalog) -> None:
        started = [
            self._keep(f"worker-{deployment}-{number}", self._worker(deployment, number))
            for deployment in catalog.deployments
            for number in range(1, self.config.workers + 1)
        ]
        await asyncio.gather(*(self._first_ready(kept) for kept in started))

    def _worker(self, deployment: str, number: int) -> list[str]:
        command = [sys.executable, "-m", "workers", "--json", "--deployment", deployment, "--nats-url", self.nats_url]
        slots = [] if self.config.slots is None else ["--slots", str(self.config.slots)]
        return [*command, "--name", f"{deployment}-{number}-{os.getpid()}", *slots]

    async def _first_ready(self, kept: Kept) -> None:
        try:
            await kept.ready(say=self._say, within_s=_LOAD_S)
        except Unavailable:
            assert kept.child is not None  # noqa: S101 - it was started
            if kept.child.process.poll() != _MISCONFIGURED:
                raise
            self._gives_up(kept)

    def _keep(self, name: str, command: Sequence[str]) -> Kept:
        log_file = self._logs / f"{name}.log"
        if log_file.exists():
            log_file.replace(log_file.with_suffix(".log.1"))
        kept = Kept(name, command, log_file, next(self._http_ports))
        kept.start(self._say)
        self._children.append(kept)
        return kept

    def write_run_file(self) -> None:
        part = self.config.data / f"{RUN_FILE}.part"
        part.write_bytes(msgspec.json.encode(self.info()))
        part.replace(self.config.data / RUN_FILE)

    async def watch(self) -> None:
        """Start again what ends."""
        while True:
            await asyncio.sleep(_WATCH_S)
            for kept in self._children:
                self._look_after(kept)
            for server in self._servers:
                if not server.is_running() and not self.lost.is_set():
                    self._say(f"{server.name} ended by itself; the end of {server.log}:\n{server.tail()}")
                    self.lost.set()

    def _look_after(self, kept: Kept) -> None:
        child, now = kept.child, time.monotonic()
        if child is None or kept.gave_up or child.is_running():
            return
        if child.process.returncode == _MISCONFIGURED:
            self._gives_up(kept)
        elif kept.due == 0.0:
            steady = now - kept.started > _STEADY_S
            kept.restart_s = _FIRST_RESTART_S if steady else min(_LAST_RESTART_S, kept.restart_s * 2)
            kept.due = now + kept.restart_s / 2
            self._say(f"{kept.name} ended with {child.process.returncode}; again in {kept.restart_s / 2:.0f} s")
        elif now >= kept.due:
            kept.start(self._say)

    def _gives_up(self, kept: Kept) -> None:
        kept.gave_up = True
        lines = kept.child.tail().splitlines() if kept.child else []
        self._say(f"{kept.name} cannot run: {lines[-1].removeprefix('error: ') if lines else 'it said nothing'}")

    async def stop(self) -> None:
        """Workers finish what they run, then the broker settles it. What never was ready has nothing to finish."""
        workers, brokers = self._children[1:], self._children[:1]
        self._stopping, self._children = workers, []
        for group in (workers, brokers):
            await asyncio.gather(*(kept.stop() for kept in group))
            for kept in group:
                kept.log.with_suffix(".ready").unlink(missing_ok=True)

    def put_back(self) -> None:
        """Do not wait for what runs: it could not be recorded."""
        for kept in self._children:
            if kept.child is not None:
                kept.child.process.kill()

    def hurry(self) -> None:
        """Put back what runs, instead of finishing it."""
        for kept in self._stopping:
            if kept.child is not None and kept.child.is_running():
                kept.child.process.send_signal(signal.SIGTERM)


async def up(config: UpConfig, *, say: Say, ready: Callable[[Up], None]) -> None:
    """Until a signal, which may come before all is up.

    Raises: Unavailable, also when NATS or Postgres ends by itself; CatalogError.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    async with AsyncExitStack() as stack:
        everything = await _unless(stopping, stack.enter_async_context(running(config, say)))
        if everything is None:
            say("stopped before everything was up")
            return
        ready(everything)
        waits = [asyncio.create_task(event.wait()) for event in (stopping, everything.lost)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if everything.lost.is_set():
            everything.put_back()
            raise Unavailable("infermq", "a server of its own ended: start it again, what was accepted is kept")
        say("stopping: running jobs are finished first; once more to put them back")
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, everything.hurry)


async def _unless(stopping: asyncio.Event, starting: Coroutine[Any, Any, Up]) -> Up | None:
    """None when it is to stop first: then what had been started is stopped again."""
    start, stop = asyncio.create_task(starting), asyncio.create_task(stopping.wait())
    await asyncio.wait((start, stop), return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    if not start.done():
        start.cancel()
    try:
        return await start
    except asyncio.CancelledError:
        return None
