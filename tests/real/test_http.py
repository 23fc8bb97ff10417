"""The API over HTTP, asked by a client that knows nothing of models: statuses, headers and bytes."""

import asyncio
import io
import json
from typing import Any
from uuid import UUID

import aiohttp
import pytest

from broker.config import BrokerConfig
from broker.doors.http.app import Front
from broker.errors import CannotListen
from broker.serve import serve
from schemas import subjects
from schemas.api import Problem, State
from schemas.catalog import Catalog
from schemas.subjects import Verb
from tests.builders import an_entropy, now
from tests.real.test_broker import Running
from tests.system import until

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]
CHAT = "/v1/chat/completions"


def a_body(text: str = "Hi.", **more: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 4, "messages": [{"role": "user", "content": text}], **more}


async def test_an_answer_is_whole_and_its_request_is_in_the_ledger(
    broker: Running, http: aiohttp.ClientSession
) -> None:
    options = {"timeout_s": 30, "metadata": {"for": "a test"}, "custom_id": "mine"}
    async with http.post(CHAT, json=a_body(infermq=options)) as response:
        answer = await response.json()

    assert (response.status, response.content_type) == (200, "application/json")
    assert answer["object"] == "chat.completion"
    assert answer["usage"]["completion_tokens"] == 4
    job = await broker.ended(UUID(response.headers["x-request-id"]))
    assert (job.state, job.custom_id, job.metadata) == (State.SUCCEEDED, "mine", {"for": "a test"})
    [row] = await broker.rows("select body from infermq.bodies")
    assert "infermq" not in json.loads(row["body"])


async def test_options_come_as_headers_too(broker: Running, http: aiohttp.ClientSession) -> None:
    headers = {"x-infermq-custom-id": "mine", "x-infermq-metadata": '{"a": "b"}', "x-infermq-timeout-s": "9.5"}
    async with http.post(CHAT, json=a_body(), headers=headers) as response:
        job = await broker.ended(UUID(response.headers["x-request-id"]))

    assert (job.custom_id, job.metadata) == ("mine", {"a": "b"})
    assert job.deadline_ms - job.admitted_ms == 9500


async def test_a_stream_is_events_and_its_end(http: aiohttp.ClientSession) -> None:
    async with http.post(CHAT, json=a_body(stream=True)) as response:
        events = (await response.text()).split("\n\n")

    assert (response.status, response.content_type) == (200, "text/event-stream")
    *pieces, done, rest = events
    assert (done, rest) == ("data: [DONE]", "")
    read = [json.loads(piece.removeprefix("data: ")) for piece in pieces]
    assert {piece["object"] for piece in read} == {"chat.completion.chunk"}
    assert len(read) >= 4


async def test_a_stream_tells_what_it_used_if_that_is_asked_for(http: aiohttp.ClientSession) -> None:
    async with http.post(CHAT, json=a_body(stream=True, stream_options={"include_usage": True})) as response:
        *_, last, _, _ = (await response.text()).split("\n\n")

    read = json.loads(last.removeprefix("data: "))
    assert (read["choices"], read["usage"]["completion_tokens"]) == ([], 4)


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings"])
async def test_other_endpoints_answer_too(http: aiohttp.ClientSession, path: str) -> None:
    field = "prompt" if path == "/v1/completions" else "input"
    async with http.post(path, json={"model": "m", field: "Hi.", "stream": False}) as response:
        assert response.status == 200, await response.text()


async def test_a_client_that_leaves_a_stream_frees_its_slot(broker: Running, http: aiohttp.ClientSession) -> None:
    async with http.post(CHAT, json=a_body(stream=True, max_tokens=1024)) as response:
        await response.content.readline()
        job = UUID(response.headers["x-request-id"])
        response.close()

    assert (await broker.ended(job)).state is State.CANCELLED


