"""A broker starts while Postgres or NATS is away, or the database has no tables yet; it says so, and comes up wholly."""

import asyncio
import itertools
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from broker.bus.catalogs import Catalogs
from broker.bus.seal_keys import NatsSealKeys
from broker.client import Client, RequestRefused
from broker.config import BrokerConfig
from broker.errors import CannotListen, Unavailable
from broker.ledger import migrate, open_ledger
from broker.local.servers import is_free, nats_server, postgres_server
from broker.serve import Addresses, serve
from schemas.api import State
from schemas.catalog import Revision, parse
from schemas.jetstream.client import NatsClient as Nats
from schemas.units import Ms
from tests.builders import SEAL_KEY, an_id, now
from tests.declared import declare_streams
from tests.real.test_broker import SCRIPT, Running, a_broker, a_worker
from tests.system import CATALOG, until

pytestmark = [pytest.mark.real, pytest.mark.timeout(90)]
NOWHERE = "postgresql://postgres@/infermq?host=/nowhere"
HELLO = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}


async def seen(url: str) -> tuple[int, dict[str, Any]]:
    """The status and the JSON of an HTTP answer."""
    host, _, path = url.removeprefix("http://").partition("/")
    name, _, port = host.partition(":")
    reader, writer = await asyncio.open_connection(name, int(port))
    writer.write(f"GET /{path} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
    head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return int(head.split()[1]), json.loads(body)


_ports = itertools.count(20_000 + os.getpid() % 10_000)


def free_port() -> int:
    """Another one each time."""
    return next(port for port in _ports if is_free(port))


@asynccontextmanager
async def a_start(nats_url: str, postgres_url: str) -> AsyncIterator[tuple[str, "asyncio.Future[Addresses]"]]:
    """A broker that begins to serve: the URL of its HTTP server, and a future that is set once it is ready."""
    ready: asyncio.Future[Addresses] = asyncio.get_running_loop().create_future()
    port = free_port()
    config = BrokerConfig(nats_url=nats_url, postgres_url=postgres_url, name=f"b-{an_id()}", http_port=port)
    serving = asyncio.create_task(serve(config, ready=ready.set_result, refresh_s=0.1))
    try:
        yield f"http://127.0.0.1:{port}", ready
        assert not serving.done(), serving
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


def says(url: str, status: int, holds: Callable[[dict[str, Any]], bool] = lambda _: True) -> Any:
    async def it_does() -> bool:
        try:
            found, state = await seen(url)
        except OSError:
            return False
        return found == status and holds(state)

    return until(it_does, f"{url} answers {status}")


async def announced(nc: Nats) -> None:
    """An active catalog and the key for seals, as an earlier broker left them in their buckets."""
    await declare_streams(nc)
    await NatsSealKeys(nc).write(SEAL_KEY)
    revision = Revision(4, Ms(0), parse(CATALOG.format(slots=4, options=SCRIPT)))
    await Catalogs(nc).publish(revision)


async def test_without_postgres_a_new_broker_answers_requests_and_says_what_it_cannot(
    nats_url: str, nc: Nats
) -> None:
    await announced(nc)

    async with a_start(nats_url, NOWHERE) as (url, ready), a_worker(nc), Client.connect(nats_url) as client:
        await ready

        async def answers() -> bool:
            try:
                return bool((await client.infer("m", HELLO, timeout_s=5)).text())
            except (RequestRefused, Unavailable):
                return False

        await until(answers, "an interactive request is answered")
        status, state = await seen(f"{url}/readyz")

        assert (status, state["ready"], state["revision"]) == (200, True, 4)
        assert not state["doors"]["api"]["ok"]
        assert "postgres" in state["doors"]["api"]["why"]
        assert (await seen(f"{url}/livez"))[0] == 200
        assert (await seen(f"{url}/healthz"))[0] == 200
        assert (await seen(f"{url}/readyz/infer"))[0] == 200
        assert (await seen(f"{url}/readyz/api"))[0] == 503
        with pytest.raises(Unavailable):
            await client.batches()


async def test_a_broker_that_started_without_postgres_comes_up_wholly_with_it(
    nats_url: str, nc: Nats, tmp_path: Path
) -> None:
    async with postgres_server(tmp_path / "pg", durable=False) as postgres_url:
        await migrate(postgres_url)
    await announced(nc)

    async with a_start(nats_url, postgres_url) as (url, ready), a_worker(nc), Client.connect(nats_url) as client:
        await ready
        waits = await client.submit("m", HELLO)
        await says(f"{url}/readyz/api", 503)

        async with postgres_server(tmp_path / "pg", durable=False) as again:
            assert again == postgres_url
            await says(f"{url}/readyz/api", 200)
            await client.apply_catalog(CATALOG.format(slots=4, options=SCRIPT))
            shown = await Running(nc, client, postgres_url, url).ended(waits)

            assert shown.state is State.SUCCEEDED


async def test_while_nobody_knows_the_catalog_jobs_wait_and_none_is_refused(
    nats_url: str, nc: Nats, tmp_path: Path
) -> None:
    async with postgres_server(tmp_path / "pg", durable=False) as postgres_url:
        await migrate(postgres_url)
        async with open_ledger(postgres_url, clock=now) as ledger:
            await ledger.catalogs.apply(CATALOG.format(slots=4, options=SCRIPT), "t", now())
    await declare_streams(nc)
    await NatsSealKeys(nc).write(SEAL_KEY)

    async with a_start(nats_url, postgres_url) as (url, ready), Client.connect(nats_url) as client:
        await ready
        waits = await client.submit("m", HELLO)
        await says(f"{url}/readyz/infer", 503, lambda state: "catalog: not known yet" in state["why"])
        with pytest.raises(Unavailable):
            await client.infer("m", HELLO, timeout_s=5)

        async with postgres_server(tmp_path / "pg", durable=False), a_worker(nc):
            shown = await Running(nc, client, postgres_url, url).ended(waits)

            assert shown.state is State.SUCCEEDED


async def test_before_the_tables_are_made_a_broker_says_what_to_do_and_waits(
    nats_url: str, ledger_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    connection = await asyncpg.connect(ledger_url)
    await connection.execute("drop schema infermq cascade")
    await connection.close()

    async with a_start(nats_url, ledger_url) as (url, ready):
        await ready
        await says(f"{url}/readyz/api", 503, lambda state: "infermq migrate" in state["why"])
        assert (await seen(f"{url}/livez"))[0] == 200

        await migrate(ledger_url)

        await says(f"{url}/readyz/api", 200)
    assert "infermq migrate" in caplog.text
    assert "Traceback" not in caplog.text


async def test_tables_that_are_not_up_to_date_are_named(ledger_url: str) -> None:
    connection = await asyncpg.connect(ledger_url)
    await connection.execute("delete from infermq.migrations")
    async with open_ledger(ledger_url, clock=now) as ledger:
        with pytest.raises(Unavailable, match=r"0001_ledger.sql is missing.*infermq migrate"):
            await ledger.status.database_now()

        await connection.execute(
            "insert into infermq.migrations (name, checksum) values ('0001_ledger.sql', 'other')"
        )
        with pytest.raises(Unavailable, match="other contents"):
            await ledger.status.database_now()
    await connection.close()


async def test_without_nats_a_broker_waits_alive_and_serves_once_it_is_there(
    tmp_path: Path, ledger_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    async with a_start(f"nats://u:hunter2@127.0.0.1:{port}", ledger_url) as (url, ready):
        await says(f"{url}/livez", 200)
        status, state = await seen(f"{url}/readyz")
        assert (status, state["ready"], state["parts"]["postgres"]["ok"]) == (503, False, True)
        assert f"127.0.0.1:{port}" in state["parts"]["nats"]["why"]
        assert not ready.done()

        async with nats_server(tmp_path / "nats", port=port):
            await ready
            await says(f"{url}/readyz", 200)
    assert "waiting for NATS" in caplog.text
    assert "hunter2" not in caplog.text


async def test_a_taken_port_is_named_with_its_option(nats_url: str, ledger_url: str) -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    config = BrokerConfig(nats_url=nats_url, postgres_url=ledger_url, name="b", http_port=port)

    with pytest.raises(CannotListen, match=f"--http-port {port}: Address already in use"):
        await serve(config, ready=lambda _: None)
    server.close()


@pytest.mark.usefixtures("servers")
async def test_a_broker_alive_through_an_outage_of_both_is_not_restarted(tmp_path: Path, nc: Nats) -> None:
    """Whoever asks /livez leaves it alone; whoever asks /readyz sends nothing there."""
    async with postgres_server(tmp_path / "pg", durable=False) as postgres_url:
        await migrate(postgres_url)
        async with nats_server(tmp_path / "nats") as nats_url:
            starting = a_broker(nats_url, postgres_url, nc)
            running = await starting.__aenter__()
    try:
        await says(f"{running.url}/readyz", 503, lambda state: not any(one["ok"] for one in state["doors"].values()))
        assert (await seen(f"{running.url}/livez"))[0] == 200
    finally:
        await starting.__aexit__(None, None, None)
