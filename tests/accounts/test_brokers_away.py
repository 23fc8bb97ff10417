"""Who has a key is let in while any broker runs, also one that starts while Postgres is away; who had one is not."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from broker.client import Client, RequestRefused
from broker.errors import Unavailable
from broker.ledger import migrate, open_ledger
from broker.local.secrets import write_secret
from broker.local.servers import postgres_server
from schemas.api_keys import ApiKey
from tests.accounts.nats import a_guarded_nats
from tests.accounts.walked import ADA, ANN, BOB, OPS, _make_accounts
from tests.builders import now
from tests.system import until

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]
SECRET = "dGhlIHNlY3JldCBvZiB0aGUgYnJva2Vycywgb2YgaXQ="  # noqa: S105 - that of tests.accounts.nats.KEYS


@asynccontextmanager
async def a_broker(
    folder: Path, nats_url: str, postgres_url: str, name: str
) -> AsyncIterator["subprocess.Popen[bytes]"]:
    """Run a broker in a process of its own until it is ready, and then until it is killed."""
    write_secret(folder / "nats.key", SECRET)
    urls = {"INFERMQ_NATS_URL": nats_url, "INFERMQ_POSTGRES_URL": postgres_url}
    command = [sys.executable, "-m", "broker", "serve", "--name", name, "--json"]
    env = {**os.environ, **urls, "INFERMQ_NATS_KEY_FILE": str(folder / "nats.key")}
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=log)  # noqa: ASYNC220 - it is ended
        try:
            assert process.stdout is not None
            assert b"ready" in await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), 60)
            yield process
        finally:
            process.kill()
            process.communicate()


async def lets_in(url: str, key: ApiKey) -> bool:
    try:
        async with Client.connect(url, api_key=key.text()):
            return True
    except RequestRefused:
        return False


async def answers(client: Client) -> bool:
    try:
        await client.batches()
    except Unavailable:
        return False
    return True


async def test_whoever_is_in_stays_in_and_whoever_comes_is_known_while_a_broker_or_its_copy_is_there(
    tmp_path: Path,
) -> None:
    async with a_guarded_nats(tmp_path / "nats") as url, AsyncExitStack() as postgres, AsyncExitStack() as stack:
        place = await postgres.enter_async_context(postgres_server(tmp_path / "pg", durable=False))
        await migrate(place)
        async with open_ledger(place, clock=now) as ledger:
            await _make_accounts(ledger)
        first = await stack.enter_async_context(a_broker(tmp_path, url, place, "first"))
        second = await stack.enter_async_context(a_broker(tmp_path, url, place, "second"))
        ann = await stack.enter_async_context(Client.connect(url, api_key=ANN.key.text()))
        async with Client.connect(url, api_key=OPS.key.text()) as ops:
            await ops.revoke_key(BOB.key.id, tenant="bobs")

        first.kill()  # one of two brokers
        first.wait()
        await until(lambda: answers(ann), "the other one answers")  # what the dead one had taken gets none
        for _ in range(5):
            assert await lets_in(url, ADA.key)
        assert not await lets_in(url, BOB.key)

        await postgres.aclose()  # Postgres too
        for _ in range(3):
            assert await lets_in(url, ADA.key)
        assert not await lets_in(url, BOB.key)
        assert ann.nats.is_connected

        second.kill()  # all brokers
        assert not await lets_in(url, ADA.key)
        assert ann.nats.is_connected

        await stack.enter_async_context(a_broker(tmp_path, url, place, "third"))  # one that knows the copy only
        await until(lambda: lets_in(url, ADA.key), "who has a key is let in", within_s=20)
        assert not await lets_in(url, BOB.key)
        assert ann.nats.is_connected
        assert ann.nats.reconnects == 0