async def test_a_client_that_leaves_before_an_answer_frees_its_slot(
    broker: Running, http: aiohttp.ClientSession
) -> None:
    async def asked() -> None:
        async with http.post(CHAT, json=a_body("hang")) as response:
            await response.read()

    async def running() -> bool:
        return any(worker.running for worker in (await broker.client.status()).workers)

    asking = asyncio.create_task(asked())
    await until(running, "it runs")
    asking.cancel()

    async def is_recorded() -> bool:
        return bool(await broker.rows("select from infermq.jobs where state = 'cancelled'"))

    await until(is_recorded, "its request is cancelled")


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        (b"{", 400, "body_not_json", None),
        (b"[]", 400, "body_shape", None),
        (b'{"messages": []}', 400, "body_shape", "model"),
        (b'{"model": 7}', 400, "body_shape", "model"),
        (b'{"model": "m"}', 400, "body_shape", None),
        (b'{"model": "m", "messages": []}', 400, "body_shape", "messages"),
        (json.dumps(a_body(max_tokens=10**6)).encode(), 400, "max_tokens_out_of_range", "max_tokens"),
        (json.dumps(a_body(model="none")).encode(), 404, "unknown_model", "model"),
        (json.dumps(a_body(infermq={"timeout": 3})).encode(), 400, "body_shape", "infermq"),
        (json.dumps(a_body(infermq={"timeout_s": -3})).encode(), 400, "body_shape", "infermq.timeout_s"),
        (json.dumps(a_body("x" * 300_000)).encode(), 413, "body_too_large", None),
        (b" " * 2_000_000, 413, "body_too_large", None),
        (json.dumps(a_body("wrong")).encode(), 400, "bad_request", None),
        (json.dumps(a_body("never")).encode(), 502, "engine_fault", None),
    ],
    ids=[
        *("no_json", "a_list", "no_model", "model_is_a_number", "no_messages", "empty", "too_many_tokens", "unknown"),
        *("wrong_option", "wrong_value", "too_large", "far_too_large", "bad", "broken"),
    ],
)
async def test_what_is_wrong_is_said_as_openai_says_it(
    http: aiohttp.ClientSession, body: bytes, status: int, code: str, param: str | None
) -> None:
    async with http.post(CHAT, data=io.BytesIO(body)) as response:
        error = (await response.json())["error"]

    assert (response.status, error["code"], error["param"]) == (status, code, param), error
    assert error["message"]
    assert response.headers["x-request-id"]


async def test_what_is_not_served_is_refused(http: aiohttp.ClientSession) -> None:
    async with http.get(CHAT) as wrong, http.post("/v1/images", json={}) as unknown, http.get("/v1/models/x") as no:
        codes = [(one.status, (await one.json())["error"]["code"]) for one in (wrong, unknown, no)]

    assert codes == [(405, "wrong_method"), (404, "unknown_route"), (404, "unknown_model")]


async def test_health_needs_no_key(http: aiohttp.ClientSession) -> None:
    async with http.get("/health") as response:
        assert (response.status, await response.json()) == (200, {"status": "ok"})


async def test_a_front_without_a_relay_is_not_healthy() -> None:
    async def nobody(_: str | None) -> Problem:
        raise NotImplementedError

    front = Front(identify=nobody, catalog=Catalog, clock=now, entropy=an_entropy)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/health", "headers": [], "query_string": b""}
    await front(scope, asyncio.Event().wait, send)

    assert sent[0]["status"] == 503


async def test_models_are_listed(http: aiohttp.ClientSession) -> None:
    async with http.get("/v1/models") as listed, http.get("/v1/models/m") as one:
        assert [model["id"] for model in (await listed.json())["data"]] == ["m"]
        assert (await one.json())["object"] == "model"


async def test_without_keys_only_this_machine_may_call(nats_url: str, ledger_url: str) -> None:
    config = BrokerConfig(nats_url=nats_url, postgres_url=ledger_url, name="open", api_host="0.0.0.0")  # noqa: S104

    with pytest.raises(CannotListen, match=r"--api-host 0\.0\.0\.0"):
        await serve(config, ready=lambda _: None)


@pytest.mark.parametrize("verb", Verb, ids=str)
async def test_a_verb_is_answered_as_over_nats(broker: Running, http: aiohttp.ClientSession, verb: Verb) -> None:
    job = await broker.submit("Hi.")
    await broker.ended(job)
    ask = json.dumps({"job": str(job), "batch": 7, "limit": -1, "tenant": [], "id": "x"}).encode()

    over_nats = json.loads((await broker.nc.request(subjects.api(verb, "default", "default"), ask)).data)
    async with http.post(f"/v1/verbs/{verb}", data=ask) as response:
        over_http = await response.json()

    if "error" in over_nats:
        assert {"limit": None, "field": over_http["error"]["param"], **over_http["error"]}.items() >= over_nats[
            "error"
        ].items()
        assert response.status == 400
    else:
        assert over_http.keys() == over_nats.keys()
        assert response.status == 200


async def test_a_call_says_what_is_wrong_with_it(http: aiohttp.ClientSession) -> None:
    asks = [
        ("job-show", b"{"),
        ("job-show", b"[" * 100_000),
        ("job-list", b'{"limit": 100000}'),
        ("batch-show", b'{"id": "019e0000-0000-7000-8000-000000000000"}'),
        ("nothing", b"{}"),
        ("job-show", b" " * 9_000_000),
    ]
    said = []
    for verb, ask in asks:
        async with http.post(f"/v1/verbs/{verb}", data=io.BytesIO(ask)) as response:
            said.append((response.status, (await response.json())["error"]["code"]))
    async with http.get("/v1/verbs/status") as wrong:
        said.append((wrong.status, (await wrong.json())["error"]["code"]))

    assert said == [
        (400, "bad_request"),
        (400, "bad_request"),
        (400, "bad_request"),
        (404, "unknown_batch"),
        (404, "unknown_route"),
        (413, "body_too_large"),
        (405, "wrong_method"),
    ]
