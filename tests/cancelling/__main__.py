"""Cancel a batch of a million jobs while another tenant's jobs are dispatched, and print what that costs these."""

import asyncio
import sys
import time
from pathlib import Path
from uuid import UUID

import asyncpg

from broker.bench.system import a_system
from broker.client import Client, Submission, new_id
from schemas import subjects
from schemas.api import Batch
from schemas.control import PauseKind
from schemas.endpoints import CHAT
from schemas.job import Job, Lane
from tests.builders import now

JOBS = 1_000_000
OTHERS = 700_000
WINDOW_S = 6.0
ROUNDS = 3
CATALOG = """
[models.m]
endpoints = ["/v1/chat/completions"]
[[models.m.route]]
deployment = "d"

[deployments.d]
engine = "simulated"
max_concurrency = 64
[deployments.d.options]
output_tokens = 8
"""
BODY = b'{"messages":[{"role":"user","content":"hello"}],"max_tokens":8}'


async def main(jobs: int, others: int) -> None:
    async with a_system(CATALOG) as (up, client, _), Client.connect(up.nats_url, tenant="large") as large:
        await large.pause(PauseKind.TENANT, "large")
        await client.pause(PauseKind.DEPLOYMENT, "d")
        batch, url = new_id(), up.postgres_url
        await _fill(url, batch, jobs)
        other = await client.create_batch(lane=Lane.BULK)
        lines = (Submission("m", Job(endpoint=CHAT.path, body=BODY)) for _ in range(others))
        await client.seal(other.id, jobs=await client.submit_many(lines, batch_id=other.id))
        while (await client.batch(other.id)).counts.admitted < others:
            await asyncio.sleep(0.5)
        await client.resume(PauseKind.DEPLOYMENT, "d")
        began = time.monotonic()
        state = await large.cancel_batch(batch)
        say(f"the cancel of {jobs} jobs returned in {1000 * (time.monotonic() - began):.0f} ms: {state.status}")
        await asyncio.sleep(3)
        during, without = 0.0, 0.0
        for _ in range(ROUNDS):
            during += await _rate(client, other.id)
            await _set(client, url, batch, "null")
            without += await _rate(client, other.id)
            await _set(client, url, batch, "1")
        say(
            f"others: {without / ROUNDS:.0f} jobs/s, {during / ROUNDS:.0f} while it is ended: {during / without:.2f} of it"
        )
        say(f"{(await large.batch(batch)).counts.cancelled} had ended by then")
        began = time.monotonic()
        await _watch(large, batch, began)
        await _started(url, batch)


async def _set(client: Client, url: str, batch: UUID, cancel_ms: str) -> None:
    """Interrupt the cancel, or let it go on. Its tenant is paused, so nothing of it starts meanwhile."""
    connection = await asyncpg.connect(url)
    await connection.execute(f"update infermq.batches set cancel_ms = {cancel_ms} where id = '{batch}'")  # noqa: S608
    await connection.execute("update infermq.control_version set number = number + 1")
    await client.nats.publish(subjects.CTL_CONTROLS, b"")
    await asyncio.sleep(1)
    await connection.close()


async def _rate(client: Client, batch: UUID) -> float:
    """Measure how many jobs end in a second."""
    began, first = time.monotonic(), (await client.batch(batch)).counts.settled()
    await asyncio.sleep(WINDOW_S)
    state = await client.batch(batch)
    if state.completed_ms is not None:
        raise RuntimeError("the others are through: give them more jobs")
    return (state.counts.settled() - first) / (time.monotonic() - began)


async def _watch(client: Client, batch: UUID, began: float) -> None:
    """Wait until the batch has ended."""
    last: Batch | None = None
    while last is None or last.completed_ms is None:
        await asyncio.sleep(5)
        state = await client.batch(batch)
        ended = state.counts.cancelled - (0 if last is None else last.counts.cancelled)
        say(f"{time.monotonic() - began:5.0f} s: {state.counts.cancelled} have ended, {ended / 5:.0f} a second")
        last = state


async def _started(url: str, batch: UUID) -> None:
    connection = await asyncpg.connect(url)
    count = await connection.fetchval("select count(*) from infermq.jobs where batch = $1 and attempts > 0", batch)
    say(f"{count} of its jobs were started")
    await connection.close()


async def _fill(url: str, batch: UUID, jobs: int) -> None:
    connection = await asyncpg.connect(url)
    began = time.monotonic()
    fill = Path(__file__).with_name("fill.sql").read_text()
    await connection.execute(fill.format(batch=batch, jobs=jobs, now=now()))
    await connection.execute("vacuum analyze infermq.waiting")
    say(f"{jobs} jobs made in {time.monotonic() - began:.0f} s")
    await connection.close()


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - that is what it is for


asyncio.run(main(*map(int, sys.argv[1:3] + [str(JOBS), str(OTHERS)][len(sys.argv[1:3]) :])))
