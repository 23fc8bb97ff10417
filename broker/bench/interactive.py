"""Measures the latency that relay, stream, worker and outcome add to an engine's own.

One request at a time runs on an engine that takes no time. Many at once run on one whose answers take 50 to 150 ms, so
that no queue in front of a few cores is measured.
"""

import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import nats
from nats.aio.client import Client as Nats

from broker.bench import echo
from broker.bench.figure import Baseline, Figure, figure_of
from broker.bench.system import Direct, a_system, child, direct, quantile
from broker.client import Client, Piece

_CATALOG = """\
[models.echo]
[[models.echo.route]]
deployment = "simulated"

[models.paced]
[[models.paced.route]]
deployment = "paced"

[deployments.simulated]
engine = "simulated"
max_concurrency = 16
reserve = 16
[deployments.simulated.options]
output_tokens = 16

[deployments.paced]
engine = "simulated"
max_concurrency = 16
reserve = 192
[deployments.paced.options]
output_tokens = 24
decode_tokens_per_s = 160.0
"""
_BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "number %d, as long as a short question is"}]}
_UNEQUAL = [{**_BODY, "max_tokens": tokens} for tokens in random.Random(1).sample(range(8, 25), 17)]  # noqa: S311 - any order will do
_CONCURRENCY = (1, 32, 128)


async def interactive(*, requests: int, runs: int, say: Callable[[str], None]) -> Figure:
    """Measure the milliseconds added at the median, one request at a time."""
    async with (
        a_system(_CATALOG) as (up, client, catalog),
        direct(catalog, "simulated") as engine,
        direct(catalog, "paced") as paced,
        child("-m", echo.__name__, up.nats_url),
    ):
        raw = await nats.connect(up.nats_url)
        measured = [
            await _run(client, engine=engine, paced=paced, raw=raw, requests=requests, say=say) for _ in range(runs)
        ]
        await raw.close()
    medians = {name: statistics.median_low([run[name] for run in measured]) for name in measured[0]}
    return figure_of(
        "interactive",
        "ms added at p50, 1 at once",
        [run["added p50 ms, 1 at once"] for run in measured],
        baselines=[Baseline("raw NATS request-reply p50", medians["raw p50 ms, 1 at once"])],
        details=medians,
    )


async def _run(
    client: Client, *, engine: Direct, paced: Direct, raw: Nats, requests: int, say: Callable[[str], None]
) -> dict[str, float]:
    """Measure everything once, one after the other."""
    found: dict[str, float] = {}
    for concurrency in _CONCURRENCY:
        many, alone = (requests, engine) if concurrency == 1 else (requests * 4, paced)
        model = "echo" if concurrency == 1 else "paced"
        bodies = [_BODY] if concurrency == 1 else _UNEQUAL
        own = (await alone.run(*bodies, requests=many, concurrency=concurrency))["latencies_ms"]
        asked = await _latencies(partial(_ask, client, model, bodies), many, concurrency)
        bare = await _latencies(lambda _: raw.request(echo.SUBJECT, b"x" * 100, timeout=10), many, concurrency)
        name = f"{concurrency} at once"
        for share in (0.5, 0.99):
            added = quantile(asked, share) - quantile(own, share)
            found[f"added p{share * 100:.0f} ms, {name}"] = added
        found[f"raw p50 ms, {name}"] = quantile(bare, 0.5)
        say(
            f"{name}: p50 {quantile(asked, 0.5):.2f} ms, p99 {quantile(asked, 0.99):.2f} ms; raw {quantile(bare, 0.5):.2f}"
        )
    own = (await engine.run(_BODY, requests=requests, concurrency=1, streamed=True))["latencies_ms"]
    first = await _latencies(lambda number: _first_piece(client, number), requests, 1)
    found["added p50 ms, first chunk"] = quantile(first, 0.5) - quantile(own, 0.5)
    return found


async def _latencies(ask: Callable[[int], Awaitable[object]], requests: int, concurrency: int) -> list[float]:
    """Send requests, `concurrency` at a time. Return their latencies in milliseconds."""
    numbers, latencies = iter(range(requests)), []

    async def lane() -> None:
        for number in numbers:
            began = time.perf_counter()
            await ask(number)
            latencies.append((time.perf_counter() - began) * 1000)

    await asyncio.gather(*(lane() for _ in range(concurrency)))
    return latencies


def _body(bodies: Sequence[dict[str, Any]], number: int) -> dict[str, Any]:
    content = _BODY["messages"][0]["content"] % number
    return {**bodies[number % len(bodies)], "messages": [{"role": "user", "content": content}]}


async def _ask(client: Client, model: str, bodies: Sequence[dict[str, Any]], number: int) -> None:
    await client.infer(model, _body(bodies, number))


async def _first_piece(client: Client, number: int) -> None:
    stream = client.infer_stream("echo", _body([_BODY], number))
    async for step in stream:
        if isinstance(step, Piece):
            break
    await stream.aclose()
