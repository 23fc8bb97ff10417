"""The engine in this process: SmolLM2 where sense matters, a tiny random model for embeddings."""

import asyncio
import gc
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from schemas.catalog import Deployment
from schemas.endpoints import CHAT, COMPLETIONS, EMBEDDINGS, Endpoint
from schemas.outcome import BadRequest, ContextTooLong, Failed, Succeeded, Usage
from tests.contract.test_engine import (  # noqa: F401 - the suite of all engines, on this module's engine
    a_request,
    steps_of,
    succeeded,
    test_a_bad_body_fails_for_good_and_the_next_request_runs,
    test_a_chat_has_its_answer_and_what_it_used,
    test_a_completion_has_its_text,
    test_a_prompt_beyond_the_context_fails_for_good,
    test_a_request_that_is_cut_off_says_what_it_has_answered,
    test_a_request_that_is_left_frees_its_place,
    test_an_answer_ends_at_its_limit_and_says_so,
    test_as_many_as_it_has_places_run_at_once,
    test_the_pieces_of_a_stream_are_the_whole_answer,
    test_without_a_limit_the_models_limit_holds,
)
from workers.engines import factory
from workers.ports import Chunk, Engine, EngineConfigError, EngineDied, Overrides, Progress

pytestmark = pytest.mark.asyncio(loop_scope="module")
OPTIONS: dict[str, Any] = {"enforce_eager": True, "kv_cache_memory_bytes": 2**28}
FRANCE = [{"role": "user", "content": "What is the capital of France?"}]
ENDLESS = {"messages": [{"role": "user", "content": "Tell a long story."}], "max_tokens": 400, "ignore_eos": True}


def a_deployment(source: Path, **options: Any) -> Deployment:
    return Deployment(
        engine="vllm",
        source=str(source),
        context_tokens=512,
        max_concurrency=4,
        reserve=2,
        options={**OPTIONS, **options},
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(smol: Path) -> AsyncIterator[Engine]:
    deployment = a_deployment(smol, enable_auto_tool_choice=True, tool_call_parser="hermes")
    made = factory("vllm")(deployment, Overrides())
    capacity = await made.start()
    assert (capacity.slots, capacity.reserve) == (4, 2)
    yield made
    await made.close()


async def answer(engine: Engine, body: dict[str, Any], *, endpoint: Endpoint = CHAT) -> dict[str, Any]:
    return (await succeeded(engine, a_request({"temperature": 0, **body}, endpoint=endpoint)))[0]


async def test_it_answers_with_sense(engine: Engine) -> None:
    question = "Which city is the capital of France? Answer in one word."

    body = await answer(engine, {"messages": [{"role": "user", "content": question}], "max_tokens": 12})

    assert "Paris" in body["choices"][0]["message"]["content"]


async def test_a_stream_ends_with_its_usage(engine: Engine) -> None:
    steps = await steps_of(engine, a_request({"messages": FRANCE, "temperature": 0}, streamed=True))

    last = json.loads([step for step in steps if isinstance(step, Chunk)][-1].data)
    outcome = steps[-1]
    assert isinstance(outcome, Succeeded)
    assert last["usage"]["completion_tokens"] == outcome.usage.output_tokens > 0
    assert json.loads(outcome.body)["usage"]["prompt_tokens"] == outcome.usage.input_tokens > 0


async def test_several_choices_come_with_their_logprobs(engine: Engine) -> None:
    asked = {"messages": FRANCE, "n": 2, "logprobs": True, "top_logprobs": 2, "max_tokens": 3, "temperature": 1}

    whole = await answer(engine, asked)
    streamed = (await steps_of(engine, a_request(asked, streamed=True)))[-1]

    assert isinstance(streamed, Succeeded)
    for body in (whole, json.loads(streamed.body)):
        assert [choice["index"] for choice in body["choices"]] == [0, 1]
        assert all(len(choice["logprobs"]["content"]) == 3 for choice in body["choices"])


async def test_a_stop_word_and_a_seed_are_kept_to(engine: Engine) -> None:
    counting = {"prompt": "1, 2, 3, 4, 5,", "max_tokens": 24}
    stopped = await answer(engine, {**counting, "stop": ["9"]}, endpoint=COMPLETIONS)
    seeded = [
        await answer(engine, {**counting, "seed": 7, "temperature": 1.0}, endpoint=COMPLETIONS) for _ in range(2)
    ]

    assert "9" not in stopped["choices"][0]["text"]
    assert stopped["choices"][0]["finish_reason"] == "stop"
    assert seeded[0]["choices"][0]["text"] == seeded[1]["choices"][0]["text"]


async def test_a_named_tool_is_called(engine: Engine) -> None:
    function = {
        "name": "weather",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    }
    asked = {
        "messages": FRANCE,
        "max_tokens": 120,
        "tools": [{"type": "function", "function": function}],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
    }

    whole = await answer(engine, asked)
    streamed = (await steps_of(engine, a_request({**asked, "temperature": 0}, streamed=True)))[-1]

    assert isinstance(streamed, Succeeded)
    for body in (whole, json.loads(streamed.body)):
        [call] = body["choices"][0]["message"]["tool_calls"]
        assert call["function"]["name"] == "weather"
        assert json.loads(call["function"]["arguments"])["city"] in {"Paris", "Rome"}


async def test_structured_output_parses(engine: Engine) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "c", "schema": schema, "strict": True}}

    body = await answer(engine, {"messages": FRANCE, "max_tokens": 60, "response_format": wanted})

    assert json.loads(body["choices"][0]["message"]["content"])["city"] in {"Paris", "Rome"}


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_abort_stops_the_tokens(engine: Engine, *, streamed: bool) -> None:
    made: Any = engine
    steps = engine.run(a_request(ENDLESS, streamed=streamed))
    running = asyncio.ensure_future(anext(steps))
    async with asyncio.timeout(60):
        while not made._engine.output_processor.has_unfinished_requests():
            await asyncio.sleep(0.01)
        if streamed:
            await running
        running.cancel()
        await asyncio.wait({running})
        await steps.aclose()

    assert not made._engine.output_processor.has_unfinished_requests()


