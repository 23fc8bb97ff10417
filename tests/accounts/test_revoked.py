"""A key is revoked while it is used: whoever shows it is cut off and told, and nothing is lost or doubled."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self
from uuid import UUID

import aiohttp
import asyncpg
import pytest

from broker.client import Client, RequestRefused, Submission
from broker.config import KEY_FILE
from schemas.accounts import KeyCreate, KeyMade, Role
from schemas.api import BatchStatus, Execution, State
from schemas.job import Job
from schemas.listing import JobFilter
from tests.builders import CHAT
from tests.system import System, a_catalog_file, a_system, infermq, until

pytestmark = [pytest.mark.story, pytest.mark.timeout(240)]
SLOW = "output_tokens = 40\ndecode_tokens_per_s = 20"
BODY = {"messages": [{"role": "user", "content": "Hello."}], "max_tokens": 40}


@asynccontextmanager
async def as_operator(system: System) -> AsyncIterator[Client]:
    async with Client.connect(system.info.nats_url, api_key=(system.data / KEY_FILE).read_text()) as ops:
        yield ops


@asynccontextmanager
async def with_key(system: System, ops: Client, door: str) -> AsyncIterator[tuple[Client, KeyMade]]:
    made = await ops.create_key(KeyCreate(role=Role.PRODUCER))
    url = system.info.api if door == "http" else system.info.nats_url
    async with Client.connect(url, api_key=made.text) as client:
        yield client, made


async def revoked_within(seconds: float, waiting: "asyncio.Task[object]", ops: Client, made: KeyMade) -> None:
    loop = asyncio.get_running_loop()
    await ops.revoke_key(made.key.id)
    began = loop.time()
    with pytest.raises(RequestRefused) as caught:
        await asyncio.wait_for(waiting, 20)
    assert caught.value.problem.code == "key_revoked", caught.value
    assert made.key.id in str(caught.value)
    assert loop.time() - began < seconds


@pytest.mark.parametrize("door", ["nats", "http"])
async def test_whoever_uses_a_key_that_is_revoked_is_cut_off_and_told(tmp_path: Path, door: str) -> None:
    async with (
        a_system(tmp_path / "data", a_catalog_file(tmp_path, options=SLOW)) as system,
        as_operator(system) as ops,
    ):
        async with with_key(system, ops, door) as (client, made):  # streaming
            pieces: asyncio.Queue[object] = asyncio.Queue()

            async def stream() -> None:
                async for piece in client.infer_stream("m", BODY):
                    pieces.put_nowait(piece)

            streaming: asyncio.Task[object] = asyncio.create_task(stream())
            await asyncio.wait_for(pieces.get(), 20)
            await revoked_within(1.5, streaming, ops, made)
            with pytest.raises(RequestRefused, match="was revoked"):
                await client.status()
            if door == "nats":
                await until(lambda: _is_closed(client), "the library has stopped trying", within_s=5)

        async with with_key(system, ops, door) as (client, made):  # waiting for results
            batch = await client.create_batch()

            async def wait() -> None:
                async for _ in client.results(batch.id):
                    pass

            waiting: asyncio.Task[object] = asyncio.create_task(wait())
            await client.batch(batch.id)
            await revoked_within(3, waiting, ops, made)
            with pytest.raises(RequestRefused, match="was revoked"):
                await client.batch(batch.id)

        async with with_key(system, ops, door) as (client, made):  # submitting
            acknowledged: set[UUID] = set()

            async def submit() -> None:
                while True:
                    acknowledged.add(await client.submit("m", BODY))

            submitting: asyncio.Task[object] = asyncio.create_task(submit())
            await until(lambda: _is_more(acknowledged, 20), "some jobs are submitted")
            await revoked_within(1.5, submitting, ops, made)
            database = await asyncpg.connect(system.info.postgres_url)
            try:
                ask = "select id, count(*) n from infermq.jobs where key = $1 group by id"

                async def are_there() -> bool:
                    return acknowledged <= {row["id"] for row in await database.fetch(ask, made.key.id)}

                await until(are_there, "what was acknowledged is in the ledger")
                rows = await database.fetch(ask, made.key.id)
                assert len(acknowledged) <= len(rows) <= len(acknowledged) + 1, "at most the last one is unknown"
                assert {row["n"] for row in rows} == {1}
            finally:
                await database.close()


async def test_a_stream_of_results_ends_when_its_key_is_revoked(tmp_path: Path) -> None:
    async with (
        a_system(tmp_path / "data", a_catalog_file(tmp_path), "--workers", "0") as system,
        as_operator(system) as ops,
        with_key(system, ops, "http") as (client, made),
    ):
        batch = await client.create_batch()
        headers = {"authorization": f"Bearer {made.text}", "accept": "text/event-stream"}
        async with (
            aiohttp.ClientSession(system.info.api, headers=headers) as http,
            http.get(f"/v1/batches/{batch.id}/results") as response,
        ):
            assert await response.content.readline() == b"retry: 1000\n"
            await ops.revoke_key(made.key.id)
            rest = await asyncio.wait_for(response.content.read(), 10)

    assert b"event: error\ndata: " in rest
    assert b'"code":"key_revoked"' in rest


async def _is_closed(client: Client) -> bool:
    return client.nats.is_closed


async def _is_more(some: set[UUID], number: int) -> bool:
    return len(some) > number


async def test_commands_with_a_revoked_key_end_and_say_so(tmp_path: Path) -> None:
    key, lines = tmp_path / "ann.key", tmp_path / "lines.jsonl"
    body = {"model": "m", **BODY}
    lines.write_text(json.dumps({"custom_id": "a", "url": CHAT, "method": "POST", "body": body}) + "\n")
    async with (
        a_system(tmp_path / "data", a_catalog_file(tmp_path), "--workers", "0") as system,
        as_operator(system) as ops,
    ):
        made = await ops.create_key(KeyCreate(role=Role.PRODUCER))
        key.write_text(made.text)
        words = ["submit", str(lines), "--wait", "--data", str(system.data)]
        env = {**os.environ, "INFERMQ_API_KEY_FILE": str(key)}
        command = [sys.executable, "-m", "broker", *words]
        waits = subprocess.Popen(  # noqa: ASYNC220 - it is ended
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            assert waits.stderr is not None
            await asyncio.wait_for(asyncio.to_thread(waits.stderr.readline), 40)
            await ops.revoke_key(made.key.id)
            _, said = await asyncio.to_thread(waits.communicate, timeout=20)
        finally:
            waits.kill()
        assert waits.returncode == 2
        assert f"the key {made.key.id} was revoked" in said
        assert "Traceback" not in said

        ran = await asyncio.to_thread(infermq, *words, environ={"INFERMQ_API_KEY_FILE": str(key)})
        assert ran.returncode == 2
        assert f"NATS refuses the key {made.key.id}: it is unknown, expired or revoked" in ran.stderr
        assert made.text[-49:] not in said + ran.stdout + ran.stderr


async def test_what_a_worker_held_whose_key_is_revoked_runs_elsewhere_once(tmp_path: Path) -> None:
    catalog = a_catalog_file(tmp_path, slots=4, options=SLOW)
    async with (
        a_system(tmp_path / "data", catalog, "--workers", "0") as system,
        as_operator(system) as ops,
    ):
        stolen = await ops.create_key(KeyCreate(role=Role.WORKER, deployments=("d",)))
        good = await ops.create_key(KeyCreate(role=Role.WORKER, deployments=("d",)))
        with a_worker(system, stolen, "stolen", tmp_path):
            batch = await ops.create_batch()
            await ops.submit_many(
                [Submission("m", Job(endpoint=CHAT, body=json.dumps(BODY).encode()))] * 8, batch_id=batch.id
            )
            await ops.seal(batch.id, jobs=8)
            await until(lambda: _runs(ops, "stolen"), "it runs some")
            await ops.revoke_key(stolen.key.id)
            with a_worker(system, good, "good", tmp_path):
                await until(lambda: _is_complete(ops, batch.id), "all have ended", within_s=60)
                state = await ops.batch(batch.id)
                workers = {one.worker async for one in _executions(ops, batch.id)}
        assert state.counts.succeeded == 8
        assert "good" in workers
    said = (tmp_path / "stolen.log").read_text()
    assert f"NATS refuses the key {stolen.key.id}" in said
    assert stolen.text not in said


async def _executions(ops: Client, batch: UUID) -> AsyncIterator[Execution]:
    async for result in ops.results(batch):
        for execution in (await ops.job(result.job)).executions:
            yield execution


async def _runs(ops: Client, worker: str) -> bool:
    return any(beat.worker == worker and beat.running >= 2 for beat in (await ops.status()).workers)


async def _is_complete(ops: Client, batch: UUID) -> bool:
    return (await ops.batch(batch)).status is BatchStatus.COMPLETED


class a_worker:  # noqa: N801 - as the functions of its kind
    """A worker process with a key of its own."""

    def __init__(self, system: System, made: KeyMade, name: str, folder: Path) -> None:
        key = folder / f"{name}.key"
        key.write_text(made.text)
        self.log = (folder / f"{name}.log").open("wb")
        env = {**os.environ, "INFERMQ_API_KEY_FILE": str(key), "INFERMQ_NATS_URL": system.info.nats_url}
        command = [sys.executable, "-m", "workers", "--deployment", "d", "--name", name]
        self.process = subprocess.Popen(command, env=env, stdout=self.log, stderr=self.log)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(20)
        self.log.close()


async def test_a_request_that_waits_for_its_turn_ends_with_its_key(tmp_path: Path) -> None:
    options = 'failures = [{match = "hang", kind = "hang"}]'
    async with (
        a_system(tmp_path / "data", a_catalog_file(tmp_path, options=options)) as system,
        as_operator(system) as ops,
        with_key(system, ops, "nats") as (_, made),
        aiohttp.ClientSession(system.info.api, headers={"authorization": f"Bearer {made.text}"}) as http,
    ):
        body = {"model": "m", "messages": [{"role": "user", "content": "hang"}], "infermq": {"lane": "bulk"}}

        async def asked() -> tuple[int, str]:
            async with http.post("/v1/chat/completions", json=body) as response:
                return response.status, (await response.json())["error"]["code"]

        asking = asyncio.create_task(asked())

        async def runs() -> bool:
            return any(
                job.state is State.RUNNING for job in (await ops.jobs(JobFilter(states=(State.RUNNING,)))).jobs
            )

        await until(runs, "its job runs")
        began = asyncio.get_running_loop().time()
        await ops.revoke_key(made.key.id)

        assert await asyncio.wait_for(asking, 20) == (401, "key_revoked")
        assert asyncio.get_running_loop().time() - began < 1.5

        async def is_cancelled() -> bool:
            return bool((await ops.jobs(JobFilter(states=(State.CANCELLED,)))).jobs)

        await until(is_cancelled, "its job is cancelled")
        async with aiohttp.request("GET", f"{system.info.api}/v1/models") as response:
            assert (response.status, response.headers["www-authenticate"]) == (401, "Bearer")
