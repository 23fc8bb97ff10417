"""NATS, Postgres, brokers and workers as processes of their own, to be killed, stopped and started again."""

import asyncio
import contextlib
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from broker.ledger import migrate
from broker.local.servers import Child, is_free, nats_server, postgres_server, spawn
from tests.chaos.lossy import LossyWay, a_lossy_way

LEASE_S = 3.0
_READY_S = 60.0
_POLL_S = 0.05
CATALOG = """
[models.quick]
[[models.quick.route]]
deployment = "fast"

[models.slow]
[[models.slow.route]]
deployment = "steady"

[models.flaky]
[[models.flaky.route]]
deployment = "flaky"
[[models.flaky.route]]
deployment = "fast"
weight = 0

[deployments.fast]
engine = "simulated"
context_tokens = 100000
max_concurrency = 16
reserve = 4
price = {{ input = 1.0, output = 2.0 }}
[deployments.fast.options]
log = "{log}"
decode_tokens_per_s = 200.0
[[deployments.fast.options.failures]]
match = "hopeless"
kind = "engine_fault"

[deployments.steady]
engine = "simulated"
max_concurrency = 16
reserve = 4
daily_cap_usd = {cap}
price = {{ input = 1.0, output = 2.0 }}
[deployments.steady.options]
log = "{log}"
decode_tokens_per_s = 20.0
output_tokens = 200

[deployments.flaky]
engine = "simulated"
max_concurrency = 8
reserve = 2
attempt_timeout_s = 2.0
price = {{ input = 1.0, output = 2.0 }}
[deployments.flaky.options]
log = "{log}"
[[deployments.flaky.options.failures]]
match = "once"
kind = "engine_fault"
times = 1
[[deployments.flaky.options.failures]]
match = "throttled"
kind = "throttled"
times = 1
retry_after_ms = 200
[[deployments.flaky.options.failures]]
match = "filtered"
kind = "filtered"
[[deployments.flaky.options.failures]]
match = "hangs"
kind = "hang"
times = 1
[[deployments.flaky.options.failures]]
match = "broken"
kind = "engine_fault"
[[deployments.flaky.options.failures]]
match = "hopeless"
kind = "engine_fault"
"""
WORKERS = {"fast": 2, "steady": 2, "flaky": 1}
BROKERS = 2


