"""A broker is killed again and again in the middle of retries and replays: exactly one new job for each that they repeat."""

import asyncio
from functools import partial
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from broker.client import Client, Submission
from broker.errors import Unavailable
from schemas.api import Batch, BatchStatus
from schemas.listing import JobFilter
from schemas.repeats import ReplayChoice
from tests.builders import a_job
from tests.chaos.test_killed import is_complete
from tests.system import System, a_catalog_file, a_client, a_system, until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]
JOBS = 1500
WRONG = 1200
"""How many of them fail."""
KILLS = 4
FAILS = 'failures = [{match = "wrong", kind = "bad_request"}]'


async def a_batch(client: Client) -> UUID:
    """A complete one, most of whose jobs have failed."""
    batch = await client.create_batch()
    jobs = (
        a_job(
            custom_id=f"c{number}",
            line=number + 1,
            body=b'{"messages":[{"role":"user","content":"%s %d"}]}' % (b"wrong" if number < WRONG else b"x", number),
        )
        for number in range(JOBS)
    )
    sent = await client.submit_many((Submission("m", job) for job in jobs), batch_id=batch.id)
    await client.seal(batch.id, jobs=sent)
    await until(partial(is_complete, client, batch.id), "the batch is complete", within_s=60)
    return batch.id


async def killed(system: System) -> None:
    """Kill the broker as soon as there is one that has a NATS connection to lose."""
    [broker] = [one for one in system.children("serve") if one.is_running()][:1]
    broker.kill()
    await asyncio.to_thread(broker.wait, 10)
    await until(partial(_other, system, broker.pid), "another broker has begun", within_s=30)


async def _other(system: System, pid: int) -> bool:
    return any(one.pid != pid for one in system.children("serve"))


async def made(url: str, batch: UUID) -> tuple[int, int, int]:
    """How many jobs a batch has, how many links lead from them, and to how many jobs."""
    connection = await asyncpg.connect(url)
    try:
        row = await connection.fetchrow(
            "select count(*) as jobs, count(p.job) as links, count(distinct p.source) as sources"
            "  from infermq.jobs j left join infermq.replays p on p.job = j.id where j.batch = $1",
            batch,
        )
        assert row is not None
        return row["jobs"], row["links"], row["sources"]
    finally:
        await connection.close()


async def has_more(client: Client, batch: UUID, than: int) -> bool:
    try:
        return (await client.batch(batch)).counts.admitted > min(than, JOBS - 1)
    except Unavailable:
        return False


async def complete(client: Client, batch: UUID) -> Batch:
    await until(partial(is_complete, client, batch), "the batch is complete", within_s=120)
    return await client.batch(batch)


async def test_each_job_is_repeated_once_however_often_the_broker_is_killed(tmp_path: Path) -> None:
    async with (
        a_system(tmp_path / "data", a_catalog_file(tmp_path, slots=64, options=FAILS), "--lease-s", "3") as system,
        a_client(system) as client,
    ):
        batch = await a_batch(client)

        retry = await client.retry(batch)
        replay = await client.replay(ReplayChoice(filter=JobFilter(batch=batch)), rate_per_s=100.0)
        made_so_far = 0
        for _ in range(KILLS):
            await killed(system)
            await until(partial(has_more, client, replay.id, made_so_far), "it carries on")
            made_so_far = (await client.batch(replay.id)).counts.admitted
        states = [await complete(client, one.id) for one in (retry, replay)]

        first = await client.batch(batch)
        assert [state.status for state in states] == [BatchStatus.COMPLETED] * 2
        assert await made(system.info.postgres_url, retry.id) == (WRONG, WRONG, WRONG)
        assert await made(system.info.postgres_url, replay.id) == (JOBS, JOBS, JOBS)
        assert first.merged is not None
        assert first.merged.counts.settled() == JOBS
        assert len([one async for one in client.results(batch)]) == JOBS
