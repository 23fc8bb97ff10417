"""Three NATS nodes, of which one is killed every so often under load: nothing is lost, and how long each pause is.

Some producers and callers measure the pauses. Beside them runs the load of all rounds, with people who cancel, pause,
change, retry and replay; in the end all is compared as after a round.
"""

import asyncio
import itertools
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import asyncpg

from broker.client import BacklogFull, Client, RequestRefused, RequestTimedOut
from broker.errors import Unavailable
from broker.local.servers import Child, is_free, spawn
from broker.retrying import until_available
from schemas.job import Lane
from tests.chaos.check import FENCE, Check, Figures
from tests.chaos.load import a_load
from tests.chaos.machine import CATALOG as OTHERS
from tests.sums import a_ledger_server
from tests.system import CATALOG, until

SCRIPT = Path(__file__).parents[2] / "deploy" / "nats_cluster.py"
HELLO = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
PROBE = "probe"
"""The tenant of those who measure: nobody pauses it."""
_NODES = 3
_AT_ONCE = 3
_STEP_S = 0.1
_SETTLED_S = 120.0
Say = Callable[[str], None]


@dataclass
class Load:
    """What was sent and what came of it."""

    accepted: set[UUID] = field(default_factory=set)
    answered: set[UUID] = field(default_factory=set)
    told: int = 0
    """How often a producer or caller got an error instead."""
    accepted_at: list[float] = field(default_factory=list)
    answered_at: list[float] = field(default_factory=list)

    async def submit(self, client: Client) -> None:
        while True:
            try:
                self.accepted.add(await client.submit("m", HELLO, lane=Lane.BULK))
                self.accepted_at.append(time.monotonic())
            except (Unavailable, BacklogFull):
                self.told += 1
            await asyncio.sleep(_STEP_S)

    async def infer(self, client: Client) -> None:
        while True:
            try:
                reply = await client.infer("m", HELLO, timeout_s=20)
                self.answered_at.append(time.monotonic())
                if reply.job is not None:
                    self.answered.add(reply.job)
            except (Unavailable, RequestRefused, RequestTimedOut):
                self.told += 1
            await asyncio.sleep(_STEP_S)

    def pause_s(self, since: float) -> float:
        """Return the longest time from then on in which no job was accepted, or no request answered."""
        longest = 0.0
        for successes in (self.accepted_at, self.answered_at):
            times = [since, *(one for one in successes if one > since), time.monotonic()]
            longest = max(longest, *(later - earlier for earlier, later in itertools.pairwise(times)))
        return longest


@dataclass
class Result:
    pauses_s: list[float]
    load: Load
    lost: list[str]
    """Accepted jobs and answered requests that did not succeed by the ledger."""
    violations: list[str]
    """What else was promised, and is not so."""
    figures: Figures
    ordered: dict[str, int]

    def __str__(self) -> str:
        return (
            f"{len(self.pauses_s)} kills, pause median {statistics.median(self.pauses_s):.1f} s, "
            f"longest {max(self.pauses_s):.1f} s; {len(self.load.accepted)} jobs accepted, "
            f"{len(self.load.answered)} requests answered, {self.load.told} errors told, {len(self.lost)} lost, sums agree\n"
            f"beside them {self.figures}\n"
            f"ordered: {', '.join(f'{what} {n}' for what, n in sorted(self.ordered.items()))}\n"
            f"{len(self.violations)} violations"
        )


async def kill_nodes(*, seed: int, kills: int, every_s: float, say: Say) -> Result:
    """Kill one node after the other under load. Raises: AssertionError, if the sums of the ledger do not agree."""
    dice = random.Random(seed)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="infermq-cluster-")))
        postgres_url = await stack.enter_async_context(a_ledger_server(folder / "pg"))
        urls = await stack.enter_async_context(a_cluster(folder))
        system = _Cluster(_Url(urls), _Url(postgres_url), folder / "ran")
        await stack.enter_async_context(_processes(folder, system))
        client = await stack.enter_async_context(Client.connect(urls, tenant=PROBE))
        beside = await stack.enter_async_context(a_load(urls, seed, forges=False, orders=True))
        load, pauses_s = Load(), []
        tasks = [asyncio.create_task(one(client)) for one in (load.submit, load.infer) for _ in range(_AT_ONCE)]
        try:
            await until(lambda: _has(load), "a job is accepted and a request answered")
            beside.open()
            for number in range(kills):
                node = dice.randrange(_NODES) + 1
                began = time.monotonic()
                os.kill(int((folder / "nats" / str(node) / "pid").read_text()), signal.SIGKILL)
                await asyncio.sleep(every_s)
                pauses_s.append(load.pause_s(began))
                say(f"kill {number + 1}: node {node}, pause {pauses_s[-1]:.1f} s, {len(load.accepted)} accepted")
                for task in tasks:
                    if task.done():
                        task.result()
        finally:
            beside.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        check = Check(system, beside)
        await check.settled(_SETTLED_S)
        violations, figures = await check.compare(may_repeat=True)
        counts = beside.orders.ordered.counts
        return Result(pauses_s, load, await _lost(postgres_url, load), violations, figures, counts)


