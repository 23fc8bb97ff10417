"""Large files over HTTP: an upload goes on where it was cut off, and a batch has all that is said of it."""

import asyncio
import hashlib
import io
import json
import random
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import asyncpg
import pytest

from broker.client import Client, RequestRefused
from broker.client.http_door import HttpDoor
from broker.client.http_files import HttpFiles
from broker.core.files import PIECE_BYTES
from broker.errors import Unavailable
from schemas.api import Batch, BatchStatus
from schemas.endpoints import CHAT, EMBEDDINGS
from schemas.files import Fault
from schemas.job import Lane
from schemas.listing import JobFilter
from tests.builders import an_id
from tests.proxy import Proxy, a_proxy
from tests.real.test_broker import Running

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]


@pytest.fixture
async def way(broker: Running) -> AsyncIterator[Proxy]:
    async with a_proxy(broker.api) as proxy:
        proxy.url = proxy.url.replace("nats:", "http:")
        yield proxy


@pytest.fixture
async def client(way: Proxy) -> AsyncIterator[Client]:
    async with Client.connect(way.url) as connected:
        yield connected


def a_line(name: str, **more: Any) -> dict[str, Any]:
    body = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": name}]}
    return {"custom_id": name, "method": "POST", "url": CHAT.path, "body": body, **more}


def a_file(*lines: dict[str, Any]) -> io.BytesIO:
    return io.BytesIO(b"".join(json.dumps(line).encode() + b"\n" for line in lines))


def a_large_file(lines: int) -> io.BytesIO:
    """Some 40 MB that no compression makes much smaller."""
    chance = random.Random(1)  # noqa: S311 - no secret
    return a_file(*(a_line(f"c{n}", x=chance.randbytes(100_000).hex()) for n in range(lines)))


def told(content: bytes, **more: int) -> dict[str, str]:
    """What the query of an upload says."""
    said = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content), **more}
    return {name: str(value) for name, value in said.items()}


async def put(http: aiohttp.ClientSession, body: Any, query: dict[str, str]) -> tuple[int, dict[str, Any]]:
    data = io.BytesIO(body) if isinstance(body, bytes) else body
    async with http.put("/v1/uploads", data=data, params=query) as response:
        return response.status, await response.json()


async def kept(http: aiohttp.ClientSession, content: bytes) -> dict[str, Any]:
    async with http.get("/v1/uploads", params=told(content)) as response:
        assert response.status == 200, await response.text()
        answer: dict[str, Any] = await response.json()
        return answer


async def ended(client: Client, batch: Batch) -> Batch:
    async for _ in client.results(batch.id):
        pass
    return await client.batch(batch.id)


async def test_an_upload_that_is_cut_off_goes_on_where_it_was(
    http: aiohttp.ClientSession, client: Client, way: Proxy, ledger_url: str
) -> None:
    begins: list[int] = []
    last = 0

    def sent(position: int) -> None:
        nonlocal last
        if position <= last or not begins:
            begins.append(position)
        last = position

    submitting = asyncio.create_task(client.submit_file(a_large_file(200), sent=sent))
    connection = await asyncpg.connect(ledger_url)
    for pieces in (10, 20, 30):
        while await connection.fetchval("select count(*) from infermq.blobs") < pieces:
            await asyncio.sleep(0.001)
        way.cut()
    batch = await submitting
    await connection.close()

    assert (await ended(client, batch)).counts.succeeded == 200
    assert begins[0] == 0
    assert begins[-1] >= 16 * PIECE_BYTES
    assert len(begins) >= 4
    async with http.get("/v1/files") as response:
        assert (await response.json())["data"] == []  # it went with its batch


async def test_only_whole_pieces_of_what_came_are_kept_and_the_digest_is_of_all(http: aiohttp.ClientSession) -> None:
    content = random.Random(2).randbytes(3 * PIECE_BYTES + 5)  # noqa: S311 - no secret

    async def cut_off() -> AsyncIterator[bytes]:
        yield content[: 2 * PIECE_BYTES + 100]

    status, short = await put(http, cut_off(), told(content))
    there = await kept(http, content)
    wrong = await put(http, content[PIECE_BYTES:], told(content, offset=PIECE_BYTES))
    done = await put(http, content[2 * PIECE_BYTES :], told(content, offset=2 * PIECE_BYTES))
    again = await put(http, b"", told(content))
    async with http.get(f"/v1/files/{done[1]['id']}/content") as response:
        whole = await response.read()

    assert (status, short["error"]["param"]) == (400, "bytes")
    assert there == {"object": "upload", "bytes": 2 * PIECE_BYTES, "file_id": None}
    assert (wrong[0], wrong[1]["error"]["code"], wrong[1]["error"]["limit"]) == (409, "bad_offset", 2 * PIECE_BYTES)
    assert (done[0], done[1]["bytes"], whole) == (200, len(content), content)
    assert (await kept(http, content))["file_id"] == done[1]["id"] == again[1]["id"]


