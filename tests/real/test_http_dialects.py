"""OpenAI's Responses and Anthropic's Messages over HTTP: what clients get, and what the ledger has of it."""

import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import aiohttp
import pytest

from schemas.api import State
from schemas.jetstream.client import NatsClient as Nats
from tests.real.test_broker import Running, a_broker, a_worker

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]
SLOW = """
decode_tokens_per_s = 50.0
output_tokens = 1000
failures = [{match = "never", kind = "engine_fault"}, {match = "wrong", kind = "bad_request"}]
"""
RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"


@pytest.fixture
async def broker(nats_url: str, ledger_url: str, nc: Nats) -> AsyncIterator[Running]:
    async with a_broker(nats_url, ledger_url, nc) as running, a_worker(nc, script=SLOW):
        await running.has_a_worker()
        yield running


def a_response(text: str = "Hi.", **more: Any) -> dict[str, Any]:
    return {"model": "m", "max_output_tokens": 4, "input": text, **more}


def a_message(text: str = "Hi.", **more: Any) -> dict[str, Any]:
    return {"model": "m", "max_tokens": 4, "messages": [{"role": "user", "content": text}], **more}


def a_long_stream(path: str) -> dict[str, Any]:
    if path == RESPONSES:
        return a_response(stream=True, max_output_tokens=1024)
    return a_message(stream=True, max_tokens=1024)


async def events_of(response: aiohttp.ClientResponse) -> list[tuple[str, dict[str, Any]]]:
    """Read a stream of named events."""
    read = []
    for event in (await response.text()).removesuffix("\n\n").split("\n\n"):
        name, data = event.split("\n")
        read.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return read


