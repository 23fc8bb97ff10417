"""Runs everything on this machine: NATS, Postgres, a broker and workers, as children of one process."""

import asyncio
import contextlib
import fcntl
import importlib.resources
import itertools
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from broker.client import Client, NoBroker, RequestRefused
from broker.config import (
    KEY_FILE,
    NATS_KEY_FILE,
    NATS_KEY_KEPT,
    RUN_FILE,
    WORKER_KEY_FILE,
    RunInfo,
    UpConfig,
    catalog_text,
    nats_keys,
    read_run_file,
)
from broker.core.accounts import Account
from broker.core.nats_config import nats_config
from broker.core.nats_keys import BadSecret, NatsKeys
from broker.errors import Unavailable
from broker.ledger import migrate
from broker.local.certificates import kept_certificate
from broker.local.secrets import kept_nats_keys, make_first_keys
from broker.local.servers import ANY_PORT, Child, Started, nats_server, postgres_server
from broker.local.supervised import Say, SupervisedProcess
from schemas.api import CatalogShow
from schemas.api_keys import FILE_VARIABLE
from schemas.catalog import Catalog, CatalogError, parse
from schemas.jetstream import NatsError, NoServersError
from schemas.jetstream.client import reach
from schemas.jetstream.trust import Trust, shown_trust, why
from schemas.urls import public

CATALOG = "infermq.toml"
_READY_S = 120.0
_LOAD_S = 1800.0
"""How long a worker may take to load its model."""
_POLL_S = 0.02
APPLIED = "catalog-applied.toml"
"""In the data folder: the text that `infermq up` applied last."""
_WATCH_S = 0.2


@asynccontextmanager
async def running(config: UpConfig, say: Say) -> AsyncIterator["Up"]:
    """Start everything, watch it while the block runs, stop it in order. Raises: Unavailable, CatalogError."""
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
    text, source = _catalog_text(config)
    try:
        parse(text)
    except CatalogError as error:
        raise CatalogError(f"{source}: {error}") from error
    servers: list[Child] = []
    keys = _nats_keys(config)
    nats_url, postgres_url = await _servers(config, keys, stack, servers.append)
    for name in await migrate(postgres_url):
        say(f"database: applied {name}")
    if keys is not None:
        await make_first_keys(config.data, postgres_url)
    ports = _http_ports(config, nats_url, say)
    up = Up(config, nats_url, postgres_url, say=say, servers=servers, http_ports=ports, has_keys=keys is not None)
    stack.push_async_callback(up.stop)
    await up.start_broker()
    active = await up.apply(text, source)
    up.catalog = parse(active)
    await up.start_workers(up.catalog)
    part = config.data / f"{RUN_FILE}.part"
    part.touch(mode=0o600)
    part.write_bytes(msgspec.json.encode(up.info()))
    part.replace(config.data / RUN_FILE)
    return up


def _catalog_text(config: UpConfig) -> tuple[str, str]:
    """Read the catalog to begin with. Return its text, and what to call it."""
    if config.catalog is not None:
        return catalog_text(config.catalog), str(config.catalog)
    beside = config.data.parent / CATALOG
    if beside.exists():
        return catalog_text(beside), CATALOG
    return importlib.resources.files("broker").joinpath("default.toml").read_text(), "the built-in catalog"


def _nats_keys(config: UpConfig) -> NatsKeys | None:
    """Return what the brokers sign with: of a NATS of its own, out of the data folder. Raises: Unavailable."""
    if config.keyless:
        return None
    try:
        if config.nats_url is not None:
            return nats_keys(os.environ)
        return kept_nats_keys(config.data / NATS_KEY_KEPT)
    except (BadSecret, OSError) as error:
        raise Unavailable("infermq", f"the secret of the brokers cannot be read: {error}") from error


async def _servers(
    config: UpConfig, keys: NatsKeys | None, stack: AsyncExitStack, started: Started
) -> tuple[str, str]:
    """Return the URLs of NATS and Postgres, which are started at the same time unless their URLs are given."""

    async def nats() -> str:
        if config.nats_url is not None:
            seed = None if keys is None else keys.user_seed(Account.BROKERS)
            try:
                await reach(
                    config.nats_url, nkeys_seed_str=seed, trust=_trust(config)
                )  # at once, since a broker would wait for it
            except (OSError, NoServersError, NatsError, TimeoutError) as error:
                raise Unavailable("NATS", f"{public(config.nats_url)}: {why(error)}") from error
            return config.nats_url
        port = ANY_PORT if config.port == 0 else config.port
        settings = "" if keys is None else nats_config(keys)
        if config.tls:
            settings += kept_certificate(config.data).settings()
        server = nats_server(config.data / "nats", port=port, settings=settings, started=started)
        return await stack.enter_async_context(server)

    async def postgres() -> str:
        if config.postgres_url is not None:
            return config.postgres_url
        return await stack.enter_async_context(postgres_server(config.data / "postgres", started=started))

    both = asyncio.gather(nats(), postgres(), return_exceptions=True)
    try:
        first, second = await asyncio.shield(both)
    except asyncio.CancelledError:
        await both  # a database that is half made could not be started again
        raise
    for url in (first, second):
        if isinstance(url, BaseException):
            raise url
    return str(first), str(second)


