"""Measures requests over HTTP, beside the bare pipeline, a bare ASGI application and other gateways, in interleaved runs.

infermq asks for keys, its engine takes no time, and its ledger is on. All are sent the same requests by the same load
generator. What each adds is its latency less that of the bare application of the same run, which answers at once: the other
gateways have it behind them.
"""

import asyncio
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from broker.bench.cpu import of_processes_s, spent_s
from broker.bench.figure import Baseline, Figure, figure_of
from broker.bench.gateways.backend import MODEL
from broker.bench.gateways.gateway import BARE_ASGI, BARE_PIPELINE, CHAT_PATH, Gateway, gateways
from broker.bench.system import Talk, a_system, child, quantile
from broker.local.up import Up

_CATALOG = f"""\
[models.{MODEL}]
[[models.{MODEL}.route]]
deployment = "simulated"

[deployments.simulated]
engine = "simulated"
max_concurrency = 256
reserve = 256
[deployments.simulated.price]
input = 0.01
output = 0.02
[deployments.simulated.options]
output_tokens = 16
"""
_OURS = "infermq"
_BODY: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "number %d, as long as a short question is"}],
}
_CONCURRENCY = (1, 32, 128)
_MANY = 32
"""The concurrency whose rate is the figure."""
_ALONE_SHARE = 0.1
"""How many of the requests are sent one at a time."""
_LEAST = 30
_WARM = 200
_SETTLED_S = 0.3
"""Until the ledger has recorded what was answered, so that the CPU time of that is counted too."""
Found = dict[str, float]


class Measured(msgspec.Struct, frozen=True):
    """What one gateway did at one concurrency."""

    rate: float
    latencies_ms: list[float]
    cpu_us: dict[str, float]
    """A request's, by kind of process."""
    load_cpu_us: float

    @property
    def all_cpu_us(self) -> float:
        return sum(self.cpu_us.values())


class Bench:
    """What is measured, and what measures it."""

    def __init__(self, up: Up, load: Talk, others: Sequence[Gateway]) -> None:
        key = {} if up.api_key is None else {"authorization": f"Bearer {up.api_key}"}
        self._ours = Gateway(name=_OURS, url=up.info().api, headers=key, pids=[*up.pids().values()])
        self._up = up
        self._load = load
        self.gateways = [self._ours, *others]

    async def warm(self) -> None:
        """Load everything that is loaded at the first request."""
        for gateway in self.gateways:
            for streamed in (False, True):
                await self._ask(gateway, int(_WARM * gateway.share) or 1, 8, streamed=streamed)

    async def run(self, gateway: Gateway, requests: int, concurrency: int) -> Measured:
        many = max(_LEAST, int(requests * gateway.share * (_ALONE_SHARE if concurrency == 1 else 1)))
        before = self._spent_s(gateway)
        told = await self._ask(gateway, many, concurrency)
        await asyncio.sleep(_SETTLED_S)
        after = self._spent_s(gateway)
        return Measured(
            many / told["seconds"],
            told["latencies_ms"],
            {kind: (after[kind] - before[kind]) * 1e6 / many for kind in after},
            told["cpu_s"] * 1e6 / many,
        )

    async def streams(self, gateway: Gateway, requests: int) -> Found:
        """Measure streams, one at a time."""
        told = await self._ask(gateway, max(_LEAST, int(requests * gateway.share * _ALONE_SHARE)), 1, streamed=True)
        return {
            "ms to the first chunk": quantile(told["first_ms"], 0.5),
            "ms a chunk": quantile(told["chunk_ms"], 0.5),
        }

    async def _ask(
        self, gateway: Gateway, requests: int, concurrency: int, *, streamed: bool = False
    ) -> dict[str, Any]:
        body = {**_BODY, "stream": True} if streamed else _BODY
        ask = {"url": gateway.url + CHAT_PATH, "headers": dict(gateway.headers), "body": body}
        return await self._load.ask({**ask, "requests": requests, "concurrency": concurrency})

    def _spent_s(self, gateway: Gateway) -> dict[str, float]:
        if gateway is not self._ours:
            return {gateway.name: of_processes_s(gateway.pids)}
        pids = self._up.pids()
        kinds = {"broker": [pids["broker"]], "worker": [pid for name, pid in pids.items() if name != "broker"]}
        servers = spent_s(but=self._others_pids())
        return {
            **{kind: of_processes_s(each) for kind, each in kinds.items()},
            **{kind: servers.get(kind, 0.0) for kind in ("NATS", "Postgres")},
        }

    def _others_pids(self) -> set[int]:
        return {pid for gateway in self.gateways if gateway is not self._ours for pid in gateway.pids}