async def test_a_response_is_recorded_as_the_chat_completion_that_ran(
    broker: Running, http: aiohttp.ClientSession
) -> None:
    asked = a_response(instructions="Be brief.", metadata={"for": "a test"}, infermq={"custom_id": "mine"})
    async with http.post(RESPONSES, json=asked) as response:
        answer = await response.json()

    job = UUID(response.headers["x-request-id"])
    assert (response.status, answer["id"], answer["object"]) == (200, f"resp_{job.hex}", "response")
    assert (answer["status"], answer["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert answer["usage"]["output_tokens"] == len(answer["output"][0]["content"][0]["text"].split()) == 4
    ended = await broker.ended(job)
    assert (ended.state, ended.endpoint, ended.custom_id) == (State.SUCCEEDED, "/v1/chat/completions", "mine")
    assert ended.metadata == answer["metadata"] == {"for": "a test"}
    [row] = await broker.rows("select body from infermq.bodies")
    system = {"role": "system", "content": "Be brief."}
    user = {"role": "user", "content": "Hi."}
    assert json.loads(row["body"]) == {"model": "m", "messages": [system, user], "max_tokens": 4}


async def test_a_message_is_recorded_as_the_chat_completion_that_ran(
    broker: Running, http: aiohttp.ClientSession
) -> None:
    headers = {"anthropic-version": "2023-06-01", "x-api-key": "any", "x-infermq-custom-id": "mine"}
    async with http.post(MESSAGES, json=a_message(system="Be brief."), headers=headers) as response:
        answer = await response.json()

    job = UUID(response.headers["request-id"])
    assert (response.status, answer["id"], answer["type"]) == (200, f"msg_{job.hex}", "message")
    assert (answer["stop_reason"], answer["usage"]["output_tokens"]) == ("max_tokens", 4)
    ended = await broker.ended(job)
    assert (ended.state, ended.endpoint, ended.custom_id) == (State.SUCCEEDED, "/v1/chat/completions", "mine")
    [row] = await broker.rows("select body from infermq.bodies")
    assert [message["role"] for message in json.loads(row["body"])["messages"]] == ["system", "user"]


async def test_a_stream_of_a_response_makes_the_response(http: aiohttp.ClientSession) -> None:
    async with http.post(RESPONSES, json=a_response(stream=True)) as response:
        events = await events_of(response)

    assert (response.status, response.content_type) == (200, "text/event-stream")
    assert [data["sequence_number"] for _, data in events] == list(range(len(events)))
    assert all(name == data["type"] for name, data in events)
    deltas = [data["delta"] for name, data in events if name == "response.output_text.delta"]
    name, last = events[-1]
    assert (name, len(deltas)) == ("response.incomplete", 4)
    assert last["response"]["output"][0]["content"][0]["text"] == "".join(deltas)
    assert last["response"]["usage"]["output_tokens"] == 4


async def test_a_stream_of_a_message_makes_the_message(http: aiohttp.ClientSession) -> None:
    async with http.post(MESSAGES, json=a_message(stream=True)) as response:
        events = await events_of(response)

    assert (response.status, response.content_type) == (200, "text/event-stream")
    names = [name for name, _ in events]
    assert names[:3] == ["message_start", "ping", "content_block_start"]
    assert names[3:] == [*["content_block_delta"] * 4, "content_block_stop", "message_delta", "message_stop"]
    assert events[-2][1]["usage"]["output_tokens"] == 4


@pytest.mark.parametrize("path", [RESPONSES, MESSAGES])
async def test_a_client_that_leaves_a_stream_frees_its_slot(
    broker: Running, http: aiohttp.ClientSession, path: str
) -> None:
    async with http.post(path, json=a_long_stream(path)) as response:
        await response.content.readline()
        job = UUID(response.headers["x-request-id"])
        response.close()

    assert (await broker.ended(job)).state is State.CANCELLED


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        (a_response(store=True), 400, "not_translated", "store"),
        (a_response(tools=[{"type": "web_search"}]), 400, "not_translated", "tools[0].type"),
        (a_response(max_output_tokens=10**6), 400, "max_tokens_out_of_range", "max_output_tokens"),
        (a_response(model="none"), 404, "unknown_model", "model"),
        (a_response(infermq={"timeout": 3}), 400, "body_shape", "infermq"),
        (a_response("wrong"), 400, "bad_request", None),
        (a_response("never"), 502, "engine_fault", None),
    ],
    ids=["store", "tool", "tokens", "model", "option", "bad", "broken"],
)
async def test_what_is_wrong_with_a_response_is_said_as_openai_says_it(
    http: aiohttp.ClientSession, body: dict[str, Any], status: int, code: str, param: str | None
) -> None:
    async with http.post(RESPONSES, json=body) as response:
        error = (await response.json())["error"]

    assert (response.status, error["code"], error["param"]) == (status, code, param), error
    assert param in {None, "infermq"} or param in error["message"] or param == "model"


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        (a_message(container="c"), 400, "invalid_request_error"),
        (a_message(model="none"), 404, "not_found_error"),
        (a_message("x" * 300_000), 413, "request_too_large"),
        (a_message("wrong"), 400, "invalid_request_error"),
        (a_message("never"), 502, "api_error"),
    ],
    ids=["container", "model", "size", "bad", "broken"],
)
async def test_what_is_wrong_with_a_message_is_said_as_anthropic_says_it(
    http: aiohttp.ClientSession, body: dict[str, Any], status: int, kind: str
) -> None:
    async with http.post(MESSAGES, json=body) as response:
        answer = await response.json()

    assert (response.status, answer["type"], answer["error"]["type"]) == (status, "error", kind), answer
    assert answer["error"]["message"]
    assert answer["request_id"] == response.headers["request-id"] == response.headers["x-request-id"]


async def test_who_counts_tokens_is_told_that_this_is_not_served(http: aiohttp.ClientSession) -> None:
    async with http.post(f"{MESSAGES}/count_tokens", json=a_message()) as response:
        answer = await response.json()

    assert (response.status, answer["error"]["type"]) == (404, "not_found_error")
    assert answer["request_id"] == response.headers["x-request-id"]


async def test_a_client_that_offers_threads_is_told_to_go_on_without(http: aiohttp.ClientSession) -> None:
    async with http.post(MESSAGES, json=a_message(thread={"type": "create"})) as response:
        error = (await response.json())["error"]

    assert (response.status, error["details"]["error_code"]) == (400, "thread_unsupported_request")


@pytest.mark.parametrize("path", [RESPONSES, MESSAGES])
async def test_an_error_after_the_first_piece_ends_the_stream(
    broker: Running, http: aiohttp.ClientSession, path: str
) -> None:
    async with http.post(path, json=a_long_stream(path)) as response:
        await response.content.readline()
        await broker.client.cancel_jobs(UUID(response.headers["x-request-id"]))
        ended = (await response.text()).removesuffix("\n\n").rpartition("\n\n")[2]

    name, data = ended.split("\n")
    if path == RESPONSES:
        failed = json.loads(data.removeprefix("data: "))["response"]
        assert (name, failed["status"]) == ("event: response.failed", "failed")
        assert failed["error"]["message"]
    else:
        assert name == "event: error"
        assert json.loads(data.removeprefix("data: "))["type"] == "error"
