"""Measures the bulk path: jobs are submitted in messages, run by the simulated engine and settled in Postgres.

Bodies, results, rows and announcements are as in production; NATS, Postgres, broker, worker and producer share the
machine. Each run is followed by one of the bare pipeline on the same servers, and by other task queues on theirs.
"""

import asyncio
import contextlib
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from uuid import UUID

import msgspec
from msgspec.structs import replace
from nats.aio.msg import Msg

from broker.bench.cpu import of_baseline, spent_s, us_per_job
from broker.bench.figure import Baseline, Figure, figure_of
from broker.bench.floor import Floor, floor
from broker.bench.peers import PEERS, Peers, peers
from broker.bench.system import a_system
from broker.client import Client, Submission, new_id
from schemas import subjects
from schemas.api import BatchStatus
from schemas.endpoints import CHAT
from schemas.job import Job

CATALOG = """\
[models.echo]
[[models.echo.route]]
deployment = "simulated"

[deployments.simulated]
engine = "simulated"
max_concurrency = 512
[deployments.simulated.price]
input = 0.01
output = 0.02
[deployments.simulated.options]
output_tokens = 64
"""
_LOOK_S = 0.25
"""Between two looks at the batch, since an announcement may be missed."""
_WARM_JOBS = 2000
_FLOOR = "bare pipeline"
_notices = msgspec.json.Decoder(list[msgspec.Raw])


class Run(msgspec.Struct, frozen=True, kw_only=True):
    jobs_per_s: float
    cpu_us_per_job: dict[str, float]


async def bulk(*, jobs: int, body_bytes: int, runs: int, with_peers: bool, say: Callable[[str], None]) -> Figure:
    """Measure jobs/s from the first submission to the last settled job."""
    ours: list[Run] = []
    bare: list[Run] = []
    others: dict[str, list[float]] = {}
    bodies = _bodies(jobs, body_bytes)
    async with AsyncExitStack() as stack:
        up, client, _ = await stack.enter_async_context(a_system(CATALOG))
        answer_bytes = await _warm(client, bodies[:_WARM_JOBS])
        below = await stack.enter_async_context(floor(up.nats_url, up.postgres_url, answer_bytes=answer_bytes))
        await _bare(below, bodies[:_WARM_JOBS])
        beside = stack.enter_context(peers(up.nats_url, up.postgres_url)) if with_peers else None
        for number in range(1, runs + 1):
            ours.append(await _ours(client, bodies))
            bare.append(await _bare(below, bodies))
            say(f"run {number}: {ours[-1].jobs_per_s:,.0f} jobs/s, {_FLOOR} {bare[-1].jobs_per_s:,.0f}")
            for name, rate in await _others(beside, jobs // 2, body_bytes, answer_bytes) if beside else ():
                others.setdefault(name, []).append(rate)
                say(f"run {number}: {name} {rate:,.0f}")
    baselines = [Baseline(_FLOOR, _median([run.jobs_per_s for run in bare]))]
    baselines += [Baseline(name, _median(rates)) for name, rates in others.items()]
    return figure_of(
        "bulk",
        "jobs/s",
        [run.jobs_per_s for run in ours],
        cpu=[run.cpu_us_per_job for run in ours],
        baselines=baselines,
        details=of_baseline(_FLOOR, [run.cpu_us_per_job for run in bare]),
    )


async def _warm(client: Client, bodies: Sequence[bytes]) -> int:
    """Run some jobs first, so that everything is loaded. Return the size of an answer in bytes."""
    batch = await run_batch(client, bodies)
    async for result in client.results(batch):
        return len(bytes(result.body))
    raise RuntimeError("no result came")


async def _ours(client: Client, bodies: Sequence[bytes]) -> Run:
    before, began = spent_s(), time.perf_counter()
    await run_batch(client, bodies)
    seconds = time.perf_counter() - began
    return Run(jobs_per_s=len(bodies) / seconds, cpu_us_per_job=us_per_job(before, spent_s(), len(bodies)))


async def run_batch(client: Client, bodies: Sequence[bytes]) -> UUID:
    """Run a batch, until its last job is settled and announced."""
    batch = await client.create_batch()
    announced, all_announced = 0, asyncio.Event()

    async def on_notice(message: Msg) -> None:
        nonlocal announced
        announced += len(_notices.decode(message.data))
        if announced >= len(bodies):
            all_announced.set()

    feed = await client.nats.subscribe(subjects.result(subjects.DEFAULT, batch.id), cb=on_notice)
    sent = await client.submit_many(
        (
            Submission("echo", Job(endpoint=CHAT.path, body=body, custom_id=f"job-{line}"))
            for line, body in enumerate(bodies, 1)
        ),
        batch_id=batch.id,
    )
    state = await client.seal(batch.id, jobs=sent)
    while state.status is not BatchStatus.COMPLETED:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_S):
                await all_announced.wait()
        all_announced.clear()
        state = await client.batch(batch.id)
    await feed.unsubscribe()
    if state.counts.succeeded != len(bodies):
        raise RuntimeError(f"{len(bodies)} jobs were submitted, {state.counts.succeeded} succeeded")
    return batch.id


async def _bare(below: Floor, bodies: Sequence[bytes]) -> Run:
    before = spent_s()
    batch = new_id()
    seconds = await below.run(bodies, batch)
    return Run(jobs_per_s=len(bodies) / seconds, cpu_us_per_job=us_per_job(before, spent_s(), len(bodies)))


async def _others(beside: Peers, most: int, body_bytes: int, answer_bytes: int) -> list[tuple[str, float]]:
    """Run each task queue with its own number of jobs, but at most `most`. Return the names and their jobs/s."""
    rates = []
    for one in PEERS:
        peer = replace(one, jobs=min(one.jobs, most))
        for recorded, name in ((True, f"{peer.name}, recorded"), (False, f"{peer.name}, in memory")):
            rate = await beside.run(peer, recorded=recorded, body_bytes=body_bytes, answer_bytes=answer_bytes)
            rates.append((name, rate))
    return rates


def _median(values: Sequence[float]) -> float:
    return statistics.median_low(values)


def _bodies(count: int, size: int) -> list[bytes]:
    frame = b'{"messages":[{"role":"user","content":"%s"}],"max_tokens":64}'
    room = size - len(frame) + 2
    return [frame % str(number).encode().rjust(room, b"x") for number in range(count)]
