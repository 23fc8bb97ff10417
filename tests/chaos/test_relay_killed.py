"""A broker is killed while it streams answers: slots come free soon, and every job is recorded."""

import asyncio
import contextlib
import json
from pathlib import Path

import asyncpg
import pytest

from broker.client import Client, RequestRefused, RequestTimedOut
from broker.errors import Unavailable
from tests.system import a_catalog_file, a_client, a_system, among_brokers, until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(150)]
STREAMS = 200
ENDLESS = "decode_tokens_per_s = 4.0\noutput_tokens = 4000"
SOON_S = 5.0


async def read(client: Client, begun: asyncio.Queue[None]) -> None:
    """Read a stream that ends with its broker."""
    body = {"messages": [{"role": "user", "content": "x"}], "stream": True, "max_tokens": 400}
    is_first = True
    with contextlib.suppress(RequestRefused, RequestTimedOut, Unavailable):
        async for _ in client.infer_stream("m", body, timeout_s=100):
            if is_first:
                begun.put_nowait(None)
            is_first = False


async def test_a_killed_broker_leaves_no_slot_taken_and_no_job_unrecorded(tmp_path: Path) -> None:
    catalog = a_catalog_file(tmp_path, slots=STREAMS, options=ENDLESS)
    async with a_system(tmp_path / "data", catalog) as system, a_client(system) as client:
        begun: asyncio.Queue[None] = asyncio.Queue()
        readers = [asyncio.create_task(read(client, begun)) for _ in range(STREAMS)]
        for _ in range(STREAMS):
            await asyncio.wait_for(begun.get(), 60)
        [broker] = system.children("serve")

        broker.kill()
        killed = asyncio.get_running_loop().time()

        async def runs_nothing() -> bool:
            async with among_brokers(system) as nc:
                beats = await nc.jetstream().key_value("INFERMQ_WORKERS")
                keys = await beats.keys()
                running = [json.loads((await beats.get(key)).value or b"")["running"] for key in keys]
                return not any(running)

        await until(runs_nothing, "every slot is free", within_s=60)
        took = asyncio.get_running_loop().time() - killed
        assert took < SOON_S + 1, took  # a beat may be a second old
        connection = await asyncpg.connect(system.info.postgres_url)
        try:

            async def all_recorded() -> bool:
                found = await connection.fetch("select state, count(*) as n from infermq.jobs group by state")
                return {row["state"]: row["n"] for row in found} == {"failed": STREAMS}

            await until(all_recorded, "every job is recorded", within_s=60)
            kinds = await connection.fetch("select distinct failure from infermq.executions")
            assert [row["failure"] for row in kinds] == ["relay_lost"]
        finally:
            await connection.close()
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
