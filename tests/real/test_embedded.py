"""The servers that we bring along, as children that never outlive us."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import asyncpg
import nats
import psutil
import pytest

from broker.local.servers import nats_server, postgres_server

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("servers")]
PARENT = """
import asyncio, sys
from pathlib import Path
from broker.local.servers import nats_server, postgres_server

async def main():
    folder = Path(sys.argv[1])
    async with nats_server(folder / "nats"), postgres_server(folder / "pg", durable=False):
        print("ready", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_what_is_stored_is_there_after_a_restart(tmp_path: Path) -> None:
    async with nats_server(tmp_path / "nats") as nats_url, postgres_server(tmp_path / "pg", durable=False) as url:
        nc = await nats.connect(nats_url)
        await nc.jetstream().add_stream(name="S", subjects=["s"])
        await nc.jetstream().publish("s", b"kept")
        await nc.close()
        connection = await asyncpg.connect(url)
        await connection.execute("create table t as select 5 as n")
        await connection.close()

    async with nats_server(tmp_path / "nats") as nats_url, postgres_server(tmp_path / "pg", durable=False) as url:
        nc = await nats.connect(nats_url)
        message = await nc.jetstream().get_msg("S", 1)
        await nc.close()
        connection = await asyncpg.connect(url)
        number = await connection.fetchval("select n from t")
        await connection.close()

    assert (message.data, number) == (b"kept", 5)


def _killed_parent(folder: Path) -> list[psutil.Process]:
    """A parent, killed once its servers ran; those servers."""
    command = [sys.executable, "-c", PARENT, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        servers: list[psutil.Process] = psutil.Process(parent.pid).children(recursive=True)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    return servers


async def test_a_killed_parent_takes_its_servers_along_and_they_start_again(tmp_path: Path) -> None:
    servers = await asyncio.to_thread(_killed_parent, tmp_path)

    _, alive = psutil.wait_procs(servers, timeout=10)

    assert len(servers) > 2
    assert not alive
    async with nats_server(tmp_path / "nats"), postgres_server(tmp_path / "pg", durable=False) as url:
        connection = await asyncpg.connect(url)
        assert await connection.fetchval("select 1") == 1
        await connection.close()


async def test_nothing_is_left_when_they_stop(tmp_path: Path) -> None:
    before = {child.pid for child in psutil.Process(os.getpid()).children(recursive=True)}
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(nats_server(tmp_path / "nats"))
        url = await stack.enter_async_context(postgres_server(tmp_path / "pg", durable=False))
        during = {child.pid for child in psutil.Process(os.getpid()).children(recursive=True)}

    after = {child.pid for child in psutil.Process(os.getpid()).children(recursive=True)}
    assert during - before
    assert not after - before
    assert not Path(url.rpartition("host=")[2]).exists()
