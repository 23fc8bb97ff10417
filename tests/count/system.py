"""A real system whose work can be counted: NATS, Postgres, one broker, one worker with the simulated engine."""

import asyncio
import contextlib
import http.client
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import msgspec

from broker.bench.system import Talk, child
from broker.client import Client
from broker.config import KEY_FILE, NATS_KEY_FILE, NATS_KEY_KEPT, WORKER_KEY_FILE
from broker.core.nats_config import nats_config
from broker.ledger.connection import Connection
from broker.local.secrets import kept_nats_keys, make_first_keys
from broker.local.servers import nats_server, postgres_server
from schemas import subjects
from schemas.api_keys import FILE_VARIABLE

JOBS = 16
"""Of a round of the bulk path: as many as the worker has slots, and as many outcomes as travel together at most."""
WORDS = 16
_RUN_S = 0.05
"""Longer than it takes to start the jobs of a round, so that they end together and are reported as one message."""
_CATALOG = f"""\
[models.m]
[[models.m.route]]
deployment = "d"

[deployments.d]
engine = "simulated"
max_concurrency = {JOBS}
reserve = 1
[deployments.d.price]
input = 1.0
output = 2.0
[deployments.d.options]
output_tokens = {WORDS}
decode_tokens_per_s = {WORDS / _RUN_S}
"""
_WORK = {subjects.SUBMIT, subjects.RUN, subjects.NOW, subjects.OUTCOME}
_LOOK_S = 0.01
_IDLE_S = 60.0


class Traffic(msgspec.Struct, frozen=True):
    """What passed the servers so far."""

    statements: int
    messages: int
    bytes: int


class Spent(msgspec.Struct, frozen=True):
    """What was spent since the last reading."""

    traffic: Traffic
    broker: Mapping[str, int]
    """Python calls by function."""
    worker: Mapping[str, int]


class System:
    """What runs, and what it has spent. It counts nothing of its own connection to Postgres."""

    def __init__(self, client: Client, monitor: str, database: Connection, *, broker: Talk, worker: Talk) -> None:
        self.client = client
        self._monitor = http.client.HTTPConnection(urlsplit(monitor).netloc)
        self._database = database
        self._broker = broker
        self._worker = worker
        self._read = Traffic(0, 0, 0)

    async def spent(self) -> Spent:
        """Wait until nothing is on its way any more, then say what was spent since the last time."""
        async with asyncio.timeout(_IDLE_S):
            traffic = await self._idle()
        before, self._read = self._read, traffic
        return Spent(
            traffic=Traffic(
                traffic.statements - before.statements,
                traffic.messages - before.messages,
                traffic.bytes - before.bytes,
            ),
            broker=await self._broker.ask({}),
            worker=await self._worker.ask({}),
        )

    async def _idle(self) -> Traffic:
        """The traffic so far, once the streams of work are empty and two looks see the same."""
        seen = None
        while (traffic := await self._traffic()) != seen or self._messages_left():
            seen = traffic
            await asyncio.sleep(_LOOK_S)
        return traffic

    async def _traffic(self) -> Traffic:
        """All statements of the server but these, and all messages between NATS and its clients, in both directions."""
        statements = "select sum(calls)::bigint from pg_stat_statements where query not like '%pg_stat_statements%'"
        server = self._look("/varz")
        return Traffic(
            await self._database.fetchval(statements),
            server["in_msgs"] + server["out_msgs"],
            server["in_bytes"] + server["out_bytes"],
        )

    def _messages_left(self) -> int:
        accounts = self._look("/jsz?streams=true")["account_details"]
        streams = [stream for account in accounts for stream in account["stream_detail"]]
        return sum(stream["state"]["messages"] for stream in streams if stream["name"] in _WORK)

    def _look(self, path: str) -> dict[str, Any]:
        self._monitor.request("GET", path)
        found: dict[str, Any] = json.loads(self._monitor.getresponse().read())
        return found


@asynccontextmanager
async def a_counted_system(checkout: Path, *, with_keys: bool = False) -> AsyncIterator[System]:
    """Broker and worker run the code of this checkout; the client is ours. `with_keys`: NATS asks for them."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="infermq-count-")))
        settings = 'http: "127.0.0.1:-1"\n' + (
            nats_config(kept_nats_keys(folder / NATS_KEY_KEPT)) if with_keys else ""
        )
        nats_url = await stack.enter_async_context(nats_server(folder / "nats", settings=settings))
        preloaded = {"shared_preload_libraries": "pg_stat_statements"}
        url = await stack.enter_async_context(postgres_server(folder / "pg", durable=False, settings=preloaded))
        await asyncio.to_thread(_migrate, checkout, url)
        database = await asyncpg.connect(url)
        stack.push_async_callback(database.close)
        await database.execute("create extension pg_stat_statements")
        if with_keys:
            await make_first_keys(folder, url)
            for name, file in {NATS_KEY_FILE: NATS_KEY_KEPT, FILE_VARIABLE: WORKER_KEY_FILE}.items():
                stack.enter_context(_environ(name, str(folder / file)))
        api_key = (folder / KEY_FILE).read_text() if with_keys else None
        servers = ("--json", "--nats-url", nats_url)
        broker = await stack.enter_async_context(
            _counted(checkout, "broker", "serve", *servers, "--postgres-url", url)
        )
        client = await stack.enter_async_context(Client.connect(nats_url, api_key=api_key))
        await client.apply_catalog(_CATALOG)
        worker = await stack.enter_async_context(_counted(checkout, "workers", *servers, "--deployment", "d"))
        yield System(client, _monitor_of(folder / "nats"), database, broker=broker, worker=worker)


@contextlib.contextmanager
def _environ(name: str, value: str) -> Iterator[None]:
    """Tell it to the processes that are started meanwhile."""
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]


def _counted(checkout: Path, *words: str) -> Any:
    return child(str(Path(__file__).with_name("counted.py")), str(checkout), *words)


def _migrate(checkout: Path, url: str) -> None:
    command = [sys.executable, "-m", "broker", "migrate", "--postgres-url", url, "--json"]
    env = {**os.environ, "PYTHONPATH": str(checkout)}
    subprocess.run(command, cwd=checkout, env=env, check=True, capture_output=True)


def _monitor_of(folder: Path) -> str:
    (ports,) = folder.glob("*.ports")
    return str(json.loads(ports.read_text())["monitoring"][0])
