"""The whole system on vLLM: its engine process is killed in the middle of a batch."""

from collections.abc import Iterator
from pathlib import Path

import psutil

from broker.client import Submission
from schemas.api import BatchStatus
from tests.builders import a_job
from tests.system import a_client, a_system, until

JOBS = 24
CATALOG = """
[models.m]
[[models.m.route]]
deployment = "d"

[deployments.d]
engine = "vllm"
source = "{source}"
context_tokens = 512
max_concurrency = 4
[deployments.d.options]
enforce_eager = true
kv_cache_memory_bytes = 268435456
"""


def submissions() -> Iterator[Submission]:
    body = b'{"messages":[{"role":"user","content":"%d"}],"max_tokens":300,"ignore_eos":true}'
    for number in range(JOBS):
        yield Submission("m", a_job(body=body % number, custom_id=f"c{number}"))


async def test_a_killed_engine_puts_its_jobs_back_and_its_successor_ends_them(tiny: Path, tmp_path: Path) -> None:
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(CATALOG.format(source=tiny))
    async with a_system(tmp_path / "data", catalog, within_s=180) as system, a_client(system) as client:
        batch = await client.create_batch()
        sent = await client.submit_many(submissions(), batch_id=batch.id)
        await client.seal(batch.id, jobs=sent)

        async def partly() -> bool:
            return (await client.batch(batch.id)).counts.succeeded > 0

        async def complete() -> bool:
            return (await client.batch(batch.id)).status is BatchStatus.COMPLETED

        await until(partly, "a job is done", within_s=60)
        [worker] = system.children("workers")
        for process in worker.children(recursive=True):
            if "EngineCore" in process.name() or "EngineCore" in " ".join(process.cmdline()):
                process.kill()
        await until(complete, "the batch is complete", within_s=150)
        [successor] = system.children("workers")
        state = await client.batch(batch.id)
        jobs = [await client.job(result.job) async for result in client.results(batch.id)]

    assert successor != worker
    assert not psutil.pid_exists(worker.pid)
    assert state.counts.succeeded == JOBS
    assert any(len(job.executions) > 1 for job in jobs)


async def test_a_killed_worker_takes_its_engine_along(tiny: Path, tmp_path: Path) -> None:
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(CATALOG.format(source=tiny))
    async with a_system(tmp_path / "data", catalog, within_s=180) as system:
        [worker] = system.children("workers")
        engine = worker.children(recursive=True)
        worker.kill()
        _, alive = psutil.wait_procs(engine, timeout=20)

    assert len(engine) > 2
    assert not alive
