"""The client over HTTP while connections are lost, and what a broker takes from it."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any

import aiohttp
import msgspec
import pytest

from broker.client import Client, Piece, RequestRefused, Submission
from broker.client.http_door import HttpDoor
from broker.errors import Unavailable
from schemas import subjects
from schemas.api import State
from schemas.codec import bundled, packed
from schemas.jetstream.client import NatsClient as Nats
from schemas.jetstream.trust import Trust
from tests.builders import BODY, a_job, an_id
from tests.proxy import Proxy, a_proxy
from tests.real.test_broker import Running
from tests.system import until

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]


@pytest.fixture
async def way(broker: Running) -> AsyncIterator[Proxy]:
    async with a_proxy(broker.api, watched=b"POST /v1/") as proxy:
        proxy.url = proxy.url.replace("nats:", "http:")
        yield proxy


@pytest.fixture
async def client(way: Proxy) -> AsyncIterator[Client]:
    async with Client.connect(way.url) as connected:
        yield connected


async def stored(nc: Nats) -> int:
    """How many messages of jobs were ever stored."""
    return int((await nc.jetstream().stream_info(subjects.SUBMIT)).state.last_seq)


async def test_what_was_stored_without_an_answer_is_sent_again_and_stored_once(
    broker: Running, way: Proxy, client: Client
) -> None:
    way.is_deaf = True
    submitting = asyncio.create_task(client.submit("m", BODY))

    async def is_stored() -> bool:
        return await stored(broker.nc) == 1

    await until(is_stored, "the broker has stored it")
    way.is_deaf = False
    way.cut()
    job = await submitting

    assert (await broker.ended(job)).state is State.SUCCEEDED
    assert way.seen == 2
    assert await stored(broker.nc) == 1


async def test_a_message_is_stored_once_by_its_name(broker: Running) -> None:
    assert await stored(broker.nc) == 0
    async with aiohttp.ClientSession(broker.api) as http:
        for _ in range(2):
            assert await posted(http, packed(a_job())) == (202, {"jobs": 1})
        once = await stored(broker.nc)
        assert await posted(http, packed(a_job()), name="other") == (202, {"jobs": 1})

    assert (once, await stored(broker.nc)) == (1, 2)


async def posted(
    http: aiohttp.ClientSession,
    message: bytes,
    *,
    kind: str = "application/msgpack",
    name: str = "one",
    **query: str,
) -> tuple[int, Any]:
    headers = {"content-type": kind, "idempotency-key": name}
    async with http.post("/v1/bundles", data=message, headers=headers, params={"model": "m", **query}) as response:
        return response.status, await response.json()


JSON_JOB = {"endpoint": "/v1/chat/completions", "body": json.loads(BODY)}


async def test_a_message_of_json_is_taken_too(broker: Running) -> None:
    job = an_id()
    message = json.dumps([{**JSON_JOB, "id": str(job)}, JSON_JOB]).encode()
    async with aiohttp.ClientSession(broker.api) as http:
        answer = await posted(http, message, kind="application/json", lane="standard")

    assert answer == (202, {"jobs": 2})
    assert (await broker.ended(job)).state is State.SUCCEEDED


@pytest.mark.parametrize(
    ("message", "changes", "said"),
    [
        (b"\xff\0nope", {}, (400, "bad_job", None)),
        (b"", {}, (400, "bad_job", None)),
        (bundled([packed(a_job()), b"\xc0"]), {}, (400, "bad_job", None)),
        (bundled([packed(a_job())] * 1001), {}, (400, "bad_job", None)),
        (packed(a_job()), {"kind": "text/plain"}, (400, "bad_job", None)),
        (packed(a_job()), {"lane": "fast"}, (400, "bad_request", "lane")),
        (packed(a_job()), {"model": ""}, (404, "unknown_model", "model")),
        (packed(a_job()), {"model": "x" * 5000}, (404, "unknown_model", "model")),
        (packed(a_job()), {"name": ""}, (400, "bad_request", "idempotency-key")),
        (packed(a_job()), {"name": "x" * 201}, (400, "bad_request", "idempotency-key")),
        (b"x" * 600_000, {}, (413, "body_too_large", None)),
    ],
    ids="bytes empty one_bad too_many text lane no_model long_model no_name long_name too_large".split(),
)
async def test_a_message_that_intake_could_not_read_is_refused_whole(
    broker: Running, message: bytes, changes: Mapping[str, str], said: tuple[int, str, str | None]
) -> None:
    async with aiohttp.ClientSession(broker.api) as http:
        status, answer = await posted(http, message, **changes)

    assert (status, answer["error"]["code"], answer["error"]["param"]) == said, answer
    assert await stored(broker.nc) == 0


async def test_a_stream_that_is_cut_is_no_answer(way: Proxy, client: Client) -> None:
    pieces = []

    async def read() -> None:
        async for step in client.infer_stream("m", {**msgspec.json.decode(BODY), "max_tokens": 1024}):
            pieces.append(step)
            way.cut()

    with pytest.raises(Unavailable):
        await read()
    assert pieces
    assert all(isinstance(piece, Piece) for piece in pieces)


async def test_results_are_read_through_lost_connections(broker: Running, way: Proxy, client: Client) -> None:
    batch = await client.create_batch()

    async def read() -> list[str | None]:
        return [result.custom_id async for result in client.results(batch.id)]

    reading = asyncio.create_task(read())
    for name in ("a", "b"):
        await until(partial(_is_more, way, way.seen - 1), "results are asked for")
        await broker.client.submit_many([Submission("m", a_job(id=an_id(), custom_id=name, batch=batch.id))])
        way.cut()
    await broker.client.seal(batch.id, jobs=2)

    assert sorted(map(str, await reading)) == ["a", "b"]


async def _is_more(way: Proxy, number: int) -> bool:
    return way.seen > number


async def test_results_are_waited_for_by_one_request(broker: Running, way: Proxy, client: Client) -> None:
    batch = await client.create_batch()
    before = way.seen

    async def first() -> str | None:
        async for result in client.results(batch.id):
            return result.custom_id
        return None

    reading = asyncio.create_task(first())
    await until(partial(_is_more, way, before), "results are asked for")
    await broker.client.submit_many([Submission("m", a_job(id=an_id(), custom_id="a", batch=batch.id))])

    assert await asyncio.wait_for(reading, 20) == "a"
    assert way.seen == before + 1


@pytest.mark.parametrize("wait_s", ["0.2", "-1", "61", "x", "nan"])
async def test_a_call_is_kept_waiting_as_long_as_it_says(broker: Running, wait_s: str) -> None:
    batch = await broker.client.create_batch()
    async with (
        aiohttp.ClientSession(broker.api) as http,
        http.post(f"/v1/verbs/batch-results?wait_s={wait_s}", json={"id": str(batch.id)}) as response,
    ):
        answer = await response.json()

    if wait_s == "0.2":
        assert (response.status, answer["results"]) == (200, [])
    else:
        assert (response.status, answer["error"]["param"]) == (400, "wait_s")


async def test_a_broker_that_stays_away_is_unavailable(way: Proxy, client: Client) -> None:
    way.is_open = False
    way.cut()

    impatient = Client(client._door, patience_s=0.3)
    for asked in (impatient.submit("m", BODY), impatient.status(), impatient.infer("m", BODY)):
        with pytest.raises(Unavailable):
            await asked


async def test_who_is_no_broker_is_told_apart_from_one(broker: Running) -> None:
    for url in (broker.url, "http://127.0.0.1:1", "http://nobody.invalid", "http://[::1", "http://"):
        with pytest.raises(Unavailable):
            async with Client.connect(url):
                pass


async def test_a_base_url_of_openais_clients_does_too(broker: Running) -> None:
    async with Client.connect(f"{broker.api}/v1/") as client:
        assert (await client.status()).workers
        assert isinstance(client._door, HttpDoor)
        with pytest.raises(TypeError):
            client.nats  # noqa: B018 - it raises


async def test_without_a_key_nobody_says_who_calls(broker: Running) -> None:
    with pytest.raises(RequestRefused, match="only an API key"):
        async with Client.connect(broker.api, tenant="acme"):
            pass


async def test_no_key_goes_in_the_clear_where_certificates_are_named() -> None:
    with pytest.raises(Unavailable, match="use https"):
        async with Client.connect("http://infermq.example", trust=Trust()):
            pass
