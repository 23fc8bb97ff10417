"""Measures an engine that is kept busy through the broker, and the same engine driven directly at equal concurrency."""

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from broker.bench.cpu import of_baseline, spent_s, us_per_job
from broker.bench.figure import Baseline, Figure, figure_of
from broker.bench.system import Direct, a_system, direct
from broker.client import Client, Submission
from schemas.api import BatchStatus
from schemas.catalog import parse
from schemas.endpoints import CHAT
from schemas.job import Job

_PROMPT = "Name three things that a lighthouse keeper does in a day, and say why each of them matters. Number %d."
_DIRECTLY = "driven directly"
_LENGTHS = tuple(16 + 7 * number % 33 for number in range(33))
"""Output tokens of the requests, 32 on average. If all were equal, requests that start together would end in one engine
step and the next ones would start together again. A side that lost this rhythm once would stay slower, by up to a tenth
on llama.cpp. Real answers differ in length.
"""


@dataclass(frozen=True, slots=True)
class Generated:
    """Counts the requests, the tokens that they generated and the seconds that they took."""

    requests: int
    tokens: int
    seconds: float
    cpu_s: Counter[str] = field(default_factory=Counter)
    """By kind of process."""

    def __add__(self, other: "Generated") -> "Generated":
        return Generated(
            self.requests + other.requests,
            self.tokens + other.tokens,
            self.seconds + other.seconds,
            self.cpu_s + other.cpu_s,
        )

    @property
    def per_s(self) -> float:
        return self.tokens / self.seconds

    def cpu_us_per_job(self) -> dict[str, float]:
        return us_per_job({}, self.cpu_s, self.requests)


async def saturation(
    *, catalog: Path, model: str, deployment: str, runs: int, rounds: int, quick: bool, say: Callable[[str], None]
) -> Figure:
    """Measure output tokens/s of one engine, which is driven directly and serves a broker as its worker in turn.

    A run has four parts: directly, through the broker, through the broker, directly, so that a machine that becomes slower
    affects both sides alike. `rounds` says how often each slot is filled in a part. `quick` leaves two parts out.
    """
    text = catalog.read_text()
    async with direct(catalog, deployment) as engine, a_system(text, workers=0) as (up, client, _):
        slots = await engine.serve(up.nats_url)
        through, alone = await _measured(
            client, engine, model=model, slots=slots, runs=runs, rounds=rounds, quick=quick, say=say
        )
    ratios = [ours.per_s / theirs.per_s for ours, theirs in zip(through, alone, strict=True)]
    return figure_of(
        f"saturation {parse(text).deployments[deployment].engine}",
        "output tokens/s",
        [made.per_s for made in through],
        cpu=[made.cpu_us_per_job() for made in through],
        baselines=[Baseline(_DIRECTLY, statistics.median_low([made.per_s for made in alone]))],
        details={"median of the runs' own ratios": statistics.median_low(ratios), "slots": slots}
        | of_baseline(_DIRECTLY, [made.cpu_us_per_job() for made in alone]),
    )


async def _measured(
    client: Client,
    engine: Direct,
    *,
    model: str,
    slots: int,
    runs: int,
    rounds: int,
    quick: bool,
    say: Callable[[str], None],
) -> tuple[list[Generated], list[Generated]]:
    """Return what each run generated through the broker, and what it generated directly."""
    through, alone = [], []
    warm_up = max(1, slots // 4) if quick else slots
    await asyncio.gather(_through(client, model, warm_up), _alone(engine, warm_up, slots))
    for number in range(1, runs + 1):
        theirs = await _spending(_alone(engine, slots * rounds, slots))
        ours = await _spending(_through(client, model, slots * rounds))
        if not quick:
            ours += await _spending(_through(client, model, slots * rounds))
            theirs += await _spending(_alone(engine, slots * rounds, slots))
        through.append(ours)
        alone.append(theirs)
        say(f"run {number}: {ours.per_s:.0f} tokens/s, {theirs.per_s:.0f} directly")
    return through, alone


async def _spending(making: Awaitable[Generated]) -> Generated:
    before = Counter(spent_s())
    made = await making
    return replace(made, cpu_s=Counter(spent_s()) - before)


def _bodies() -> list[dict[str, Any]]:
    body = {"messages": [{"role": "user", "content": _PROMPT}], "temperature": 0, "ignore_eos": True}
    return [body | {"max_tokens": length} for length in _LENGTHS]


async def _alone(engine: Direct, requests: int, slots: int) -> Generated:
    ran = await engine.run(*_bodies(), requests=requests, concurrency=slots)
    return Generated(requests, ran["output_tokens"], ran["seconds"])


async def _through(client: Client, model: str, requests: int) -> Generated:
    batch = await client.create_batch()
    began = time.perf_counter()
    sent = await client.submit_many(_submissions(model, requests), batch_id=batch.id)
    await client.seal(batch.id, jobs=sent)
    ended = began
    async for _ in client.results(batch.id):
        ended = time.perf_counter()
    state = await client.batch(batch.id)
    if state.status is not BatchStatus.COMPLETED or state.counts.succeeded != requests:
        raise RuntimeError(f"{requests} jobs were submitted: {state.counts}")
    return Generated(requests, state.usage.output_tokens, ended - began)


def _submissions(model: str, requests: int) -> Iterator[Submission]:
    templates = [msgspec.json.encode(body) for body in _bodies()]
    for number in range(requests):
        body = templates[number % len(templates)].replace(b"%d", str(number).encode())
        yield Submission(model, Job(endpoint=CHAT.path, body=body, custom_id=f"s{number}"))