@dataclass(frozen=True, slots=True)
class _Url:
    url: str


@dataclass(slots=True)
class _Cluster:
    """What is compared with what was promised. Of its processes only nodes of NATS are killed."""

    nats: _Url
    postgres: _Url
    ran: Path
    complaints: list[str] = field(default_factory=list)
    deleted_s: list[float] = field(default_factory=list)

    def killed(self) -> set[int]:
        return set()


async def _has(load: Load) -> bool:
    return bool(load.accepted and load.answered)


async def _lost(postgres_url: str, load: Load) -> list[str]:
    """Wait until all has ended, then say what did not succeed."""
    wanted = [*load.accepted, *load.answered]
    states: dict[UUID, str] = {}

    async def all_ended() -> bool:
        connection = await asyncpg.connect(postgres_url)
        try:
            rows = await connection.fetch("select id, state from infermq.jobs where id = any($1)", wanted)
        finally:
            await connection.close()
        states.update((row["id"], row["state"]) for row in rows)
        return all(states.get(job, "open") != "open" for job in wanted)

    with suppress(AssertionError):
        await until(all_ended, "everything has ended", within_s=_SETTLED_S)
    return [f"{job} {states.get(job, 'unknown')}" for job in wanted if states.get(job) != "succeeded"]


@asynccontextmanager
async def a_cluster(folder: Path) -> AsyncIterator[str]:
    """Run the script of `deploy/`, and wait until the cluster has a leader."""
    port = next(one for one in range(21_000, 30_000, 16) if all(is_free(one + n) for n in range(2 * _NODES)))
    log = folder / "cluster.log"
    words = ["--folder", str(folder / "nats"), "--port", str(port)]
    child = spawn("cluster", [sys.executable, str(SCRIPT), *words], log=log, last_words=signal.SIGTERM)
    try:
        await until(lambda: _says(child, "nats://"), "the nodes are started")
        yield log.read_text().splitlines()[0]
    finally:
        await child.stop(signal.SIGTERM)


@asynccontextmanager
async def _processes(folder: Path, system: _Cluster) -> AsyncIterator[None]:
    """Two brokers and two workers, as they are deployed."""
    children: list[Child] = []
    urls, postgres_url = system.nats.url, system.postgres.url
    system.ran.touch()
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(FENCE)
    await connection.close()

    def start(name: str, *words: str) -> None:
        environ = {"INFERMQ_NATS_URL": urls, "INFERMQ_POSTGRES_URL": postgres_url, "INFERMQ_REPLICAS": "3"}
        command = [sys.executable, "-m", *words, "--json"]
        children.append(spawn(name, command, log=folder / f"{name}.log", env=environ))

    try:
        for name in ("broker-1", "broker-2"):
            start(name, "broker", "serve", "--name", name)
        for child in children:
            await until(lambda child=child: _says(child, '"ready"'), "a broker is ready", within_s=60)  # type: ignore[misc]
        async with Client.connect(urls) as client:
            catalog = CATALOG.format(slots=16, options="") + OTHERS.format(log=system.ran, cap=1000.0)
            await until_available(lambda: client.apply_catalog(catalog))  # its streams may have no leader yet
        for number, deployment in enumerate(("d", "d", "fast", "steady", "flaky"), 1):
            start(f"worker-{number}", "workers", "--deployment", deployment, "--name", f"worker-{number}")
        for child in children:
            await until(lambda child=child: _says(child, '"ready"'), "a worker is ready", within_s=60)  # type: ignore[misc]
        yield
    finally:
        for child in reversed(children):
            await child.stop(signal.SIGTERM)


async def _says(child: Child, word: str) -> bool:
    assert child.is_running(), child.tail()
    return word in child.log.read_text()