async def test_content_that_is_not_what_its_digest_is_of_is_dropped(http: aiohttp.ClientSession) -> None:
    content = random.Random(3).randbytes(2 * PIECE_BYTES)  # noqa: S311 - no secret
    other = bytes(len(content))

    half = await put(http, other[:PIECE_BYTES], told(content))
    refused = await put(http, content[PIECE_BYTES:], told(content, offset=PIECE_BYTES))
    there = await kept(http, content)
    done = await put(http, content, told(content))
    longer = await put(http, content + b"x", told(other, offset=0) | {"bytes": str(len(content))})

    assert half[0] == 400
    assert (refused[0], refused[1]["error"]["code"]) == (400, "bad_digest")
    assert there["bytes"] == 0
    assert done[0] == 200
    assert (longer[0], longer[1]["error"]["param"]) == (400, "bytes")


async def test_a_file_that_is_too_large_is_refused_before_it_is_sent(http: aiohttp.ClientSession) -> None:
    query = told(b"") | {"bytes": str(3 * 1024**3)}
    async with http.get("/v1/uploads", params=query) as response:
        assert (response.status, (await response.json())["error"]["code"]) == (413, "too_large")
    assert (await put(http, b"", query))[0] == 413


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({}, "sha256"),
        ({"sha256": "abc", "bytes": "1"}, "sha256"),
        (told(b"") | {"offset": "-1"}, "offset"),
        (told(b"") | {"bytes": "x"}, "bytes"),
        (told(b"") | {"expires_in_s": "1"}, "expires_in_s"),
    ],
    ids=["nothing", "no digest", "before the first byte", "no number", "too short"],
)
async def test_what_is_wrong_with_an_upload_is_named(
    http: aiohttp.ClientSession, query: dict[str, str], param: str
) -> None:
    status, answer = await put(http, b"", query)

    assert (status, answer["error"]["param"]) == (400, param)


async def test_a_batch_of_a_file_has_all_that_was_said_of_it(client: Client) -> None:
    nameless = a_line("nameless")
    del nameless["body"]["model"]
    file = a_file(nameless, a_line("other", url=EMBEDDINGS.path, body={"model": "m", "input": "x"}), a_line("third"))

    batch = await client.submit_file(
        file, model="m", lane=Lane.STANDARD, within_ms=90_000, priority=7, metadata={"a": "b"}, name="in.jsonl"
    )
    state = await ended(client, batch)
    jobs = (await client.jobs(JobFilter(batch=batch.id))).jobs

    assert (state.lane, state.priority, state.metadata, state.of_file) == (Lane.STANDARD, 7, {"a": "b"}, True)
    assert 80_000 < (state.deadline_ms or 0) - state.created_ms <= 91_000
    assert {job.custom_id for job in jobs} == {"nameless", "other", "third"}
    assert (state.jobs, state.counts.admitted) == (3, 3)


async def test_bad_lines_are_left_out_and_listed_or_nothing_runs(client: Client) -> None:
    def file() -> io.BytesIO:
        lines = [a_line(f"c{n}", url=CHAT.path if n % 2 else "/v1/none") for n in range(2400)]
        return a_file(*lines)

    skipping, strict = await client.submit_file(file()), await client.submit_file(file(), strict=True)
    bad = [fault async for fault in client.bad_lines(skipping.id)]

    done, failed = await ended(client, skipping), await ended(client, strict)
    again = [fault async for fault in client.bad_lines(strict.id)]
    assert (done.status, done.counts.succeeded) == (BatchStatus.COMPLETED, 1200)
    assert (failed.jobs, failed.counts.admitted) == (0, 0)
    assert [fault.number for fault in again] == list(range(1, 2401, 2))
    assert bad == again[: len(bad)]
    assert again[0] == Fault(1, "bad_url", again[0].message, "url", custom_id="c0")


