"""An engine kept full through the broker, against the same engine driven directly: both at the same concurrency."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from broker.bench.figure import Baseline, Figure, figure_of
from broker.bench.system import Direct, a_system, direct
from broker.client import Client, Submission
from schemas.api import BatchStatus
from schemas.catalog import CHAT, Catalog
from schemas.job import Job

_WORDS = (
    "Name three things that a lighthouse keeper does in a day, and say why each of them matters. Number %d.",
    "Write a short note to a neighbour about a borrowed ladder. Number %d.",
)


async def saturation(
    *, catalog: str, model: str, deployment: str, parsed: Catalog, runs: int, rounds: int, say: Callable[[str], None]
) -> Figure:
    """Output tokens/s. `rounds`: how often each slot is filled."""
    async with a_system(catalog) as (_, client, file), direct(file, deployment) as engine:
        status = await client.status()
        slots = next(beat.slots for beat in status.workers if beat.deployment == deployment)
        through, alone = [], []
        await _through(client, model, slots)
        await _alone(engine, slots, slots)
        for number in range(1, runs + 1):
            alone.append(await _alone(engine, slots * rounds, slots))
            through.append(await _through(client, model, slots * rounds))
            say(f"run {number}: {through[-1]:.0f} tokens/s, {alone[-1]:.0f} directly")
    name = parsed.deployments[deployment].engine
    ratios = sorted(a / b for a, b in zip(through, alone, strict=True))
    direct_figure = Baseline("driven directly", sorted(alone)[(runs - 1) // 2])
    figure = figure_of(f"saturation {name}", "output tokens/s", through, baselines=[direct_figure])
    return msgspec.structs.replace(
        figure, details={"median of the runs' own ratios": ratios[(runs - 1) // 2], "slots": slots}
    )


def _body() -> dict[str, Any]:
    message = {"role": "user", "content": _WORDS[0]}
    return {"messages": [message], "max_tokens": 32, "temperature": 0, "ignore_eos": True}


async def _alone(engine: Direct, requests: int, slots: int) -> float:
    ran = await engine.run(_body(), requests=requests, concurrency=slots)
    return float(ran["output_tokens"] / ran["seconds"])


async def _through(client: Client, model: str, requests: int) -> float:
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
    return state.usage.output_tokens / (ended - began)


def _submissions(model: str, requests: int) -> Iterator[Submission]:
    template = msgspec.json.encode(_body())
    for number in range(requests):
        body = template.replace(b"%d", str(number).encode())
        yield Submission(model, Job(endpoint=CHAT, body=body, custom_id=f"s{number}"))
