"""Measures what keys cost: two systems side by side, one that asks for keys and one that does not, in interleaved runs.

Both have the same catalog, an engine that takes no time, and share the machine. Connecting is measured by clients that come
one after the other: with keys, the server asks a broker about each.
"""

import asyncio
import statistics
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

from broker.bench.bulk import CATALOG, run_batch
from broker.bench.figure import Baseline, Figure, figure_of
from broker.bench.system import a_system, quantile
from broker.client import Client
from broker.local.up import Up
from schemas.jetstream.client import NatsClient
from schemas.subjects import DEFAULT

_BODY: dict[str, Any] = {
    "messages": [{"role": "user", "content": "as long as a short question is"}],
    "max_tokens": 16,
}
_CATALOG = CATALOG.replace("max_concurrency = 512", "max_concurrency = 512\nreserve = 64")
_REST_S = 3.0
"""After bulk jobs, until the workers have told that they are free."""
_AT_ONCE = 16
_WARM_JOBS = 1000
_ON, _OFF = "keys", "no keys"
Found = dict[str, float]


async def keys(*, jobs: int, requests: int, connects: int, runs: int, say: Callable[[str], None]) -> Figure:
    """Measure how long a client with a key takes to connect, and the rates and latencies with keys and without."""
    found: dict[str, list[Found]] = {_ON: [], _OFF: []}
    bodies = [b'{"messages":[{"role":"user","content":"%0500d"}],"max_tokens":64}' % number for number in range(jobs)]
    async with AsyncExitStack() as stack:
        systems = {
            name: await stack.enter_async_context(a_system(_CATALOG, keyless=name == _OFF)) for name in (_ON, _OFF)
        }
        for _, client, _ in systems.values():
            await run_batch(client, bodies[:_WARM_JOBS])
        await asyncio.sleep(_REST_S)
        for number in range(runs):
            for name in (_ON, _OFF) if number % 2 else (_OFF, _ON):
                up, client, _ = systems[name]
                one = {**await _connecting(up, connects), **await _interactive(client, requests)}
                found[name].append({**one, "bulk jobs/s": await _bulk(client, bodies)})
                await asyncio.sleep(_REST_S)
                say(
                    f"run {number + 1}, {name}: "
                    + ", ".join(f"{what} {value:,.2f}" for what, value in found[name][-1].items())
                )
    medians = {
        name: {what: statistics.median(one[what] for one in each) for what in each[0]} for name, each in found.items()
    }
    details = {f"{what}, {name}": value for name, each in medians.items() for what, value in each.items()}
    details |= {f"{what}, ratio": medians[_ON][what] / medians[_OFF][what] for what in medians[_ON]}
    return figure_of(
        "keys",
        "ms to connect at p50",
        [one["connect p50 ms"] for one in found[_ON]],
        baselines=[Baseline(_OFF, medians[_OFF]["connect p50 ms"])],
        details=details,
    )


async def _connecting(up: Up, number: int) -> Found:
    took = []
    for _ in range(number):
        nc = NatsClient()
        began = time.perf_counter()
        await nc.connect(up.nats_url, token=up.api_key, inbox_prefix=f"_INBOX_{DEFAULT}", trust=up.trust)
        took.append((time.perf_counter() - began) * 1000)
        await nc.close()
    return {"connect p50 ms": quantile(took, 0.5), "connect p99 ms": quantile(took, 0.99)}


async def _interactive(client: Client, number: int) -> Found:
    took = []
    for _ in range(number):
        began = time.perf_counter()
        await client.infer("echo", _BODY)
        took.append((time.perf_counter() - began) * 1000)
    began, left = time.perf_counter(), iter(range(number * 2))

    async def ask() -> None:
        for _ in left:
            await client.infer("echo", _BODY)

    await asyncio.gather(*(ask() for _ in range(_AT_ONCE)))
    rate = number * 2 / (time.perf_counter() - began)
    return {"interactive p50 ms": quantile(took, 0.5), f"requests/s, {_AT_ONCE} at once": rate}


async def _bulk(client: Client, bodies: list[bytes]) -> float:
    began = time.perf_counter()
    await run_batch(client, bodies)
    return len(bodies) / (time.perf_counter() - began)
