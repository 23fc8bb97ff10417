"""Real servers: one NATS and one Postgres for the whole run, a clean state for each test."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import nats
import pytest
from hypothesis import settings

from broker.errors import Unavailable
from broker.ledger import migrate, open_ledger
from broker.local.servers import nats_server, postgres_server
from broker.ports import Ledger
from schemas.jetstream.client import NatsClient
from tests.builders import SEAL_KEY, now
from tests.ram import a_folder_in_ram
from tests.s3 import S3, s3_server
from tests.sums import check_sums

settings.register_profile("steady", deadline=None, print_blob=True)
settings.load_profile("steady")


class Servers:
    """Runs the servers' event loop in step with the tests: started once, stopped at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()

    def start(self) -> tuple[str, str]:
        return self.runner.run(self._start())

    async def _start(self) -> tuple[str, str]:
        nats_url = await self.stack.enter_async_context(nats_server(self.folder / "nats"))
        url = os.environ.get("INFERMQ_POSTGRES_URL")
        if url is None:
            url = await self.stack.enter_async_context(postgres_server(self.folder / "pg", durable=False))
        await migrate(url)
        async with open_ledger(url, clock=now) as ledger:
            await ledger.days.keep()
            await ledger.seal_keys.agree(SEAL_KEY)
        return nats_url, url

    def stop(self) -> None:
        self.runner.run(self.stack.aclose())
        self.runner.close()


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    with a_folder_in_ram(otherwise=tmp_path_factory.mktemp("servers")) as folder:
        running = Servers(folder)
        try:
            urls = running.start()
        except Unavailable as error:
            running.stop()
            if os.environ.get("CI"):
                raise
            pytest.skip(str(error))
        try:
            yield urls
        finally:
            running.stop()


@pytest.fixture(scope="session")
def s3_running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def s3(s3_running: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    """A server of buckets, which is reached by the environment."""
    for name, value in s3_running.environ.items():
        monkeypatch.setenv(name, value)
    return s3_running


@pytest.fixture
async def nats_url(servers: tuple[str, str]) -> AsyncIterator[str]:
    """A NATS server without streams."""
    url = servers[0]
    yield url
    nc = await nats.connect(url)
    js = nc.jetstream()
    while streams := await js.streams_info():
        for stream in streams:
            await js.delete_stream(str(stream.config.name))
    await nc.close()


@pytest.fixture
async def nc(nats_url: str) -> AsyncIterator[NatsClient]:
    connection = NatsClient()
    await connection.connect(nats_url)
    yield connection
    await connection.close()


@pytest.fixture
async def ledger_url(servers: tuple[str, str]) -> AsyncIterator[str]:
    """A migrated database of the test's own. What it holds in the end must agree with itself."""
    async with a_database(servers[1]) as url:
        yield url


@asynccontextmanager
async def a_database(base: str) -> AsyncIterator[str]:
    """A copy of the migrated database at this address. What it holds in the end must agree with itself."""
    parts = urlsplit(base)
    name = f"test_{os.getpid()}_{os.urandom(4).hex()}"
    admin = await asyncpg.connect(urlunsplit(parts._replace(path="/postgres")))
    await admin.execute(f'create database "{name}" template "{parts.path.lstrip("/")}" strategy file_copy')
    url = urlunsplit(parts._replace(path=f"/{name}"))
    try:
        yield url
        await check_sums(url)
    finally:
        await admin.execute(f'drop database "{name}" with (force)')
        await admin.close()


@pytest.fixture
async def ledger(ledger_url: str) -> AsyncIterator[Ledger]:
    async with open_ledger(ledger_url, clock=now, connections=6) as opened:
        yield opened
