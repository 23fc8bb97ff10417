"""Processes are killed in the middle of a batch; the record must come out whole."""

import asyncio
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import psutil
import pytest

from broker.client import Client, Submission
from broker.errors import Unavailable
from schemas.api import BatchStatus
from tests.builders import a_job, now
from tests.system import System, a_catalog_file, a_client, a_system, start, stop, until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(150)]

JOBS = 300
SLOW = "decode_tokens_per_s = 40.0\noutput_tokens = 8"
"""0.2 s a job: a batch takes a few seconds on 16 slots."""


LEASE = ("--lease-s", "3")
"""How long a killed worker's jobs stay with it."""


def submissions(**changes: Any) -> Iterator[Submission]:
    for number in range(JOBS):
        body = b'{"messages":[{"role":"user","content":"number %d"}]}' % number
        yield Submission("m", a_job(body=body, custom_id=f"c{number}", **changes))


async def begin(client: Client) -> UUID:
    """A batch, submitted and partly done."""
    batch = await client.create_batch()
    sent = await client.submit_many(submissions(), batch_id=batch.id)
    await client.seal(batch.id, jobs=sent)

    async def partly() -> bool:
        return (await client.batch(batch.id)).counts.succeeded >= JOBS // 10

    await until(partly, "some jobs are done")
    return batch.id


async def is_complete(client: Client, batch: UUID) -> bool:
    try:
        return (await client.batch(batch)).status is BatchStatus.COMPLETED
    except Unavailable:
        return False


async def complete(client: Client, batch: UUID) -> None:
    await until(partial(is_complete, client, batch), "the batch is complete", within_s=90)
    state = await client.batch(batch)
    assert state.counts.succeeded == JOBS, state.counts
    results = [result.custom_id async for result in client.results(batch)]
    assert sorted(map(str, results)) == sorted(f"c{n}" for n in range(JOBS))


async def check_record(url: str, batch: UUID) -> None:
    """One end a job, and nothing is left open. That the sums agree is checked when the system stops."""
    connection = await asyncpg.connect(url)
    try:
        jobs = await connection.fetch("select state from infermq.jobs where batch = $1", batch)
        useful = await connection.fetch("select count(*) as n from infermq.executions where not waste group by job")
        assert [job["state"] for job in jobs] == ["succeeded"] * JOBS
        assert [row["n"] for row in useful] == [1] * JOBS
        assert await connection.fetchval("select count(*) from infermq.waiting") == 0
        assert await connection.fetchval("select count(*) from infermq.running") == 0
    finally:
        await connection.close()


async def test_everything_killed_and_started_again_finishes_the_batch(tmp_path: Path) -> None:
    catalog = a_catalog_file(tmp_path, options=SLOW)
    system = await start(tmp_path / "data", catalog, *LEASE)
    children = psutil.Process(system.process.pid).children(recursive=True)
    async with a_client(system) as client:
        batch = await begin(client)

    system.process.send_signal(signal.SIGKILL)
    await stop(system)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive

    async with a_system(tmp_path / "data", catalog, *LEASE) as again, a_client(again) as client:
        await complete(client, batch)
        await check_record(again.info.postgres_url, batch)


async def killed_in_mid_batch(system: System, *words: str) -> None:
    async with a_client(system) as client:
        batch = await begin(client)

        victim = system.children(*words)[0]
        victim.kill()

        await complete(client, batch)
        await check_record(system.info.postgres_url, batch)


async def test_a_killed_workers_jobs_are_finished_by_its_successor(tmp_path: Path) -> None:
    async with a_system(tmp_path / "data", a_catalog_file(tmp_path, options=SLOW), *LEASE) as system:
        await killed_in_mid_batch(system, "workers")


async def test_a_killed_workers_jobs_are_finished_by_another_worker(tmp_path: Path) -> None:
    async with a_system(
        tmp_path / "data", a_catalog_file(tmp_path, options=SLOW), "--workers", "2", *LEASE
    ) as system:
        await killed_in_mid_batch(system, "workers")


LONG = "decode_tokens_per_s = 2.0\noutput_tokens = 8"
"""Four seconds a job."""
KNOWN_MS = 5_000
"""How soon what a killed worker held runs elsewhere, on a machine that is not overloaded; its lease lasts 15 s."""
LOADED_MS = 3_000
"""What a loaded machine may add to it."""


async def test_what_a_killed_worker_held_runs_elsewhere_in_seconds_although_its_lease_goes_on(tmp_path: Path) -> None:
    catalog = a_catalog_file(tmp_path, slots=4, options=LONG)
    async with a_system(tmp_path / "data", catalog, "--workers", "2") as system, a_client(system) as client:
        connection = await asyncpg.connect(system.info.postgres_url)
        batch = await client.create_batch()
        jobs = [one for one, _ in zip(submissions(), range(6), strict=False)]
        await client.seal(batch.id, jobs=await client.submit_many(jobs, batch_id=batch.id))

        async def all_run() -> bool:
            status = await client.status()
            return sum(worker.running for worker in status.workers) == len(jobs)

        await until(all_run, "all jobs run")
        system.children("workers")[0].kill()
        killed_ms = now()

        await until(partial(is_complete, client, batch.id), "the batch is complete", within_s=60)
        executions = await connection.fetch("select started_ms from infermq.executions")
        again = [row["started_ms"] - killed_ms for row in executions if row["started_ms"] >= killed_ms]
        await connection.close()

    assert again
    assert max(again) < KNOWN_MS + LOADED_MS, again


async def test_a_killed_broker_goes_on_where_it_was(tmp_path: Path) -> None:
    async with a_system(tmp_path / "data", a_catalog_file(tmp_path, options=SLOW)) as system:
        await killed_in_mid_batch(system, "broker", "serve")


async def test_a_job_that_takes_its_worker_down_is_dead_and_the_others_succeed(tmp_path: Path) -> None:
    options = '[[deployments.d.options.failures]]\nmatch = "number 7\\""\nkind = "engine_lost"\ntimes = 0'
    async with (
        a_system(tmp_path / "data", a_catalog_file(tmp_path, options=options)) as system,
        a_client(system) as client,
    ):
        batch = await client.create_batch()
        jobs = [one for one, _ in zip(submissions(max_attempts=2), range(20), strict=False)]
        sent = await client.submit_many(jobs, batch_id=batch.id)
        await client.seal(batch.id, jobs=sent)

        await until(partial(is_complete, client, batch.id), "the batch is complete", within_s=100)
        counts = (await client.batch(batch.id)).counts

    assert counts.succeeded == 19
    assert counts.dead == 1


async def test_up_ends_with_the_reason_when_a_server_of_its_own_dies(tmp_path: Path) -> None:
    system = await start(tmp_path / "data", a_catalog_file(tmp_path))
    servers = [child for child in psutil.Process(system.process.pid).children() if "nats-server" in child.name()]

    servers[0].kill()

    assert await asyncio.to_thread(system.process.wait, 60) == 3
    assert system.process.stderr is not None
    assert "NATS ended by itself" in system.process.stderr.read().decode()
    await stop(system)
