"""Jobs that end their workers, among innocent ones: they end dead, and nobody else does."""

import asyncio
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from broker.client import Client, Submission
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
    folder: Path, seed: int, *, workers: int, slots: int, jobs: int, poisons: int, kills: int = 0
) -> None:
    chance = random.Random(seed)
    bad = set(chance.sample(range(jobs), poisons))
    catalog = a_catalog_file(folder, options=CRASH, slots=slots)
    async with a_system(folder / "data", catalog, "--workers", str(workers)) as system, a_client(system) as client:
        batch = await client.create_batch()
        await client.submit_many(submissions(jobs, bad), batch_id=batch.id)
        await client.seal(batch.id, jobs=jobs)
        killing = asyncio.create_task(kill_now_and_then(system, chance, kills))

        await until(partial(is_complete, client, batch.id), "the batch is complete", within_s=300)

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
            with __import__("contextlib").suppress(psutil.NoSuchProcess):
                chance.choice(victims).kill()


async def test_one_of_many_on_a_single_worker(tmp_path: Path) -> None:
    await trial(tmp_path, 1, workers=1, slots=4, jobs=40, poisons=1)
