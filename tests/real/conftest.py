"""A broker with a worker, as most tests of the API over HTTP need it. A module that needs another makes its own."""

from collections.abc import AsyncIterator

import aiohttp
import pytest

from schemas.jetstream.client import NatsClient as Nats
from tests.real.test_broker import Running, a_broker, a_worker


@pytest.fixture
async def broker(nats_url: str, ledger_url: str, nc: Nats) -> AsyncIterator[Running]:
    async with a_broker(nats_url, ledger_url, nc) as running, a_worker(nc):
        await running.has_a_worker()
        yield running


@pytest.fixture
async def http(broker: Running) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(broker.api) as session:
        yield session