def _trust(config: UpConfig) -> Trust | None:
    """Return the certificates with which its NATS is reached."""
    if config.tls and config.nats_url is None:
        return kept_certificate(config.data).trust
    return shown_trust(os.environ)


def _http_ports(config: UpConfig, nats_url: str, say: Say) -> Iterator[int]:
    """Yield the port of the API over HTTP, then the HTTP port of the broker and of each worker.

    Whoever has the port of NATS has those after it, so of two that start at once only one tries to listen there.
    """
    if config.port == 0:
        return itertools.repeat(0)
    if config.nats_url is None and urlsplit(nats_url).port != config.port:
        say(f"port {config.port} is taken: NATS listens at {nats_url}, the others on free ports too")
        return itertools.repeat(0)
    return itertools.count(config.port + 1)


class Up:
    """Everything that runs: the broker first among the processes, then the workers."""

    def __init__(
        self,
        config: UpConfig,
        nats_url: str,
        postgres_url: str,
        *,
        say: Say,
        servers: Sequence[Child],
        http_ports: Iterator[int],
        has_keys: bool = False,
    ) -> None:
        self.config = config
        self.nats_url = nats_url
        self.postgres_url = postgres_url
        self._say = say
        self._servers = servers
        self._http_ports = http_ports
        self._has_keys = has_keys
        self.catalog = Catalog(models={}, deployments={})
        """The active one, once the broker is ready."""
        self.trust = _trust(config)
        self.lost = asyncio.Event()
        """A server ended by itself: nothing here can go on without it."""
        self.lost_server = "a server"
        """The one that ended."""
        self._logs = config.data / "logs"
        self._logs.mkdir(exist_ok=True)
        self._processes: list[SupervisedProcess] = []
        self._stopping: list[SupervisedProcess] = []

    def __repr__(self) -> str:
        return f"Up({[process.child for process in self._processes]})"

    def info(self) -> RunInfo:
        first, *others = self._processes
        return RunInfo(
            pid=os.getpid(),
            nats_url=self.nats_url,
            postgres_url=self.postgres_url,
            broker_http=first.http,
            api=first.api,
            workers={worker.name: worker.http for worker in others if not worker.gave_up},
            trust=self.trust,
        )

    @property
    def api_key(self) -> str | None:
        """The key that its user's commands show. None: none is asked for."""
        return (self.config.data / KEY_FILE).read_text().strip() if self._has_keys else None

    def pids(self) -> dict[str, int]:
        """The process ids of the broker and the workers, by their names."""
        return {one.name: one.child.process.pid for one in self._processes if one.child is not None}

    def served(self) -> set[str]:
        """The deployments that have a worker here."""
        able = {process.name for process in self._processes if not process.gave_up}
        return {name for name in self.catalog.deployments if f"worker-{name}-1" in able}

    def unable(self) -> list[str]:
        """The names of the workers that no restart will help."""
        return [process.name for process in self._processes if process.gave_up]

    async def start_broker(self) -> None:
        """Start the broker and wait until it is ready. Raises: Unavailable."""
        command = [sys.executable, "-m", "broker", "serve", "--json"]
        more = ["--lease-s", str(self.config.lease_s), "--replicas", str(self.config.replicas)]
        more += ["--files", self.config.files]
        is_ours = self._has_keys and self.config.nats_url is None
        keys = {NATS_KEY_FILE: str(self.config.data / NATS_KEY_KEPT)} if is_ours else {}
        if self.config.tls:
            keys |= kept_certificate(self.config.data).of_api()
        api_port = next(self._http_ports)
        await self._start("broker", [*command, *more], keys, api_port=api_port).ready(within_s=_READY_S)

    async def apply(self, text: str, source: str) -> str:
        """Make this the active catalog, unless somebody applied another since. Return the text of the one that is active.

        The text that was applied here last is kept, so that an old file never replaces what was applied by hand.
        """
        kept = self.config.data / APPLIED
        async with Client.connect(self.nats_url, api_key=self.api_key, trust=self.trust) as client:
            active = await self._active(client)
            if active is not None and active.toml != text:
                last = kept.read_text() if kept.is_file() else None
                if active.toml != last:
                    self._say(
                        f"catalog: revision {active.number} stays active: it was applied by hand, and {source} is another; "
                        "`infermq apply FILE` makes that one active"
                    )
                    return active.toml
            if active is None or active.toml != text:
                shown = await client.apply_catalog(text)
                self._say(f"catalog: applied {source} as revision {shown.number}")
        kept.write_text(text)
        return text

    async def _active(self, client: Client) -> CatalogShow | None:
        """Ask for the active catalog, while the broker comes up. None: there is none."""
        for _ in range(100):
            try:
                return await client.catalog()
            except RequestRefused:
                return None
            except NoBroker:
                await asyncio.sleep(_POLL_S)
        return None

    async def start_workers(self, catalog: Catalog) -> None:
        """Start the workers of every deployment, and wait until they are ready or given up. Raises: Unavailable."""
        keys = {FILE_VARIABLE: str(self.config.data / WORKER_KEY_FILE)} if self._has_keys else {}
        started = [
            self._start(f"worker-{deployment}-{number}", self._worker_command(deployment, number), keys)
            for deployment in catalog.deployments
            for number in range(1, self.config.workers + 1)
        ]

        async def ready(worker: SupervisedProcess) -> None:
            try:
                await worker.ready(within_s=_LOAD_S)
            except Unavailable:
                if not worker.give_up_if_hopeless():
                    raise

        await asyncio.gather(*map(ready, started))

    def _worker_command(self, deployment: str, number: int) -> list[str]:
        command = [sys.executable, "-m", "workers", "--json", "--deployment", deployment]
        slots = [] if self.config.slots is None else ["--slots", str(self.config.slots)]
        return [*command, "--name", f"{deployment}-{number}-{os.getpid()}", *slots]

    def _start(
        self, name: str, command: Sequence[str], keys: Mapping[str, str], *, api_port: int | None = None
    ) -> SupervisedProcess:
        log_file = self._logs / f"{name}.log"
        if log_file.exists():
            log_file.replace(log_file.with_suffix(".log.1"))
        urls = {"INFERMQ_NATS_URL": self.nats_url, "INFERMQ_POSTGRES_URL": self.postgres_url}
        urls |= {} if self.trust is None else self.trust.environ()
        process = SupervisedProcess(
            name,
            command,
            log_file,
            self._say,
            next(self._http_ports),
            environ={**urls, **keys},
            api_port=api_port,
        )
        process.start()
        self._processes.append(process)
        return process

    async def watch(self) -> None:
        """Restart processes that end, until cancelled. Set `lost` if a server ends."""
        while True:
            await asyncio.sleep(_WATCH_S)
            for process in self._processes:
                process.look_after()
            for server in self._servers:
                if not server.is_running() and not self.lost.is_set():
                    self._say(f"{server.name} ended by itself; the end of {server.log}:\n{server.tail()}")
                    self.lost_server = server.name
                    self.lost.set()

    async def stop(self) -> None:
        """Let the workers finish what they run, and then the broker settle it."""
        brokers, self._stopping = self._processes[:1], self._processes[1:]
        self._processes = []
        for group in (self._stopping, brokers):
            await asyncio.gather(*(process.stop() for process in group))

    def kill(self) -> None:
        """End the processes at once. What runs could not be recorded, so nothing waits for it."""
        for process in self._processes:
            if process.child is not None:
                process.child.process.kill()

    def hurry(self) -> None:
        """Have the workers that are stopping put back what they run, instead of finishing it."""
        for process in self._stopping:
            if process.child is not None and process.child.is_running():
                process.child.process.send_signal(signal.SIGTERM)


async def up(config: UpConfig, *, say: Say, ready: Callable[[Up], None]) -> None:
    """Run everything until a signal, which may come before everything is up.

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
            everything.kill()
            ended = f"{everything.lost_server} ended by itself"
            raise Unavailable("infermq", f"{ended}: start it again, what was accepted is kept")
        say("stopping: running jobs are finished first; once more to put them back")
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, everything.hurry)


async def _unless(stopping: asyncio.Event, starting: Coroutine[Any, Any, Up]) -> Up | None:
    """Finish starting; or, if told to stop first, stop what had been started and return None."""
    start, stop = asyncio.create_task(starting), asyncio.create_task(stopping.wait())
    await asyncio.wait((start, stop), return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    if not start.done():
        start.cancel()
    try:
        return await start
    except asyncio.CancelledError:
        return None
