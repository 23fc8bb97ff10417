"""Clients that mean it ill, against a system as a user starts it: others are answered, and nothing of them stays."""

import asyncio
import contextlib
import json
import os
import resource
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import psutil
import pytest

from broker.client import NoBroker, RequestRefused
from tests.front.sockets import Answer, Socket, a_request, connected
from tests.system import System, a_catalog_file, a_client, a_system, until

pytestmark = [pytest.mark.story, pytest.mark.commands, pytest.mark.slow, pytest.mark.timeout(180)]
CHAT = "/v1/chat/completions"
MANY = 5000
_MEGABYTE = 1024 * 1024
_RESTART_S = 5.0
"""Until `infermq up` has started a broker again, which is who says what runs."""
_SOON_S = 5.0
"""A request of a well-behaved client takes some milliseconds; tests run on busy machines."""


@pytest.fixture(autouse=True)
def limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERMQ_API_LIMITS", "head_s=2 body_s=2 unread_s=2")


@pytest.fixture
def files() -> Iterator[None]:
    """Let this process open enough of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < MANY + 500:
        pytest.skip(f"this process may open {hard} files only")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, MANY + 500), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def asking(system: System, *, stream: bool = False, tokens: int = 4, length: int | None = None) -> bytes:
    body = {
        "model": "m",
        "max_tokens": tokens,
        "stream": stream,
        "messages": [{"role": "user", "content": "Hello."}],
    }
    whole = a_request(CHAT, f"authorization: Bearer {system.api_key}", method="POST", body=json.dumps(body).encode())
    return whole if length is None else whole[:length]


async def asked(system: System) -> Answer:
    """Ask as a client that behaves, from an address of its own."""
    async with asyncio.timeout(_SOON_S), connected(system.info.api, source="127.0.0.77") as client:
        return await client.ask(asking(system))


def broker_of(system: System) -> psutil.Process:
    [broker] = system.children("broker", "serve")
    return broker


def connections(system: System) -> int:
    """How many the broker's API has."""
    port = urlsplit(system.info.api).port
    everyone = broker_of(system).net_connections("tcp")
    return sum(one.laddr.port == port and one.status != psutil.CONN_LISTEN for one in everyone)


async def are_free(system: System) -> None:
    async def none() -> bool:
        return connections(system) == 0

    await until(none, "no connection is left", within_s=60)


def metric(page: str, name: str) -> float:
    return sum(float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith(name))


@asynccontextmanager
async def opened(url: str, number: int, first: bytes = b"") -> AsyncIterator[list[socket.socket]]:
    """Open so many connections from ten addresses, and send something over each."""
    place = urlsplit(url)
    sockets: list[socket.socket] = []

    def open_all() -> None:
        for n in range(number):
            one = socket.create_connection((place.hostname, place.port), 10, (f"127.0.0.{2 + n % 10}", 0))
            sockets.append(one)
            with contextlib.suppress(ConnectionError):
                one.sendall(first)

    try:
        await asyncio.to_thread(open_all)
        yield sockets
    finally:
        for one in sockets:
            one.close()


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("first", [b"", a_request("/v1/models")], ids=["silent", "after_a_request"])
async def test_thousands_of_idle_connections_leave_room_for_others(tmp_path: Path, first: bytes) -> None:
    async with a_system(tmp_path / "data", a_catalog_file(tmp_path)) as system:
        before = broker_of(system).memory_info().rss
        async with opened(system.info.api, MANY, first):
            answers = [await asked(system) for _ in range(20)]
            held = connections(system)
            grown = broker_of(system).memory_info().rss - before
        await are_free(system)

    assert {answer.status for answer in answers} == {200}
    assert 4000 < held <= 4096 + 64 + 20
    assert grown < 150 * _MEGABYTE, grown


async def test_slow_heads_and_bodies_are_told_so_while_others_are_answered(tmp_path: Path) -> None:
    async with a_system(tmp_path / "data", a_catalog_file(tmp_path)) as system, AsyncExitStack() as stack:
        whole = asking(system)
        for begun in (whole[:40], whole[:-10]):
            slow = [await stack.enter_async_context(connected(system.info.api)) for _ in range(200)]
            for client in slow:
                await client.send(begun)
            answer = await asked(system)
            told = await asyncio.gather(*(client.answer() for client in slow))

            assert answer.status == 200
            assert {one.status for one in told} == {408}
        await stack.aclose()
        await are_free(system)


