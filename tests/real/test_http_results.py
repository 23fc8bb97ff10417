"""Results of a batch over HTTP while it runs: by the page, and as a stream that can be gone on with."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from typing import Any, NamedTuple

import aiohttp
import pytest

from broker.client import Submission
from broker.doors.http.events import EventStream
from broker.service.refusal import Refusal
from schemas.api import Problem
from schemas.jetstream.client import NatsClient as Nats
from tests.builders import a_job, an_id
from tests.real.test_broker import Running, a_broker
from tests.real.test_http_files import a_line, ended, got, made

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]
EVENTS = {"accept": "text/event-stream"}


class Event(NamedTuple):
    name: str
    id: str
    data: dict[str, Any]


async def events(
    http: aiohttp.ClientSession, batch: str, *, after: str | None = None, query: str = ""
) -> AsyncGenerator[Event]:
    """Read a stream to its end."""
    headers = EVENTS if after is None else {**EVENTS, "last-event-id": after}
    async with http.get(f"/v1/batches/{batch}/results{query}", headers=headers) as response:
        assert response.status == 200, await response.text()
        assert response.content_type == "text/event-stream"
        fields: dict[str, str] = {}
        async for line in response.content:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name:
                fields[name] = value
            elif "data" in fields:
                yield Event(fields["event"], fields.get("id", ""), json.loads(fields["data"]))
                fields = {}


async def test_results_are_streamed_while_a_batch_runs_and_the_end_is_told(http: aiohttp.ClientSession) -> None:
    lines = [*(a_line(n) for n in range(20)), a_line(20, "wrong"), a_line(21, "never")]
    batch = await made(http, requests=lines)

    read = [event async for event in events(http, batch["id"])]

    *results, end = read
    assert [event.name for event in read] == ["result"] * 22 + ["end"]
    assert [int(event.id) for event in results] == list(range(1, 23))
    written = {event.data["custom_id"]: event.data for event in results}
    assert written.keys() == {f"c{n}" for n in range(22)}
    batch = await ended(http, batch)
    for file in (batch["output_file_id"], batch["error_file_id"]):
        for line in map(json.loads, (await got(http, f"/v1/files/{file}/content"))[1].splitlines()):
            assert written[line["custom_id"]] == line
    assert (end.data["batch_id"], end.data["cursor"]) == (batch["infermq"]["id"], "22")
    async with http.get(f"/v1/batches/{batch['id']}/results", headers={**EVENTS, "last-event-id": end.id}) as again:
        assert again.status == 204


async def test_who_comes_back_goes_on_after_the_last_event_that_came(http: aiohttp.ClientSession) -> None:
    batch = await made(http, requests=[a_line(n) for n in range(30)])
    read: list[Event] = []
    while not read or read[-1].name != "end":
        stream = events(http, batch["id"], after=read[-1].id if read else None)
        async for event in stream:
            read.append(event)
            if len(read) % 7 == 0:
                break
        await stream.aclose()

    assert [event.id for event in read] == [*map(str, range(1, 31)), "30-end"]
    assert {event.data["custom_id"] for event in read[:-1]} == {f"c{n}" for n in range(30)}


async def test_a_stream_goes_on_at_another_broker_when_its_own_stops(
    http: aiohttp.ClientSession, nats_url: str, ledger_url: str, nc: Nats
) -> None:
    async with AsyncExitStack() as stack:
        async with a_broker(nats_url, ledger_url, nc) as other:
            there = await stack.enter_async_context(aiohttp.ClientSession(other.api))
            batch = await made(there, requests=[a_line(0), a_line(1, "hang")])
            stream = events(there, batch["id"])
            first = await anext(stream)
            rest = asyncio.create_task(_all(stream))
        [told] = await rest
    async with http.post(f"/v1/batches/{batch['id']}/cancel") as response:
        assert response.status == 200

    after = await _all(events(http, batch["id"], after=first.id))

    assert (first.data["custom_id"], told.name, told.data["error"]["code"]) == ("c0", "error", "broker_stopped")
    assert [(event.name, event.data.get("custom_id")) for event in after] == [("result", "c1"), ("end", None)]


async def _all(stream: AsyncGenerator[Event]) -> list[Event]:
    return [event async for event in stream]


async def test_a_stream_may_begin_at_the_end(http: aiohttp.ClientSession) -> None:
    batch = await made(http, requests=[*(a_line(n) for n in range(5)), a_line(5, "hang")])
    while json.loads((await got(http, f"/v1/batches/{batch['id']}"))[1])["request_counts"]["completed"] < 5:
        await asyncio.sleep(0.05)

    last_two = events(http, batch["id"], query="?tail=2")
    none = events(http, batch["id"], query="?tail=0")
    begun = [await anext(last_two), await anext(last_two)]
    waiting = asyncio.create_task(_all(none))
    async with http.post(f"/v1/batches/{batch['id']}/cancel") as response:
        assert response.status == 200

    assert [event.id for event in begun] == ["4", "5"]
    assert [event.id for event in await _all(last_two)] == ["6", "6-end"]
    assert [event.id for event in await waiting] == ["6", "6-end"]


async def test_results_come_by_the_page_too(http: aiohttp.ClientSession) -> None:
    batch = await made(http, requests=[a_line(n) for n in range(7)])
    found: list[dict[str, Any]] = []
    cursor, page = "0", dict[str, Any](completed=False)
    while not page["completed"]:
        path = f"/v1/batches/{batch['id']}/results?cursor={cursor}&limit=3&wait_s=20"
        page = json.loads((await got(http, path))[1])
        found += page["data"]
        cursor = page["cursor"]

    assert page["object"] == "list"
    assert {line["custom_id"] for line in found} == {f"c{n}" for n in range(7)}
    assert len(found) == 7
    assert all(line["response"]["status_code"] == 200 for line in found)


async def test_results_of_jobs_that_are_in_no_file_come_the_same_way(
    broker: Running, http: aiohttp.ClientSession
) -> None:
    batch = await broker.client.create_batch()
    job = an_id()
    await broker.client.submit_many([Submission("m", a_job(id=job, custom_id="a", batch=batch.id))])
    await broker.client.seal(batch.id, jobs=1)

    read = await _all(events(http, str(batch.id)))

    assert [event.data.get("id") for event in read] == [f"batch_req_{job.hex}", None]


@pytest.mark.parametrize(
    ("query", "status", "field"),
    [
        ("?cursor=x", 400, "cursor"),
        ("?tail=-1", 400, "tail"),
        ("?limit=0", 400, "limit"),
        ("?wait_s=61", 400, "wait_s"),
        ("?own=maybe", 400, "own"),
    ],
)
async def test_what_cannot_be_asked_of_results_is_named(
    http: aiohttp.ClientSession, query: str, status: int, field: str
) -> None:
    batch = await made(http, requests=[a_line(0)])

    async with http.get(f"/v1/batches/{batch['id']}/results{query}") as response:
        assert (response.status, (await response.json())["error"]["param"]) == (status, field)


@pytest.mark.parametrize("headers", [{}, EVENTS], ids=["page", "events"])
async def test_an_unknown_batch_has_no_results(http: aiohttp.ClientSession, headers: dict[str, str]) -> None:
    for name in ("x", "batch_01a21ad1672270008000000000000001"):
        async with http.get(f"/v1/batches/{name}/results", headers=headers) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (404, "unknown_batch")


class Client:
    """What a server calls for one client, which reads nothing until it is told to."""

    def __init__(self) -> None:
        self.reads = asyncio.Event()
        self.left = asyncio.Event()
        self.sent: list[dict[str, Any]] = []

    async def receive(self) -> dict[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            await self.reads.wait()
        self.sent.append(message)


class Counted:
    """Events, and how many were made."""

    def __init__(self, number: int) -> None:
        self.made = 0
        self.number = number
        self.has_ended = asyncio.Event()

    async def events(self) -> AsyncGenerator[bytes]:
        try:
            for _ in range(self.number):
                self.made += 1
                yield b"x"
        finally:
            self.has_ended.set()


async def test_nothing_is_read_ahead_for_a_client_that_does_not_read() -> None:
    client, counted = Client(), Counted(1000)
    answering = asyncio.create_task(EventStream(counted.events(), nullcontext())({}, client.receive, client.send))
    for _ in range(100):
        await asyncio.sleep(0)

    assert counted.made == 1
    client.reads.set()
    await answering
    assert b"".join(message.get("body", b"") for message in client.sent) == b"x" * 1000


async def test_a_client_that_leaves_ends_what_was_made_for_it() -> None:
    client, counted = Client(), Counted(1000)
    answering = asyncio.create_task(EventStream(counted.events(), nullcontext())({}, client.receive, client.send))
    for _ in range(10):
        await asyncio.sleep(0)
    client.left.set()

    await answering

    assert counted.has_ended.is_set()
    assert counted.made == 1


async def test_a_stream_whose_key_ended_before_it_began_says_so() -> None:
    client, counted = Client(), Counted(3)
    client.reads.set()

    async def refuse() -> None:
        raise Refusal(Problem("key_revoked", "the key was revoked"))

    @asynccontextmanager
    async def ended_key() -> AsyncIterator[None]:
        await refuse()
        yield

    await EventStream(counted.events(), ended_key())({}, client.receive, client.send)

    start, last = client.sent
    assert (start["type"], start["status"]) == ("http.response.start", 200)
    assert b"key_revoked" in last["body"]


async def test_a_stream_that_breaks_off_in_the_broker_says_so() -> None:
    async def broken() -> AsyncGenerator[bytes]:
        yield b"x"
        raise TimeoutError

    client = Client()
    client.reads.set()

    await EventStream(broken(), nullcontext())({}, client.receive, client.send)

    _, first, last = client.sent
    assert (first["body"], first["more_body"], last["more_body"]) == (b"x", True, False)
    assert b"internal" in last["body"]
