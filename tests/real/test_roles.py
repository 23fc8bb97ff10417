"""Brokers that do a part of the work each, and the whole of it together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import aiohttp
import pytest
from nats.errors import NoRespondersError

from broker.client import Client
from broker.config import BrokerConfig, BrokerRole
from broker.serve import Addresses, serve
from schemas import subjects
from schemas.api import State
from schemas.jetstream.client import NatsClient as Nats
from schemas.subjects import Verb
from tests.builders import an_id
from tests.real.test_broker import SCRIPT, Running, a_worker
from tests.system import CATALOG

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]


@asynccontextmanager
async def a_broker_for(nats_url: str, ledger_url: str, *roles: BrokerRole) -> AsyncIterator[Addresses]:
    ready: asyncio.Future[Addresses] = asyncio.get_running_loop().create_future()
    config = BrokerConfig(nats_url=nats_url, postgres_url=ledger_url, name=f"b-{an_id()}", roles=frozenset(roles))
    serving = asyncio.create_task(serve(config, ready=ready.set_result))
    serving.add_done_callback(lambda _: ready.done() or ready.cancel())
    try:
        yield await ready
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def test_a_broker_for_http_alone_answers_there_and_another_records_it(
    nats_url: str, ledger_url: str, nc: Nats
) -> None:
    async with a_broker_for(nats_url, ledger_url, BrokerRole.HTTP) as front, a_worker(nc):
        with pytest.raises(NoRespondersError):
            await nc.request(subjects.api(Verb.STATUS, "default", "default"), b"{}", timeout=2)
        others = set(BrokerRole) - {BrokerRole.HTTP}
        async with (
            a_broker_for(nats_url, ledger_url, *others) as rest,
            Client.connect(nats_url) as client,
            aiohttp.ClientSession() as http,
        ):
            await client.apply_catalog(CATALOG.format(slots=4, options=SCRIPT))
            running = Running(nc, client, ledger_url, rest.http)
            await running.has_a_worker()
            body = {"model": "m", "messages": [{"role": "user", "content": "Hi."}]}
            async with http.post(f"{front.api}/v1/chat/completions", json=body) as response:
                assert response.status == 200, await response.text()
            job = await running.ended(UUID(response.headers["x-request-id"]))
            async with http.get(f"{front.http}/readyz") as ready, http.get(f"{rest.http}/readyz") as other:
                doors = set((await ready.json())["doors"]), set((await other.json())["doors"])

    assert job.state is State.SUCCEEDED
    assert doors == ({"http"}, {"infer", "api", "submit"})
    assert rest.api == ""
