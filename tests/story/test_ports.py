"""The ports of `infermq up`: the same each time, and others for a second one beside it."""

import asyncio
import contextlib
import os
import socket
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from broker.client import Client
from broker.config import PORT, UpConfig
from broker.local.servers import is_free
from broker.local.up import Up, running
from tests.system import a_catalog_file, infermq, until

pytestmark = [pytest.mark.story, pytest.mark.commands]


@pytest.fixture
def port() -> int:
    """The first of four that are free, below those that Linux gives to outgoing connections.

    Processes that run this at once begin far from each other, since a port that is free now may be the other's soon.
    """
    first = 20_000 + os.getpid() % 200 * 50
    return next(port for port in range(first, 32_000) if all(map(is_free, range(port, port + 4))))


@contextlib.asynccontextmanager
async def an_up(folder: Path, port: int, said: list[str]) -> AsyncIterator[Up]:
    folder.mkdir(exist_ok=True)
    config = UpConfig(data=folder / "data", catalog=a_catalog_file(folder), port=port)
    async with running(config, said.append) as up:
        yield up


def ports_of(up: Up) -> list[int | None]:
    info = up.info()
    return [urlsplit(url).port for url in (info.nats_url, info.api, info.broker_http, *info.workers.values())]


async def is_healthy(port: int) -> bool:
    def look() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    return await asyncio.to_thread(look)


async def test_the_ports_follow_each_other_and_a_restarted_child_has_its_own_again(tmp_path: Path, port: int) -> None:
    said: list[str] = []
    async with an_up(tmp_path, port, said) as up:
        before = up.pids()["broker"]

        assert ports_of(up) == [port, port + 1, port + 2, port + 3]

        os.kill(before, 9)

        async def is_back() -> bool:
            return up.pids()["broker"] != before and await is_healthy(port + 2)

        await until(is_back, "the broker serves HTTP on its port again")
    assert not [line for line in said if "is taken" in line]


async def test_two_that_start_at_once_both_run_and_one_says_that_it_took_other_ports(
    tmp_path: Path, port: int
) -> None:
    said: list[list[str]] = [[], []]
    async with contextlib.AsyncExitStack() as stack:
        both = [an_up(tmp_path / name, port, lines) for name, lines in zip("ab", said, strict=True)]
        ups = await asyncio.gather(*(stack.enter_async_context(one) for one in both))

        ports = [ports_of(up) for up in ups]
        for up in ups:
            async with Client.connect(up.nats_url, api_key=up.api_key) as client:
                assert (await client.infer("m", {"messages": [{"role": "user", "content": "Hello."}]})).text()

    assert [port, port + 1, port + 2, port + 3] in ports
    assert not set(ports[0]) & set(ports[1])
    [line] = [line for line in said[0] + said[1] if "is taken" in line]
    assert f"port {port} is taken: NATS listens at nats://127.0.0.1:" in line


async def test_a_single_port_that_is_taken_is_replaced_and_said_so(tmp_path: Path, port: int) -> None:
    said: list[str] = []
    with socket.create_server(("127.0.0.1", port + 1)):
        async with an_up(tmp_path, port, said) as up:
            nats_port, api_port, broker_port, worker_port = ports_of(up)

    assert (nats_port, broker_port, worker_port) == (port, port + 2, port + 3)
    assert api_port not in {port, port + 1, port + 2, port + 3}
    assert f"port {port + 1} is taken: broker listens on another" in said


def test_the_default_port_is_in_the_help() -> None:
    assert str(PORT) in infermq("up", "--help").stdout
