"""A model with two deployments: what one fails the other does; and a cap that holds."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from broker.client import Client, RequestRefused, Submission
from schemas.api import BatchStatus, JobShow
from schemas.endpoints import CHAT
from tests.builders import a_job
from tests.system import a_client, a_system, until

pytestmark = [pytest.mark.story, pytest.mark.commands]
CATALOG = """
[models.m]
[[models.m.route]]
deployment = "first"
[[models.m.route]]
deployment = "spare"
weight = 0

[models.dear]
[[models.dear.route]]
deployment = "capped"

[deployments.first]
engine = "simulated"
[[deployments.first.options.failures]]
match = "boom"
kind = "engine_fault"
[[deployments.first.options.failures]]
match = "wait"
kind = "throttled"
retry_after_ms = 3600000

[deployments.spare]
engine = "simulated"
max_concurrency = 4
[deployments.spare.price]
input = 1.0
[[deployments.spare.options.failures]]
match = "boom everywhere"
kind = "bad_request"

[deployments.capped]
engine = "simulated"
max_concurrency = 2
daily_cap_usd = 0.002
[deployments.capped.price]
output = 100.0
"""


def a_body(text: str) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 4}


def submissions(model: str, *texts: str) -> Iterator[Submission]:
    for number, text in enumerate(texts):
        body = b'{"messages":[{"role":"user","content":"%s"}],"max_tokens":8}' % text.encode()
        yield Submission(model, a_job(endpoint=CHAT.path, body=body, custom_id=f"c{number}"))


async def run(client: Client, model: str, *texts: str) -> list[tuple[str, list[str]]]:
    """A batch to its end: each job's state and the deployments that it ran on."""
    batch = await client.create_batch()
    sent = await client.submit_many(submissions(model, *texts), batch_id=batch.id)
    await client.seal(batch.id, jobs=sent)

    async def complete() -> bool:
        return (await client.batch(batch.id)).status is BatchStatus.COMPLETED

    await until(complete, "the batch is complete")
    jobs = {result.custom_id: await client.job(result.job) async for result in client.results(batch.id)}
    shown = [jobs[f"c{number}"] for number in range(len(texts))]
    return [(str(job.state), [execution.deployment for execution in job.executions]) for job in shown]


async def test_the_next_deployment_takes_what_one_fails_and_a_cap_holds(tmp_path: Path) -> None:
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(CATALOG)
    async with a_system(tmp_path / "data", catalog) as system, a_client(system) as client:
        assert await run(client, "m", "fine", "boom", "wait", "boom everywhere") == [
            ("succeeded", ["first"]),
            ("succeeded", ["first", "spare"]),
            ("succeeded", ["first", "spare"]),
            ("failed", ["first", "spare"]),
        ]

        whole = await client.infer("m", a_body("boom"))
        streamed = [chunk async for chunk in client.infer_stream("m", a_body("boom"))]
        with pytest.raises(RequestRefused) as error:
            await client.infer("m", a_body("boom everywhere"))

        assert error.value.problem.code == "bad_request"
        assert whole.text()
        assert streamed
        shown = await recorded(client, whole.job)
        assert [execution.deployment for execution in shown.executions] == ["first", "spare"]
        assert str(shown.state) == "succeeded"
        assert shown.cost_nano_usd == sum(execution.cost_nano_usd for execution in shown.executions) > 0

        await held_by_its_cap(client, system.info.postgres_url)


async def recorded(client: Client, job: UUID | None) -> JobShow:
    """An interactive job, once it is settled: a moment after its reply."""
    assert job is not None
    shown: list[JobShow] = []

    async def look() -> bool:
        with contextlib.suppress(RequestRefused):
            shown.append(await client.job(job))
        return bool(shown)

    await until(look, "the job is in the record")
    return shown[0]


async def held_by_its_cap(client: Client, postgres_url: str) -> None:
    """A job costs 0.0008 USD, so the cap of 0.002 pays for two of them, or for them and a request of half their length."""
    batch = await client.create_batch()
    sent = await client.submit_many(submissions("dear", *["x"] * 200), batch_id=batch.id)
    await client.seal(batch.id, jobs=sent)

    async def refused() -> bool:
        try:
            await client.infer("dear", a_body("x"))
        except RequestRefused as error:
            return error.problem.code == "daily_cap"
        return False

    await until(refused, "the gateway refuses")
    connection = await asyncpg.connect(postgres_url)
    try:
        spent = await spent_once_no_job_fits(connection)
        waiting = await connection.fetchval("select count(*) from infermq.waiting where model = 'dear'")
    finally:
        await connection.close()
    assert spent <= 2_000_000
    assert waiting > 0


async def spent_once_no_job_fits(connection: asyncpg.Connection) -> int:
    """The gateway refuses for what runs, which is recorded a moment later. Nano USD."""
    spent = 0

    async def look() -> bool:
        nonlocal spent
        spent = int(
            await connection.fetchval(
                "select coalesce(sum(cost_nano_usd), 0) from infermq.spend where deployment = 'capped'"
            )
        )
        return spent + 800_000 > 2_000_000

    await until(look, "the cap is spent")
    return spent
