"""Files that cannot run: the answer names line and field, nothing is an error of the server, and memory is bounded."""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from schemas.endpoints import CHAT
from schemas.jetstream.client import NatsClient as Nats
from tests.malformed import LINE, MALFORMED, Malformed
from tests.real.test_broker import a_broker

pytestmark = [pytest.mark.real, pytest.mark.commands, pytest.mark.timeout(200)]
GOOD = json.dumps({**LINE, "custom_id": "good"}).encode()
PLACES = {
    "alone": (b"", b"", 1),
    "after a good line": (GOOD + b"\n", b"\n", 2),
    "among blank lines": (b"\xef\xbb\xbf\r\n \n" + GOOD + b"\r\n\n", b"\r\n\n", 5),
}
"""What stands before and after a bad line, and its number."""
AT_ONCE = 8


@pytest.fixture
async def http(nats_url: str, ledger_url: str, nc: Nats) -> AsyncIterator[aiohttp.ClientSession]:
    async with a_broker(nats_url, ledger_url, nc) as running, aiohttp.ClientSession(running.api) as session:
        yield session


async def failed(http: aiohttp.ClientSession, content: bytes) -> dict[str, Any]:
    """Make a batch of a file, and wait until it has failed."""
    form = aiohttp.FormData()
    form.add_field("purpose", "batch")
    form.add_field("file", io.BytesIO(content), filename="in.jsonl")
    async with http.post("/v1/files", data=form) as response:
        assert response.status == 200, await response.text()
        file = (await response.json())["id"]
    ask = {"input_file_id": file, "endpoint": CHAT.path, "completion_window": "24h"}
    async with http.post("/v1/batches", json=ask) as response:
        assert response.status == 200, await response.text()
        batch: dict[str, Any] = await response.json()
    while batch["status"] == "validating":
        await asyncio.sleep(0.05)
        async with http.get(f"/v1/batches/{batch['id']}") as response:
            assert response.status == 200, await response.text()
            batch = await response.json()
    return batch


def expected(bad: Malformed, content: bytes) -> set[str]:
    """A line that is no JSON may be the cut end of a file."""
    is_last = not content.endswith(b"\n")
    return {bad.code, "truncated"} if bad.code == "not_json" and is_last else {bad.code}


async def test_what_is_wrong_with_a_line_is_said_wherever_it_stands(http: aiohttp.ClientSession) -> None:
    limit = asyncio.Semaphore(AT_ONCE)
    wrong: list[object] = []

    async def check(bad: Malformed, before: bytes, after: bytes, line: int) -> None:
        content = before + bad.line + after
        async with limit:
            batch = await failed(http, content)
        [error] = batch["errors"]["data"]
        if (batch["status"], error["line"], error["param"]) != ("failed", line, bad.field):
            wrong.append((bad.what, line, batch["status"], error))
        elif error["code"] not in expected(bad, content):
            wrong.append((bad.what, line, error))

    await asyncio.gather(*(check(bad, *place) for bad in MALFORMED for place in PLACES.values()))

    assert wrong == []
    assert len(MALFORMED) * len(PLACES) >= 200
