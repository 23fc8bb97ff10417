"""Runs what benchmarks need: a whole infermq in a folder of its own, and engines that are driven directly."""

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from broker.client import Client
from broker.config import UpConfig
from broker.local.up import Up, running

_END_S = 20.0


@asynccontextmanager
async def a_system(catalog: str, *, workers: int = 1, keyless: bool = True) -> AsyncIterator[tuple[Up, Client, Path]]:
    """Run infermq with `workers` for each deployment. The value is it, a client, and the catalog's file."""
    with tempfile.TemporaryDirectory(prefix="infermq-bench-") as folder:
        file = Path(folder) / "catalog.toml"
        file.write_text(catalog)
        config = UpConfig(data=Path(folder) / "data", catalog=file, workers=workers, keyless=keyless)
        async with (
            running(config, say=lambda _: None) as up,
            Client.connect(up.nats_url, api_key=up.api_key, trust=up.trust) as client,
        ):
            yield up, client, file


class Talk:
    """A Python process that answers a line of JSON with a line of JSON. Its log is shown if it fails."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log
        self.ready: dict[str, Any] = {}
        """What it said when it was ready."""

    def __repr__(self) -> str:
        return f"Talk(pid={self.pid})"

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ask(self, what: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None  # noqa: S101 - it is a pipe
        self._process.stdin.write(json.dumps(what).encode() + b"\n")
        return await self.answer()

    async def answer(self) -> dict[str, Any]:
        """Return the next line that is JSON. Engines may print other lines in between. Raises: RuntimeError, if it ends."""
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        while line := await self._process.stdout.readline():
            if line.startswith(b"{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
        raise RuntimeError(f"a process of the benchmark ended:\n{self._log.read_text(errors='replace')[-2000:]}")


class Direct:
    """An engine in a process of its own, with nothing between it and its requests."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk

    async def run(
        self, *bodies: Mapping[str, Any], requests: int, concurrency: int, streamed: bool = False
    ) -> dict[str, Any]:
        """Run requests: return `seconds`, `latencies_ms` and `output_tokens`. `%d` in a body is the request's number."""
        ask = {"bodies": bodies, "requests": requests, "concurrency": concurrency, "streamed": streamed}
        return await self._talk.ask(ask)

    async def serve(self, nats_url: str) -> int:
        """Make it a worker of a broker too, with the same engine. Return its slots."""
        return int((await self._talk.ask({"serve": nats_url}))["slots"])


@asynccontextmanager
async def direct(catalog: Path, deployment: str) -> AsyncIterator[Direct]:
    async with child("-m", "workers.bench", "--catalog", str(catalog), "--deployment", deployment) as talk:
        yield Direct(talk)


@asynccontextmanager
async def child(*words: str) -> AsyncIterator[Talk]:
    """Start a Python process that ends with this one, and wait until it says that it is ready."""
    with tempfile.NamedTemporaryFile(prefix="infermq-bench-", suffix=".log") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *words,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            env={**os.environ, "INFERMQ_PARENT": str(os.getpid())},
            limit=64 * 1024 * 1024,
        )
        try:
            talk = Talk(process, Path(log.name))
            talk.ready = await talk.answer()
            yield talk
        finally:
            await _ended(process)


async def _ended(process: asyncio.subprocess.Process) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), _END_S)
    except TimeoutError:
        process.kill()
        await process.wait()


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value at the nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
