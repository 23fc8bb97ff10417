"""Jobs that end their workers, among innocent ones: they end dead, and nobody else does."""

import asyncio
import contextlib
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from broker.client import Client, RequestRefused, RequestTimedOut, Submission
from broker.errors import Unavailable
from schemas.api import BatchStatus, State
from schemas.outcome import WorkerLost
from tests.builders import a_job
from tests.system import System, a_catalog_file, a_client, a_system, until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(400)]
CRASH = """decode_tokens_per_s = 20.0
output_tokens = 8
[[deployments.d.options.failures]]
match = "poison"
kind = "crash"
"""
"""An innocent job takes 0.4 s; the others end the whole process at once."""


def submissions(jobs: int, poisons: set[int]) -> Iterator[Submission]:
    for number in range(jobs):
        word = "poison" if number in poisons else "number"
        body = b'{"messages":[{"role":"user","content":"%s %d"}]}' % (word.encode(), number)
        yield Submission("m", a_job(body=body, custom_id=f"{word} {number}"))


async def is_complete(client: Client, batch: object) -> bool:
    try:
        return (await client.batch(batch)).status is BatchStatus.COMPLETED  # type: ignore[arg-type]
    except Unavailable:
        return False


async def trial(
    folder: Path,
    seed: int,
    *,
    workers: int,
    slots: int,
    jobs: int,
    poisons: int,
    kills: int = 0,
    within_s: float = 300,
) -> None:
    chance = random.Random(seed)
    bad = set(chance.sample(range(jobs), poisons))
    catalog = a_catalog_file(folder, options=CRASH, slots=slots)
    async with a_system(folder / "data", catalog, "--workers", str(workers)) as system, a_client(system) as client:
        batch = await client.create_batch()
        await client.submit_many(submissions(jobs, bad), batch_id=batch.id)
        await client.seal(batch.id, jobs=jobs)
        killing = asyncio.create_task(kill_now_and_then(system, chance, kills))

        await until(partial(is_complete, client, batch.id), "the batch is complete", within_s=within_s)

        killing.cancel()
        await asyncio.gather(killing, return_exceptions=True)
        results = [result async for result in client.results(batch.id)]
        dead = [result for result in results if result.state is not State.SUCCEEDED]
        assert sorted(str(result.custom_id) for result in dead) == sorted(f"poison {number}" for number in bad)
        assert all(result.state is State.DEAD and isinstance(result.failure, WorkerLost) for result in dead)
        assert len(results) == jobs


async def kill_now_and_then(system: System, chance: random.Random, kills: int) -> None:
    """Kill workers from outside."""
    for _ in range(kills):
        await asyncio.sleep(chance.uniform(2, 10))
        victims = system.children("workers")
        if victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                chance.choice(victims).kill()


async def test_one_of_many_on_a_single_worker(tmp_path: Path) -> None:
    await trial(tmp_path, 1, workers=1, slots=4, jobs=40, poisons=1)


async def asked(client: Client, text: str) -> str:
    """Ask, as a client does that tries again under another id, and return how it ended."""
    body = {"messages": [{"role": "user", "content": text}]}
    try:
        await client.infer("m", body, timeout_s=60)
    except RequestRefused as error:
        return error.problem.code
    except RequestTimedOut:
        return "timed_out"
    return "succeeded"


async def test_poisonous_requests_are_refused_and_running_jobs_survive(tmp_path: Path) -> None:
    """Four different ones at once. Only the first deaths may hit jobs, which run on afterwards."""
    catalog = a_catalog_file(tmp_path, options=CRASH, slots=4)
    async with a_system(tmp_path / "data", catalog, "--workers", "2") as system, a_client(system) as client:
        batch = await client.create_batch()
        await client.submit_many(submissions(40, set()), batch_id=batch.id)
        await client.seal(batch.id, jobs=40)

        async def until_refused(number: int) -> str:
            while (code := await asked(client, f"poison request {number}")) not in ("poison", "succeeded"):
                await asyncio.sleep(1)  # as an SDK waits before it tries again
            return code

        codes = await asyncio.gather(*(until_refused(number) for number in range(4)))

        await until(partial(is_complete, client, batch.id), "the batch is complete", within_s=200)
        assert codes == ["poison"] * 4
        assert (await client.batch(batch.id)).counts.succeeded == 40

        async def others_are_answered() -> bool:
            return await asked(client, "hello") == "succeeded"

        await until(others_are_answered, "others are answered", within_s=60)


async def test_an_innocent_job_survives_four_kills_of_its_worker(tmp_path: Path) -> None:
    """Each kill comes later in its run than the one before: what outlives a death by far forgets it.

    By far, since beats and this test's own looks each see a run a second late.
    """
    catalog = a_catalog_file(tmp_path, options="decode_tokens_per_s = 0.4\noutput_tokens = 12", slots=4)
    async with a_system(tmp_path / "data", catalog) as system, a_client(system) as client:
        batch = await client.create_batch()
        await client.submit_many(submissions(1, set()), batch_id=batch.id)
        await client.seal(batch.id, jobs=1)
        for ran_s in (0.1, 0.1, 8.0, 24.0):
            await until(partial(is_running, client), "it runs", within_s=60)
            await asyncio.sleep(ran_s)
            system.children("workers")[0].kill()
            await until(partial(is_not_running, client), "the death is noticed", within_s=30)

        await until(partial(is_complete, client, batch.id), "the batch is complete", within_s=120)
        assert (await client.batch(batch.id)).counts.succeeded == 1


async def is_running(client: Client) -> bool:
    return any(worker.running for worker in (await client.status()).workers)


async def is_not_running(client: Client) -> bool:
    return not await is_running(client)
