"""Postgres and NATS go away under a running system, and come back."""

from contextlib import AsyncExitStack
from pathlib import Path

import nats
import pytest

from broker.embedded import nats_server, postgres_server
from broker.ledger import migrate
from schemas.api import State
from tests.real.test_broker import a_broker, a_worker
from workers.pool import Pool

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(90), pytest.mark.usefixtures("servers")]
HELLO = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}


async def test_without_postgres_asks_are_answered_and_jobs_wait(tmp_path: Path) -> None:
    async with nats_server(tmp_path / "nats") as nats_url, AsyncExitStack() as first, AsyncExitStack() as second:
        url = await first.enter_async_context(postgres_server(tmp_path / "pg", durable=False))
        await migrate(url)
        nc = await nats.connect(nats_url)
        async with a_broker(nats_url, url, nc) as running, a_worker(nc):
            await running.has_a_worker()
            before = [await running.submit(f"n{n}") for n in range(50)]

            await first.aclose()
            answer = await running.client.infer("m", HELLO)
            during = [await running.submit(f"m{n}") for n in range(10)]
            assert await second.enter_async_context(postgres_server(tmp_path / "pg", durable=False)) == url

            assert answer.job is not None
            shown = [await running.ended(job) for job in [*before, *during, answer.job]]
            assert {job.state for job in shown} == {State.SUCCEEDED}
        await nc.close()


async def test_after_a_restart_of_nats_everything_goes_on(tmp_path: Path) -> None:
    async with AsyncExitStack() as servers, AsyncExitStack() as first, AsyncExitStack() as second:
        url = await servers.enter_async_context(postgres_server(tmp_path / "pg", durable=False))
        await migrate(url)
        nats_url = await first.enter_async_context(nats_server(tmp_path / "nats"))
        worker: list[Pool] = []

        async def back() -> None:
            for one in worker:
                one.reconnected()

        nc = await nats.connect(nats_url, max_reconnect_attempts=-1, reconnect_time_wait=1, reconnected_cb=back)
        async with a_broker(nats_url, url, nc) as running, a_worker(nc) as pool:
            worker.append(pool)
            before = [await running.submit(f"n{n}") for n in range(100)]

            await first.aclose()
            port = int(nats_url.rpartition(":")[2])
            await second.enter_async_context(nats_server(tmp_path / "nats", port=port))
            shown = [await running.ended(job) for job in before]

            after = await running.ended(await running.submit("after"))
            assert {job.state for job in [*shown, after]} == {State.SUCCEEDED}
        await nc.close()
