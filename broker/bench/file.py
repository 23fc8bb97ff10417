"""Measures a batch of a large file over HTTP: uploaded, accepted, made jobs, settled, and read line by line.

Beside it, as many of the same jobs are submitted in messages over NATS, as `bulk` does. All on the simulated engine.
"""

import asyncio
import re
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from broker.bench.bulk import CATALOG, run_batch
from broker.bench.figure import Baseline, Figure, figure_of
from broker.bench.system import a_system
from broker.local.up import Up
from schemas.endpoints import CHAT

_MB = 1024 * 1024
_LOOK_S = 0.1
_IN_MESSAGES = "in messages"
_CUSTOM_ID = re.compile(rb'"custom_id":"line-(\d+)"')
_BODY = b'{"model":"echo","messages":[{"role":"user","content":"%d %s"}],"max_tokens":64}'


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What a file's batch took. Seconds are from the first byte of the upload."""

    uploaded_s: float
    accepted_s: float
    checked_s: float
    in_backlog_s: float
    settled_s: float
    sized_s: float
    """How long it took by itself until the sizes of its files were known."""
    read_s: float
    """How long the download took by itself."""
    output_bytes: int


async def file(*, lines: int, line_bytes: int, runs: int, say: Callable[[str], None]) -> Figure:
    """Measure lines/s from the first byte of the upload to the last settled line."""
    ours: list[Run] = []
    beside: list[float] = []
    with tempfile.TemporaryDirectory(prefix="infermq-bench-") as folder:
        path = Path(folder) / "lines.jsonl"
        filler = b"x" * max(0, line_bytes - 180)
        write_lines(path, lines, filler)
        async with a_system(CATALOG) as (up, client, _), aiohttp.ClientSession(up.info().api) as http:
            short = Path(folder) / "short.jsonl"
            write_lines(short, 1000, filler)
            await run_file(http, short, 1000, say=lambda _: None)
            before = _disk_bytes(up)
            for number in range(1, runs + 1):
                ours.append(await run_file(http, path, lines, say=say))
                began = time.perf_counter()
                await run_batch(client, [_BODY % (one, filler) for one in range(min(lines, 50_000))])
                beside.append(min(lines, 50_000) / (time.perf_counter() - began))
                rate = lines / ours[-1].settled_s
                say(f"run {number}: {rate:,.0f} lines/s, {_IN_MESSAGES} {beside[-1]:,.0f}")
            peak, disk = _peak_bytes(up.pids()["broker"]), (_disk_bytes(up) - before) / runs
        size = path.stat().st_size
    middle = sorted(ours, key=lambda run: run.settled_s)[(runs - 1) // 2]
    return figure_of(
        "file",
        "lines/s, upload to settled",
        [lines / run.settled_s for run in ours],
        baselines=[Baseline(_IN_MESSAGES, statistics.median_low(beside))],
        details={**_details(middle), "file, MB": size / _MB, "broker's peak, MB": peak / _MB, "disk, MB": disk / _MB},
    )


def _details(run: Run) -> dict[str, float]:
    return {
        "uploaded after, s": run.uploaded_s,
        "accepted after, s": run.accepted_s,
        "checked after, s": run.checked_s,
        "in the backlog after, s": run.in_backlog_s,
        "settled after, s": run.settled_s,
        "sizes, s": run.sized_s,
        "download, s": run.read_s,
        "output, MB": run.output_bytes / _MB,
    }


def write_lines(path: Path, lines: int, filler: bytes) -> None:
    """Write a file of requests, of which each has its own custom id."""
    frame = b'{"custom_id":"line-%d","method":"POST","url":"' + CHAT.path.encode() + b'","body":' + _BODY + b"}\n"
    with path.open("wb") as out:
        for number in range(lines):
            out.write(frame % (number, number, filler))


async def run_file(http: aiohttp.ClientSession, path: Path, lines: int, *, say: Callable[[str], None]) -> Run:
    """Run a file as a batch, and read its output: every line must be in it once. Raises: RuntimeError."""
    began = time.perf_counter()
    stored = await _uploaded(http, path)
    uploaded_s = time.perf_counter() - began
    ask = {"input_file_id": stored["id"], "endpoint": CHAT.path, "completion_window": "24h"}
    async with http.post("/v1/batches", json=ask) as response:
        batch = await response.json()
    accepted_s = time.perf_counter() - began
    say(f"uploaded after {uploaded_s:.1f} s, accepted after {accepted_s:.1f} s")
    checked_s = in_backlog_s = 0.0
    while batch["status"] in {"validating", "in_progress"}:
        await asyncio.sleep(_LOOK_S)
        async with http.get(f"/v1/batches/{batch['id']}") as response:
            batch = await response.json()
        after_s = time.perf_counter() - began
        if not checked_s and batch["status"] != "validating":
            checked_s = after_s
            say(f"checked after {after_s:.1f} s")
        if not in_backlog_s and batch["infermq"]["counts"]["admitted"] == lines:
            in_backlog_s = after_s
            say(f"all in the backlog after {after_s:.1f} s")
    settled_s = time.perf_counter() - began
    if batch["request_counts"] != {"total": lines, "completed": lines, "failed": 0}:
        raise RuntimeError(f"{lines} lines were submitted, and came to {batch['request_counts']}")
    say(f"settled after {settled_s:.1f} s")
    looked = time.perf_counter()
    async with http.get(f"/v1/files/{batch['output_file_id']}") as response:
        size = (await response.json())["bytes"]
    sized_s = time.perf_counter() - looked
    say(f"sizes known in {sized_s:.1f} s")
    read_s = await _read(http, batch["output_file_id"], lines, size)
    say(f"{size / _MB:,.0f} MB read in {read_s:.1f} s")
    return Run(
        uploaded_s=uploaded_s,
        accepted_s=accepted_s,
        checked_s=checked_s,
        in_backlog_s=in_backlog_s,
        settled_s=settled_s,
        sized_s=sized_s,
        read_s=read_s,
        output_bytes=size,
    )


async def _uploaded(http: aiohttp.ClientSession, path: Path) -> dict[str, Any]:
    with path.open("rb") as content:
        form = aiohttp.FormData({"purpose": "batch"})
        form.add_field("file", content, filename=path.name)
        limits = aiohttp.ClientTimeout(total=None, sock_read=600)
        async with http.post("/v1/files", data=form, timeout=limits) as response:
            stored: dict[str, Any] = await response.json()
    if stored.get("bytes") != path.stat().st_size:
        raise RuntimeError(f"the file was not stored: {stored}")
    return stored


async def _read(http: aiohttp.ClientSession, name: str, lines: int, size: int) -> float:
    """Read the output. Return the seconds. Raises: RuntimeError, unless each line is there once."""
    began, seen, got = time.perf_counter(), bytearray(lines), 0
    async for line in _lines(http, name):
        got += len(line)
        if (match := _CUSTOM_ID.search(line)) is None or seen[int(match[1])]:
            raise RuntimeError(f"a line of the output is none, or there twice: {line[:200]!r}")
        seen[int(match[1])] = 1
    if sum(seen) != lines or got != size:
        raise RuntimeError(f"of {lines} lines and {size} bytes, {sum(seen)} and {got} are in the output")
    return time.perf_counter() - began


async def _lines(http: aiohttp.ClientSession, name: str) -> AsyncIterator[bytes]:
    rest = b""
    limits = aiohttp.ClientTimeout(total=None, sock_read=600)
    async with http.get(f"/v1/files/{name}/content", timeout=limits) as response:
        async for chunk in response.content.iter_any():
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                yield line + b"\n"


def _peak_bytes(pid: int) -> int:
    """Return the most memory that a process has had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def _disk_bytes(up: Up) -> int:
    return sum(one.stat().st_size for one in up.config.data.rglob("*") if one.is_file())
