"""The bulk path: jobs submitted in atomic batches, run by the simulated engine at no delay, settled in Postgres.

Real bodies and results, every row and announcement; NATS, Postgres, broker, worker and producer share the machine.
"""

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from broker.bench.cpu import spent_s, us_per_job
from broker.bench.figure import Figure, figure_of
from broker.client import Client, Submission
from broker.config import UpConfig
from broker.up import running
from schemas.api import BatchStatus
from schemas.catalog import CHAT
from schemas.job import Job

_CATALOG = """\
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
_LOOK_S = 0.02
_WARM_JOBS = 2000


class Run(msgspec.Struct, frozen=True, kw_only=True):
    jobs_per_s: float
    submitted_per_s: float
    cpu_us_per_job: dict[str, float]


async def bulk(*, jobs: int, body_bytes: int, runs: int, say: Callable[[str], None]) -> Figure:
    """Submitted → settled, in jobs/s."""
    with tempfile.TemporaryDirectory(prefix="infermq-bench-") as folder:
        catalog = Path(folder) / "catalog.toml"
        catalog.write_text(_CATALOG)
        config = UpConfig(data=Path(folder) / "data", catalog=catalog)
        async with running(config, say=lambda _: None) as up, Client.connect(up.nats_url) as client:
            await _run(client, _WARM_JOBS, body_bytes)
            done = []
            for number in range(1, runs + 1):
                run = await _run(client, jobs, body_bytes)
                say(f"run {number}: {run.jobs_per_s:,.0f} jobs/s, submitted at {run.submitted_per_s:,.0f}")
                done.append(run)
    return figure_of("bulk", "jobs/s", [run.jobs_per_s for run in done], cpu=[run.cpu_us_per_job for run in done])


async def _run(client: Client, jobs: int, body_bytes: int) -> Run:
    batch = await client.create_batch()
    before, began = spent_s(), time.perf_counter()
    sent = await client.submit_many(_submissions(jobs, body_bytes), batch_id=batch.id)
    submitted = time.perf_counter() - began
    state = await client.seal(batch.id, jobs=sent)
    while state.status is not BatchStatus.COMPLETED:
        await asyncio.sleep(_LOOK_S)
        state = await client.batch(batch.id)
    seconds = time.perf_counter() - began
    if state.counts.succeeded != jobs:
        raise RuntimeError(f"{jobs} jobs were submitted, {state.counts.succeeded} succeeded")
    return Run(
        jobs_per_s=jobs / seconds,
        submitted_per_s=jobs / submitted,
        cpu_us_per_job=us_per_job(before, spent_s(), jobs),
    )


def _submissions(jobs: int, body_bytes: int) -> Iterator[Submission]:
    frame = b'{"messages":[{"role":"user","content":"%s"}],"max_tokens":64}'
    room = body_bytes - len(frame) + 2
    for number in range(jobs):
        text = str(number).encode().rjust(room, b"x")
        yield Submission("echo", Job(endpoint=CHAT, body=frame % text, custom_id=f"job-{number}"))
