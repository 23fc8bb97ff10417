"""What the doctor finds, and how soon, whatever is wrong with the servers."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker.cli.doctor import Finding, Grade, Known, examine
from broker.local.servers import nats_server
from tests.real.test_starting_degraded import free_port

pytestmark = pytest.mark.real
SOON_S = 5.0


async def found(nats_url: str | None = None, postgres_url: str | None = None) -> dict[str, Finding]:
    began = time.monotonic()
    findings = await examine(Known(nats_url=nats_url, postgres_url=postgres_url, data=None))
    assert time.monotonic() - began < SOON_S
    assert "hunter2" not in str(findings)
    return {finding.name: finding for finding in findings}


@asynccontextmanager
async def a_silent_server() -> AsyncIterator[int]:
    """Takes connections and says nothing, like one that is stopped."""
    over = asyncio.Event()

    async def wait(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    server = await asyncio.start_server(wait, "127.0.0.1", 0)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        over.set()
        server.close()


async def test_servers_that_are_not_there_are_found_missing_soon() -> None:
    port = free_port()

    findings = await found(f"nats://u:hunter2@127.0.0.1:{port}", f"postgresql://u:hunter2@127.0.0.1:{port}/x")

    assert findings["NATS"].grade is findings["Postgres"].grade is Grade.BAD
    assert f"127.0.0.1:{port}" in findings["NATS"].seen
    assert "Connect call failed" in findings["NATS"].seen
    assert f"127.0.0.1:{port}" in findings["Postgres"].seen


async def test_servers_that_hang_are_found_soon() -> None:
    async with a_silent_server() as port:
        findings = await found(f"nats://u:hunter2@127.0.0.1:{port}", f"postgresql://u:hunter2@127.0.0.1:{port}/x")

    assert findings["NATS"].grade is findings["Postgres"].grade is Grade.BAD


async def test_a_refused_password_is_said_and_not_shown(tmp_path: Path) -> None:
    async with nats_server(tmp_path, settings='authorization { user: "u", password: "right" }\n') as url:
        findings = await found(url.replace("//", "//u:hunter2@"))

    assert findings["NATS"].grade is Grade.BAD
    assert "uthorization" in findings["NATS"].seen


async def test_a_server_without_jetstream_is_found_soon(tmp_path: Path) -> None:
    async with nats_server(tmp_path, settings="jetstream: disabled\n") as url:
        findings = await found(url)

    assert findings["JetStream"].grade is Grade.BAD


async def test_without_a_broker_everything_else_is_examined(nats_url: str, ledger_url: str) -> None:
    findings = await found(nats_url, ledger_url)

    assert findings["broker"].grade is Grade.BAD
    assert findings["NATS"].grade is findings["Postgres"].grade is findings["sums"].grade is Grade.OK