@dataclass(slots=True)
class Program:
    """One of our programs. It is started again when it ends, as a supervisor would."""

    name: str
    command: Sequence[str]
    folder: Path
    child: Child | None = None
    killed: set[int] = field(default_factory=set)
    """The ids of the processes that had no time to report."""
    is_expected_to_end: bool = False
    starts: int = 0

    def __repr__(self) -> str:
        return f"Program({self.name}, {self.child})"

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.log"

    def start(self) -> None:
        self.starts += 1
        self.is_expected_to_end = False
        ready = self.folder / f"{self.name}.ready"
        output = os.open(ready, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            self.child = spawn(
                self.name, [sys.executable, "-m", *self.command, "--json"], log=self.log, stdout=output
            )
        finally:
            os.close(output)

    def is_ready(self) -> bool:
        return b'"ready"' in (self.folder / f"{self.name}.ready").read_bytes()

    def is_running(self) -> bool:
        return self.child is not None and self.child.is_running()

    def pid(self) -> int:
        assert self.child is not None
        return self.child.process.pid

    def kill(self) -> None:
        self.is_expected_to_end = True
        self.killed.add(self.pid())
        self.signal(signal.SIGKILL)

    def ask_to_end(self) -> None:
        self.is_expected_to_end = True
        self.signal(signal.SIGTERM)

    def signal(self, number: signal.Signals) -> None:
        if self.is_running():
            assert self.child is not None
            self.child.process.send_signal(number)


class Server:
    """NATS or Postgres, with all processes of it."""

    def __init__(self, name: str, folder: Path, port: int = 0) -> None:
        self.name = name
        self.folder = folder
        self.port = port
        self.url = ""
        self._stack = AsyncExitStack()
        self._child: Child | None = None

    def _started(self, child: Child) -> None:
        self._child = child

    async def start(self) -> None:
        if self.name == "nats":
            running = nats_server(self.folder, port=self.port, started=self._started)
            self.url = await self._stack.enter_async_context(running)
            assert self.url.endswith(f":{self.port}"), f"somebody took port {self.port}"
        else:
            self.url = await self._stack.enter_async_context(
                postgres_server(self.folder, durable=False, started=self._started)
            )

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all of its processes."""
        assert self._child is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self._child.process.pid)
            for one in [process, *process.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.send_signal(number)

    async def kill(self) -> None:
        self.signal(signal.SIGKILL)
        await self.stop()

    async def stop(self) -> None:
        """Ends as soon as all its processes have."""
        await self._stack.aclose()

    def forget(self) -> None:
        """Delete all that it stored. It must not run."""
        shutil.rmtree(self.folder / "store", ignore_errors=True)


class Machine:
    """All of them. `look_after` starts again what has ended."""

    def __init__(self, folder: Path, nats: Server, postgres: Server, way: LossyWay) -> None:
        self.folder = folder
        self.nats = nats
        self.postgres = postgres
        self.way = way
        self.ran = folder / "ran"
        """A line for each request that an engine started."""
        self.ran.touch()
        self.complaints: list[str] = []
        """What ended although nobody had ended it."""
        self.deleted_s: list[float] = []
        """When the store of NATS was deleted."""
        self.brokers = [self._broker(number) for number in range(1, BROKERS + 1)]
        self.workers = [
            self._worker(deployment, number) for deployment, n in WORKERS.items() for number in range(1, n + 1)
        ]

    def _broker(self, number: int) -> Program:
        """The first reaches NATS by the lossy way. Each tells Postgres who it is, for the check of the fence."""
        name = f"broker-{number}"
        url = self.way.url if number == 1 else self.nats.url
        where = ["--nats-url", url, "--postgres-url", f"{self.postgres.url}&chaos.who={name}"]
        return Program(name, ["broker", "serve", *where, "--name", name, "--lease-s", str(LEASE_S)], self.folder)

    def _worker(self, deployment: str, number: int) -> Program:
        url = self.way.url if number == 1 else self.nats.url
        name = f"{deployment}-{number}"
        return Program(name, ["workers", "--deployment", deployment, "--nats-url", url, "--name", name], self.folder)

    def forget_store(self) -> None:
        """Delete what NATS stored, while it does not run."""
        self.nats.forget()
        self.deleted_s.append(time.monotonic())

    @property
    def programs(self) -> list[Program]:
        return [*self.brokers, *self.workers]

    def killed(self) -> set[int]:
        return {pid for worker in self.workers for pid in worker.killed}

    async def look_after(self) -> None:
        """Start again what has ended, after a pause, until cancelled."""
        due: dict[str, float] = {}
        chance = random.Random(0)
        while True:
            await asyncio.sleep(_POLL_S)
            now = time.monotonic()
            for program in self.programs:
                if program.child is None or program.is_running():
                    continue
                if program.name not in due:
                    self._complain(program)
                    due[program.name] = now + chance.uniform(0.2, 1.5)
                elif now >= due[program.name]:
                    del due[program.name]
                    program.start()

    def _complain(self, program: Program) -> None:
        assert program.child is not None
        if not program.is_expected_to_end:
            code = program.child.process.returncode
            self.complaints.append(f"{program.name} ended by itself with {code}:\n{program.child.tail()}")

    async def all_ready(self) -> None:
        end = time.monotonic() + _READY_S
        while time.monotonic() < end:
            if all(program.is_running() and program.is_ready() for program in self.programs):
                return
            await asyncio.sleep(_POLL_S)
        late = [program for program in self.programs if not (program.is_running() and program.is_ready())]
        raise AssertionError(f"not ready within {_READY_S} s: {late}; " + "\n".join(map(_tail, late)))

    async def stop(self) -> None:
        for group in (self.workers, self.brokers):
            for program in group:
                program.signal(signal.SIGCONT)
                program.ask_to_end()
            for program in group:
                if program.child is not None:
                    await program.child.stop(within_s=15.0)


def _tail(program: Program) -> str:
    return program.child.tail() if program.child else "never started"


def _free_ports() -> Iterator[int]:
    """Ports below those that Linux gives to outgoing connections, so that a server gets its own again."""
    chance = random.Random(os.getpid())
    while True:
        port = chance.randrange(20_000, 30_000)
        if is_free(port):
            yield port


@asynccontextmanager
async def a_machine(folder: Path) -> AsyncIterator[Machine]:
    """Started with a catalog, and stopped with all its processes in the end."""
    async with AsyncExitStack() as stack:
        nats = Server("nats", folder / "nats", next(_free_ports()))
        postgres = Server("postgres", folder / "postgres")
        for server in (nats, postgres):
            stack.push_async_callback(server.stop)
            await server.start()
        await migrate(postgres.url)
        way = await stack.enter_async_context(a_lossy_way(nats.port))
        machine = Machine(folder, nats, postgres, way)
        stack.push_async_callback(machine.stop)
        yield machine


def catalog_of(machine: Machine, *, cap_usd: float) -> str:
    """`cap_usd`: what the deployment `steady` may cost a day."""
    return CATALOG.format(log=machine.ran, cap=cap_usd)
