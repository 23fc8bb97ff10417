"""Measures dispatch latency, the submission of a file, and the cost of an idle system."""

import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import psutil

from broker.bench.figure import Figure, figure_of
from broker.bench.system import a_system, quantile
from broker.client import Client, RequestRefused
from broker.local.up import Up
from schemas.endpoints import CHAT
from schemas.job import Lane

_CATALOG = """\
[models.echo]
[[models.echo.route]]
deployment = "simulated"

[deployments.simulated]
engine = "simulated"
max_concurrency = 64
"""
_LINE = {"method": "POST", "url": CHAT.path}
_MB = 1024 * 1024


async def dispatch(*, jobs: int, runs: int, say: Callable[[str], None]) -> Figure:
    """Submit one job at a time to an idle worker. Measure the time from its publication to its start, at p99."""
    p99s: list[float] = []
    p50s: list[float] = []
    async with a_system(_CATALOG) as (_, client, _):
        body = {"messages": [{"role": "user", "content": "now"}]}
        for number in range(1, runs + 1):
            taken = []
            for _ in range(jobs):
                began_ms = time.time_ns() / 1e6
                job = await client.submit("echo", body, lane=Lane.STANDARD)
                taken.append(max(0.0, await _started_ms(client, job) - began_ms))
            p99s.append(quantile(taken, 0.99))
            p50s.append(quantile(taken, 0.5))
            say(f"run {number}: p50 {p50s[-1]:.1f} ms, p99 {p99s[-1]:.1f} ms")
    return figure_of(
        "dispatch", "ms at p99, published to started", p99s, details={"p50 ms": sorted(p50s)[(runs - 1) // 2]}
    )


async def _started_ms(client: Client, job: UUID) -> int:
    """Wait until the job is settled, and return when it started."""
    while True:
        with contextlib.suppress(RequestRefused):  # not taken in yet
            if executions := (await client.job(job)).executions:
                return executions[0].started_ms
        await asyncio.sleep(0.002)


async def submit(*, lines: int, runs: int, say: Callable[[str], None]) -> Figure:
    """Submit a file of OpenAI Batch lines by the command. Measure the seconds until all are accepted."""
    seconds, peaks = [], []
    with tempfile.TemporaryDirectory(prefix="infermq-bench-") as folder:
        short, long = Path(folder) / "short.jsonl", Path(folder) / "long.jsonl"
        _write(short, max(1, lines // 10))
        _write(long, lines)
        async with a_system(_CATALOG) as (up, _, _):
            _, small = await _submitted(short, up)
            for number in range(1, runs + 1):
                took, peak = await _submitted(long, up)
                seconds.append(took)
                peaks.append(peak)
                say(f"run {number}: {took:.1f} s, {peak / _MB:.0f} MB")
    peak = sorted(peaks)[(runs - 1) // 2]
    return figure_of(
        "submit",
        f"s for {lines:,} lines",
        seconds,
        details={"peak MB": peak / _MB, "peak MB, a tenth of the lines": small / _MB},
    )


def _write(file: Path, lines: int) -> None:
    with file.open("w") as out:
        for number in range(lines):
            message = {"role": "user", "content": f"Sort this message: number {number}, " + "x" * 200}
            body = {"model": "echo", "messages": [message], "max_tokens": 16}
            out.write(json.dumps({"custom_id": f"line-{number}", **_LINE, "body": body}) + "\n")


async def _submitted(file: Path, up: Up) -> tuple[float, int]:
    """Submit the file. Return the seconds that it took, and the peak memory of the command in bytes."""
    began = time.perf_counter()
    words = ["-m", "broker", "submit", str(file), "--json", "--nats-url", up.nats_url]
    process = await asyncio.create_subprocess_exec(sys.executable, *words, stdout=asyncio.subprocess.DEVNULL)
    ending = asyncio.ensure_future(process.wait())
    peak = 0
    while not (await asyncio.wait({ending}, timeout=0.05))[0]:
        try:
            peak = max(peak, psutil.Process(process.pid).memory_info().rss)
        except psutil.NoSuchProcess:
            break
    if await ending != 0:
        raise RuntimeError(f"`infermq submit` ended with {process.returncode}")
    return time.perf_counter() - began, peak


async def idle(*, seconds: float, runs: int, say: Callable[[str], None]) -> Figure:
    """Measure the broker's share of a core while there is nothing to do, and the memory of every process."""
    shares, details = [], {}
    async with a_system(_CATALOG) as (up, _, _):
        await asyncio.sleep(2)
        for number in range(1, runs + 1):
            before = _spent(up)
            await asyncio.sleep(seconds)
            after = _spent(up)
            for name, (cpu, memory) in after.items():
                details[f"{name}: % of a core"] = (cpu - before[name][0]) / seconds * 100
                details[f"{name}: MB"] = memory / _MB
            shares.append(details["broker: % of a core"])
            say(f"run {number}: broker {shares[-1]:.2f} %")
    return figure_of("idle", "% of a core, broker", shares, details=details)


def _spent(up: Up) -> dict[str, tuple[float, int]]:
    """Return the CPU seconds and the memory in bytes of each process. Postgres's processes count as one."""
    me = psutil.Process()
    named = {pid: name.partition("-")[0] for name, pid in up.pids().items()}
    spent: dict[str, tuple[float, int]] = {}
    for process in me.children():
        name = named.get(process.pid) or ("NATS" if "nats" in process.name() else "Postgres")
        family = [process, *process.children(recursive=True)]
        cpu = sum(sum(one.cpu_times()[:2]) for one in family)
        memory = sum(one.memory_full_info().pss if len(family) > 1 else one.memory_info().rss for one in family)
        spent[name] = (cpu, memory)
    return spent
