"""One suite over the memory server and over a real one: where they differ, the memory server is wrong."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import nats
import pytest

from broker.simulate.nats.connection import MemoryConnection
from broker.simulate.nats.link import DirectLink
from broker.simulate.nats.server import Server
from broker.simulate.timers import LoopTimers
from schemas.jetstream import NatsConnection
from schemas.jetstream.client import NatsClient
from tests.builders import now
from tests.contract.nats.ways import PULL, MemoryWay, RealWay, Way
from tests.proxy import a_proxy


class Bus(Protocol):
    """A server that others can connect to."""

    async def connect(self, **options: Any) -> NatsConnection: ...


class MemoryBus:
    def __init__(self, server: Server, ids: Callable[[], str]) -> None:
        self.server = server
        self.ids = ids
        self.opened: list[MemoryConnection] = []

    async def connect(self, **options: Any) -> MemoryConnection:
        connection = MemoryConnection(self.server, DirectLink(), ids=self.ids)
        self.opened.append(connection)
        await connection.connect(**options)
        return connection


class RealBus:
    def __init__(self, url: str) -> None:
        self._url = url
        self.opened: list[NatsClient] = []

    async def connect(self, **options: Any) -> NatsClient:
        connection = NatsClient()
        self.opened.append(connection)
        await connection.connect(self._url, **options)
        return connection


def memory_server() -> Server:
    timers = LoopTimers(asyncio.get_running_loop(), wall_ns=now() * 1_000_000)
    return Server(timers, unit=random.Random(1).random)  # noqa: S311 - the same at each run


@pytest.fixture
async def memory_bus() -> AsyncIterator[MemoryBus]:
    counted = itertools.count()
    bus = MemoryBus(memory_server(), lambda: f"{next(counted):022d}")
    yield bus
    for one in bus.opened:
        await one.close()


@pytest.fixture(params=["memory", pytest.param("real", marks=pytest.mark.real)])
def real_url(request: pytest.FixtureRequest) -> str | None:
    """The URL of a real server; None: it is the memory server's turn."""
    return None if request.param == "memory" else str(request.getfixturevalue("servers")[0])


@pytest.fixture
async def bus(real_url: str | None, memory_bus: MemoryBus) -> AsyncIterator[Bus]:
    if real_url is None:
        yield memory_bus
        return
    real = RealBus(real_url)
    yield real
    for one in real.opened:
        await one.close()
    nc = await nats.connect(real_url)
    js = nc.jetstream()
    for stream in await js.streams_info():
        await js.delete_stream(str(stream.config.name))
    await nc.close()


@pytest.fixture
async def nc(bus: Bus) -> NatsConnection:
    return await bus.connect()


@pytest.fixture
async def way(real_url: str | None, memory_bus: MemoryBus) -> AsyncIterator[Way]:
    """A way to the server that may lose what it carries."""
    if real_url is None:
        losing: Way = MemoryWay(memory_bus.server, memory_bus.ids)
        yield losing
        await losing.close()
        return
    async with a_proxy(real_url, watched=PULL.encode()) as proxy:
        losing = RealWay(proxy)
        yield losing
        await losing.close()