async def http(*, requests: int, runs: int, with_peers: bool, say: Callable[[str], None]) -> Figure:
    """Measure requests/s at a concurrency of 32, and what is added to latency at 1, 32 and 128."""
    found: list[dict[str, Found]] = []
    async with (
        gateways(with_peers=with_peers) as others,
        a_system(_CATALOG, keyless=False) as (up, _, _),
        child("-m", "broker.bench.gateways.load") as load,
    ):
        bench = Bench(up, load, others)
        await bench.warm()
        cpu = []
        for number in range(1, runs + 1):
            one, spent = await _run(bench, requests, number, say)
            found.append(one)
            cpu.append(spent)
        names = [gateway.name for gateway in others]
    rate = f"requests/s, {_MANY} at once"
    return figure_of(
        "http",
        rate,
        [run[_OURS][rate] for run in found],
        cpu=cpu,
        baselines=[Baseline(name, _median([run[name][rate] for run in found])) for name in names],
        details={**_ratios(found, names), **_medians(found)},
    )


async def _run(
    bench: Bench, requests: int, number: int, say: Callable[[str], None]
) -> tuple[dict[str, Found], dict[str, float]]:
    """Measure all gateways once, one after the other. Return what was found of each, and what our processes spent."""
    order = bench.gateways if number % 2 else bench.gateways[::-1]
    found: dict[str, Found] = {gateway.name: {} for gateway in bench.gateways}
    spent: dict[str, float] = {}
    for concurrency in _CONCURRENCY:
        measured = {one.name: await bench.run(one, requests, concurrency) for one in order}
        bare = measured[BARE_ASGI].latencies_ms
        for name, one in measured.items():
            found[name] |= _found(one, bare if name != BARE_ASGI else None, f"{concurrency} at once")
        if concurrency == _MANY:
            spent = measured[_OURS].cpu_us
        rates = ", ".join(f"{name} {measured[name].rate:,.0f}" for name in found)
        say(f"run {number}, {concurrency} at once, requests/s: {rates}")
    streams = {one.name: await bench.streams(one, requests) for one in order}
    for name, paced in streams.items():
        found[name] |= paced
    return found, spent


def _found(one: Measured, bare_ms: list[float] | None, when: str) -> Found:
    """Name what was measured. `bare_ms` are the latencies of the bare application, which is no part of what others add."""
    word = "added " if bare_ms is not None else ""
    less = {share: 0.0 if bare_ms is None else quantile(bare_ms, share) for share in (0.5, 0.99)}
    return {
        f"requests/s, {when}": one.rate,
        **{f"{word}p{share * 100:.0f} ms, {when}": quantile(one.latencies_ms, share) - less[share] for share in less},
        f"CPU µs, {when}": one.all_cpu_us,
        f"CPU µs of the load generator, {when}": one.load_cpu_us,
    }


def _median(values: Sequence[float]) -> float:
    return statistics.median_low(values)


def _medians(found: Sequence[dict[str, Found]]) -> Found:
    first = found[0]
    return {
        f"{name}: {what}": _median([run[name][what] for run in found])
        for name, each in first.items()
        for what in each
    }


def _ratios(found: Sequence[dict[str, Found]], names: Sequence[str]) -> Found:
    """Compare with the others, in each run for itself: medians of runs. A short run may take less CPU than is counted."""
    ratios = {}
    for concurrency in _CONCURRENCY:
        when = f"{concurrency} at once"
        for name in names:
            for what in (
                ("requests/s", "CPU µs") if name != BARE_PIPELINE else ("requests/s", "CPU µs", "added p50 ms")
            ):
                of = f"{what}, {when}"
                if all(run[name][of] for run in found):
                    ratios[f"ratio to {name}: {of}"] = _median([run[_OURS][of] / run[name][of] for run in found])
    return ratios
