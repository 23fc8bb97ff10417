"""Postgres and NATS go away under a running system, and come back."""

import asyncio
import signal
import sys
import time
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import asyncpg
import pytest

from broker.client import Client, RequestRefused, RequestTimedOut, Submission
from broker.errors import Unavailable
from broker.local.servers import Child, nats_server, spawn
from schemas.api import State
from schemas.jetstream.client import NatsClient
from tests.builders import a_job
from tests.holding import a_hand
from tests.real.test_broker import a_broker, a_worker
from tests.sums import a_ledger_server
from tests.system import CATALOG, until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(90), pytest.mark.usefixtures("servers")]
HELLO = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}


async def test_without_postgres_asks_are_answered_and_jobs_wait(tmp_path: Path) -> None:
    async with nats_server(tmp_path / "nats") as nats_url, AsyncExitStack() as first, AsyncExitStack() as second:
        url = await first.enter_async_context(a_ledger_server(tmp_path / "pg"))
        nc = NatsClient()
        await nc.connect(nats_url)
        async with a_broker(nats_url, url, nc) as running, a_worker(nc):
            await running.has_a_worker()
            before = [await running.submit(f"n{n}") for n in range(50)]

            await first.aclose()
            answer = await running.client.infer("m", HELLO)
            during = [await running.submit(f"m{n}") for n in range(10)]
            assert await second.enter_async_context(a_ledger_server(tmp_path / "pg")) == url

            assert answer.job is not None
            shown = [await running.ended(job) for job in [*before, *during, answer.job]]
            assert {job.state for job in shown} == {State.SUCCEEDED}
        await nc.close()


async def test_after_a_restart_of_nats_everything_goes_on(tmp_path: Path) -> None:
    async with AsyncExitStack() as servers, AsyncExitStack() as first, AsyncExitStack() as second:
        url = await servers.enter_async_context(a_ledger_server(tmp_path / "pg"))
        nats_url = await first.enter_async_context(nats_server(tmp_path / "nats"))
        reconnected = asyncio.Event()

        async def back() -> None:
            reconnected.set()

        nc = NatsClient()
        await nc.connect(nats_url, max_reconnect_attempts=-1, reconnect_time_wait=1, reconnected_cb=back)
        async with a_broker(nats_url, url, nc) as running, a_worker(nc, reconnected=reconnected):
            before = [await running.submit(f"n{n}") for n in range(100)]

            await first.aclose()
            port = int(nats_url.rpartition(":")[2])
            await second.enter_async_context(nats_server(tmp_path / "nats", port=port))
            shown = [await running.ended(job) for job in before]

            after = await running.ended(await running.submit("after"))
            assert {job.state for job in [*shown, after]} == {State.SUCCEEDED}
        await nc.close()


async def started(name: str, log: Path, *words: str) -> Child:
    """One of our processes, once it says that it is ready."""
    child = spawn(name, [sys.executable, "-m", *words, "--json"], log=log)

    async def is_ready() -> bool:
        assert child.is_running(), child.tail()
        return '"ready"' in log.read_text()

    await until(is_ready, f"{name} is ready")
    return child


async def answers(client: Client) -> bool:
    try:
        await client.infer("m", HELLO, timeout_s=5)
        await client.status()
    except (Unavailable, RequestRefused, RequestTimedOut):
        return False
    return True


async def test_processes_go_on_after_restarts_of_nats(tmp_path: Path) -> None:
    """As they are deployed, with their own event loop and every connection of theirs."""
    async with AsyncExitStack() as stack, AsyncExitStack() as server:
        url = await stack.enter_async_context(a_ledger_server(tmp_path / "pg"))
        nats_url = await server.enter_async_context(nats_server(tmp_path / "nats"))
        port = int(nats_url.rpartition(":")[2])
        where = ("--nats-url", nats_url)
        children = [
            await started("broker", tmp_path / "broker.log", "broker", "serve", *where, "--postgres-url", url)
        ]
        client = await stack.enter_async_context(Client.connect(nats_url))
        await client.apply_catalog(CATALOG.format(slots=4, options=""))
        children.append(await started("worker", tmp_path / "worker.log", "workers", "--deployment", "d", *where))
        try:
            for _ in range(2):
                await server.aclose()
                await server.enter_async_context(nats_server(tmp_path / "nats", port=port))
                await until(partial(answers, client), "an interactive answer after the restart")
                batch = await client.create_batch()
                sent = await client.submit_many([Submission("m", a_job())] * 50, batch_id=batch.id)
                await client.seal(batch.id, jobs=sent)
                assert {result.state async for result in client.results(batch.id)} == {State.SUCCEEDED}
        finally:
            for child in reversed(children):
                await child.stop(signal.SIGTERM)


TAKEN_OVER_S = 5.0
"""How soon another broker has what a killed one had pulled, on a machine that is not overloaded."""
LOADED_S = 3.0
"""What a loaded machine may add to it."""


async def test_what_a_killed_broker_had_pulled_is_taken_in_by_another_in_seconds(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(a_ledger_server(tmp_path / "pg"))
        nats_url = await stack.enter_async_context(nats_server(tmp_path / "nats"))
        where = ("broker", "serve", "--nats-url", nats_url, "--postgres-url", url, "--name")
        killed = await started("killed", tmp_path / "killed.log", *where, "killed")
        stack.push_async_callback(killed.stop)
        client = await stack.enter_async_context(Client.connect(nats_url))
        await client.apply_catalog(CATALOG.format(slots=4, options=""))
        hand = await stack.enter_async_context(a_hand(url))
        await hand.hold("lock table infermq.jobs in share row exclusive mode")
        jobs = [await client.submit("m", HELLO) for _ in range(20)]
        await hand.until_waiting(1)
        other = await started("other", tmp_path / "other.log", *where, "other")  # it takes longer than a lease
        stack.push_async_callback(other.stop, signal.SIGTERM)

        await killed.stop()
        await hand.let_go()
        began = time.monotonic()

        async def all_are_there() -> bool:
            ledger = await asyncpg.connect(url)
            try:
                return bool(await ledger.fetchval("select count(*) from infermq.waiting") == len(jobs))
            finally:
                await ledger.close()

        await until(all_are_there, "all jobs are taken in")
        assert time.monotonic() - began < TAKEN_OVER_S + LOADED_S