async def test_the_urgent_overtake_in_the_engine(engine: Engine) -> None:
    done: list[str] = []

    async def run(kind: str, priority: int) -> None:
        request = msgspec.structs.replace(
            a_request({"messages": FRANCE, "max_tokens": 24, "ignore_eos": True}), priority=priority
        )
        await succeeded(engine, request)
        done.append(kind)

    made: Any = engine
    async with asyncio.TaskGroup() as group:
        for _ in range(24):
            group.create_task(run("bulk", 2))
        async with asyncio.timeout(60):
            while made._load.waiting == 0:
                await asyncio.sleep(0.01)
        group.create_task(run("urgent", 0))

    assert done.index("urgent") < 14, done


async def test_a_prompt_beyond_the_context_has_the_engines_message(engine: Engine) -> None:
    long = a_request({"messages": [{"role": "user", "content": "word " * 2000}]})

    last = (await steps_of(engine, long))[-1]

    assert isinstance(last, Failed)
    assert isinstance(last.failure, ContextTooLong)
    assert "512" in last.failure.message


async def test_an_endpoint_that_the_model_does_not_serve_fails_for_good(engine: Engine) -> None:
    last = (await steps_of(engine, a_request({"input": "text"}, endpoint=EMBEDDINGS)))[-1]

    assert isinstance(last, Failed)
    assert isinstance(last.failure, BadRequest)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"no_such": 1}, "no-such"),
        ({"max_num_seqs": "many"}, "max-num-seqs"),
        ({"model": "x"}, "model is not"),
        ({"api-key": "x"}, "api_key is not"),
        ({"max_model_len": "auto"}, "max_model_len is 'auto'"),
    ],
)
async def test_unknown_options_are_refused_before_anything_is_loaded(options: dict[str, Any], why: str) -> None:
    with pytest.raises(EngineConfigError, match=why):
        factory("vllm")(Deployment(engine="vllm", source="nowhere", options=options), Overrides())


@pytest.mark.parametrize(
    ("capability", "options", "dtype"),
    [("AVX2", {}, "float32"), ("AVX2", {"dtype": "bfloat16"}, "bfloat16"), ("AVX512", {}, "auto")],
)
async def test_where_a_cpu_has_no_fast_halves_float32_is_the_default(
    monkeypatch: pytest.MonkeyPatch, tiny: Path, capability: str, options: dict[str, Any], dtype: str
) -> None:
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)

    assert f", {dtype}, " in repr(factory("vllm")(a_deployment(tiny, **options), Overrides()))


async def test_a_model_that_is_not_there_is_refused_and_harms_no_other(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(EngineConfigError, match="nothing"):
        factory("vllm")(a_deployment(tmp_path / "nothing"), Overrides())

    (tmp_path / "config.json").write_text("{}")
    made = factory("vllm")(a_deployment(tmp_path), Overrides())
    with pytest.raises(EngineConfigError, match="cannot load"):
        await made.start()
    del made
    gc.collect()
    await answer(engine, {"messages": FRANCE, "max_tokens": 2})


async def test_embeddings_and_the_death_of_the_engine(tiny: Path) -> None:
    made: Any = factory("vllm")(a_deployment(tiny, convert="embed", runner="pooling"), Overrides())
    await made.start()

    body, outcome = await succeeded(made, a_request({"input": ["one", "two"]}, endpoint=EMBEDDINGS))
    for process in made._engine.engine_core.resources.engine_manager.processes:
        process.kill()
    async with asyncio.timeout(60):
        await made.gone()
    with pytest.raises(EngineDied):
        await steps_of(made, a_request({"input": "three"}, endpoint=EMBEDDINGS))
    await made.close()

    assert [len(entry["embedding"]) for entry in body["data"]] == [128, 128]
    assert outcome.usage.input_tokens == body["usage"]["prompt_tokens"] > 0


async def test_a_request_that_is_left_makes_no_more_tokens(smol: Path) -> None:
    """Each step of the engine makes one token of the only request."""
    thousand = {
        "messages": [{"role": "user", "content": "Tell a long story."}],
        "max_tokens": 1000,
        "ignore_eos": True,
    }
    deployment = msgspec.structs.replace(a_deployment(smol), context_tokens=2048)
    made = factory("vllm")(deployment, Overrides())
    await made.start()
    try:
        steps = made.run(a_request(thousand))
        first = await anext(steps)
        assert isinstance(first, Progress)
        assert first.so_far is not None
        async with asyncio.timeout(60):
            while (first.so_far().usage or Usage()).output_tokens < 20:
                await asyncio.sleep(0.01)
        so_far = first.so_far()
        before = made._steps  # type: ignore[attr-defined] # of this engine
        await steps.aclose()
        await asyncio.sleep(1)
        after = made._steps  # type: ignore[attr-defined]
        await asyncio.sleep(1)

        assert so_far.usage is not None
        assert 20 <= so_far.usage.output_tokens < 100
        assert after - before < 100
        assert made._steps == after  # type: ignore[attr-defined]
        assert made._load.running == 0  # type: ignore[attr-defined]
    finally:
        await made.close()