async def test_endless_bodies_and_heads_are_refused_while_others_are_answered(tmp_path: Path) -> None:
    async def pour(client: Socket, begin: bytes, more: bytes) -> bytes:
        hearing = asyncio.create_task(client.reader.read(65536))
        with contextlib.suppress(ConnectionError, RuntimeError):
            await client.send(begin)
            while not hearing.done():
                await client.send(more)
        with contextlib.suppress(ConnectionError):
            return await hearing
        return b""

    async with a_system(tmp_path / "data", a_catalog_file(tmp_path)) as system, AsyncExitStack() as stack:
        key = f"authorization: Bearer {system.api_key}"
        post = a_request(CHAT, key, method="POST")[:-2]
        kinds = [
            (post + b"transfer-encoding: chunked\r\n\r\n", b"10000\r\n" + b"x" * 65536 + b"\r\n", b" 413 "),
            (post + b"content-length: 99999999999\r\n\r\n", b"x" * 65536, b" 413 "),
            (post, b"x-more: " + b"y" * 8000 + b"\r\n", b" 431 "),
            (b"GET /", b"z" * 65536, b" 431 "),
        ]
        before = broker_of(system).memory_info().rss
        pouring = [
            asyncio.create_task(pour(await stack.enter_async_context(connected(system.info.api)), begin, more))
            for begin, more, _ in kinds * 5
        ]
        answers = [await asked(system) for _ in range(5)]
        said = await asyncio.gather(*pouring)
        grown = broker_of(system).memory_info().rss - before
        await stack.aclose()
        await are_free(system)

    assert {answer.status for answer in answers} == {200}
    heard = [(told[:30], status) for told, (_, _, status) in zip(said, kinds * 5, strict=True) if told]
    assert heard
    assert all(status in told for told, status in heard), heard
    assert grown < 100 * _MEGABYTE, grown


async def test_who_stops_reading_a_stream_harms_nobody_and_is_cut(tmp_path: Path) -> None:
    catalog = a_catalog_file(tmp_path, slots=64, options="output_tokens = 4096\ndecode_tokens_per_s = 1500")
    longer = {
        "[models.m]": "[models.m]\nmax_output_tokens = 4096",
        "reserve = 4": "reserve = 4\ncontext_tokens = 9000",
    }
    for old, new in longer.items():
        catalog.write_text(catalog.read_text().replace(old, new))
    async with a_system(tmp_path / "data", catalog) as system, AsyncExitStack() as stack:
        before = broker_of(system).memory_info().rss
        place = urlsplit(system.info.api)
        deaf = [stack.enter_context(socket.socket()) for _ in range(4)]
        for one in deaf:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.connect((place.hostname, place.port))
            one.sendall(asking(system, stream=True, tokens=4096) * 8)  # more than the system keeps for a socket
        answers = [await asked(system) for _ in range(20)]

        await are_free(system)
        grown = broker_of(system).memory_info().rss - before
        assert {answer.status for answer in answers} == {200}
        assert metric(await page(system), 'infermq_http_cut_total{reason="unread"}') == len(deaf)
        assert kept_for(system) == 0
        assert grown < 150 * _MEGABYTE, grown
        await until(lambda: nothing_runs(system), "all slots are free")


def kept_for(system: System) -> int:
    """The sockets whose data the system still keeps though their owner has closed them."""
    port = urlsplit(system.info.api).port
    ended = {psutil.CONN_FIN_WAIT1, psutil.CONN_CLOSING, psutil.CONN_LAST_ACK}
    return sum(
        one.status in ended and bool(one.laddr) and one.laddr.port == port for one in psutil.net_connections("tcp")
    )


async def page(system: System) -> str:
    async with connected(system.info.broker_http) as client:
        return (await client.ask(a_request("/metrics"))).body.decode()


async def nothing_runs(system: System) -> bool:
    with contextlib.suppress(RequestRefused, NoBroker):  # while a broker starts
        async with a_client(system) as client:
            return all(worker.running == 0 for worker in (await client.status()).workers)
    return False


async def test_a_killed_broker_ends_its_streams_and_their_requests_are_recorded(tmp_path: Path) -> None:
    catalog = a_catalog_file(tmp_path, slots=256, options="output_tokens = 400\ndecode_tokens_per_s = 20")
    async with a_system(tmp_path / "data", catalog) as system, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(system.info.api)) for _ in range(200)]
        for client in clients:
            await client.send(asking(system, stream=True, tokens=400))
        for client in clients:
            assert b" 200 " in await client.reader.readuntil(b"\r\n")
            await client.reader.readuntil(b"data: ")
        os.kill(broker_of(system).pid, signal.SIGKILL)
        loop = asyncio.get_running_loop()
        began = loop.time()
        said = await asyncio.gather(*(client.ended(_SOON_S) for client in clients))

        assert not [one for one in said if b"[DONE]" in one]
        await until(lambda: nothing_runs(system), "all slots are free", within_s=15)
        took_s = loop.time() - began
        assert took_s < 5 + _RESTART_S, took_s
        assert (await asked(system)).status == 200
        await until(lambda: are_recorded(system, 201), "all are recorded")


async def are_recorded(system: System, number: int) -> bool:
    """Whether the ledger has the end of so many jobs, and no other."""
    database = await asyncpg.connect(system.info.postgres_url)
    try:
        states = await database.fetch("select state, count(*) from infermq.jobs group by 1")
    finally:
        await database.close()
    return {row["state"] for row in states} <= {"succeeded", "failed"} and sum(
        row["count"] for row in states
    ) == number