async def test_a_batch_is_made_once_under_its_id(
    client: Client, http: aiohttp.ClientSession, ledger_url: str
) -> None:
    async with http.post("/v1/files", data={"purpose": "batch", "file": a_file(a_line("a"))}) as response:
        file = (await response.json())["id"]
    ask = {"id": str(an_id()), "input_file_id": file, "endpoint": CHAT.path, "completion_window": "24h"}
    answers = []
    for _ in range(2):
        async with http.post("/v1/batches", json=ask) as response:
            answers.append((response.status, (await response.json())["id"]))
        async with http.delete(f"/v1/files/{file}"):
            pass  # the second time there is none, and none is needed
    plain = await client.create_batch()
    async with http.post("/v1/batches", json={**ask, "id": str(plain.id)}) as response:
        taken = response.status

    connection = await asyncpg.connect(ledger_url)
    made = await connection.fetchval("select count(*) from infermq.file_batches")
    await connection.close()
    assert answers[0] == answers[1]
    assert answers[0][0] == 200
    assert made == 1
    assert taken in {404, 409}  # the id is of a batch that is of no file, whose file is gone


async def test_a_batch_is_made_once_by_tries_at_once(http: aiohttp.ClientSession) -> None:
    async with http.post("/v1/files", data={"purpose": "batch", "file": a_file(a_line("a"))}) as response:
        file = (await response.json())["id"]
    ask = {"id": str(an_id()), "input_file_id": file, "endpoint": CHAT.path, "completion_window": "24h"}

    async def made() -> tuple[int, str]:
        async with http.post("/v1/batches", json=ask) as response:
            return response.status, (await response.json()).get("id", "")

    answers = await asyncio.gather(*(made() for _ in range(8)))

    assert set(answers) == {(200, "batch_" + ask["id"].replace("-", ""))}


async def test_requests_of_which_no_batch_is_made_leave_no_file(http: aiohttp.ClientSession) -> None:
    ask = {"id": str(an_id()), "requests": [a_line("a")], "endpoint": CHAT.path, "completion_window": "24h"}
    statuses = []
    for body in (ask, ask, {**ask, "id": str(an_id()), "completion_window": "8d"}):
        async with http.post("/v1/batches", json=body) as response:
            statuses.append(response.status)
    async with http.get("/v1/files") as response:
        files = (await response.json())["data"]

    assert statuses == [200, 200, 400]
    assert len(files) == 1


class Meddler(HttpFiles):
    """Deletes the file of a batch before or after it is made: as somebody does who submits the same at the same time."""

    def __init__(self, door: HttpDoor, *, is_first: bool) -> None:
        super().__init__(door._good_answer)
        self._is_first = is_first
        self._has_meddled = False

    async def create(self, ask: Mapping[str, Any]) -> None:
        if self._is_first and not self._has_meddled:
            self._has_meddled = True
            await self.delete(ask["input_file_id"])
        await super().create(ask)
        if not self._is_first:
            await self.delete(ask["input_file_id"])


@pytest.mark.parametrize("when", ["before", "after"])
async def test_somebody_who_submits_the_same_at_the_same_time_does_no_harm(client: Client, when: str) -> None:
    assert isinstance(client._door, HttpDoor)
    client._door.files = Meddler(client._door, is_first=when == "before")

    batch = await client.submit_file(a_file(a_line("a")))

    assert (await ended(client, batch)).counts.succeeded == 1


@pytest.mark.parametrize("deadline_ms", [1, 10**15], ids=["passed", "too far"])
async def test_a_deadline_must_be_within_seven_days(http: aiohttp.ClientSession, deadline_ms: int) -> None:
    async with http.post("/v1/files", data={"purpose": "batch", "file": a_file(a_line("a"))}) as response:
        file = (await response.json())["id"]
    ask = {"input_file_id": file, "endpoint": "any", "completion_window": "", "deadline_ms": deadline_ms}
    async with http.post("/v1/batches", json=ask) as response:
        assert (response.status, (await response.json())["error"]["param"]) == (400, "deadline_ms")


async def test_a_client_gives_up_when_nothing_comes_through(client: Client, way: Proxy) -> None:
    client._patience_s = 1.0
    way.is_open = False
    way.cut()

    with pytest.raises(Unavailable):
        await client.submit_file(a_file(a_line("a")))


@pytest.mark.usefixtures("broker")
async def test_over_nats_files_are_not_submitted_as_a_whole(nats_url: str) -> None:
    async with Client.connect(nats_url) as client:
        assert not client.takes_files
        with pytest.raises(RequestRefused, match="over HTTP"):
            await client.submit_file(a_file(a_line("a")))
