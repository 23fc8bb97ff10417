"""The official Python client of OpenAI: what it asks for, and gets."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from openai import AsyncOpenAI, BadRequestError, OpenAI
from pydantic import BaseModel

from tests.clients.running import System

ASK: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


class Answer(BaseModel):
    city: Literal["Paris", "Rome"]
    is_capital: bool


@pytest.fixture
def client(system: System) -> Iterator[OpenAI]:
    with OpenAI(base_url=system.base_url, api_key=system.api_key) as made:
        yield made


def test_a_chat_is_answered_whole(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="small", messages=ASK, max_completion_tokens=8, temperature=0)

    [choice] = answer.choices
    assert (answer.object, answer.model, choice.message.role) == ("chat.completion", "small", "assistant")
    assert choice.message.content
    assert choice.finish_reason in {"stop", "length"}
    assert answer.usage is not None
    assert 0 < answer.usage.completion_tokens <= 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_makes_the_same_answer_with_its_usage_at_the_end(client: OpenAI) -> None:
    asked: Any = {"model": "echo", "messages": ASK, "stream_options": {"include_usage": True}}

    *pieces, last = client.chat.completions.create(**asked, stream=True)

    text = "".join(piece.choices[0].delta.content or "" for piece in pieces)
    assert len(text.split()) == 16
    assert pieces[-1].choices[0].finish_reason == "stop"
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == 16


@pytest.mark.parametrize("model", ["echo", "small"])
def test_every_piece_has_a_choice_unless_usage_is_asked_for(client: OpenAI, model: str) -> None:
    pieces = list(client.chat.completions.create(model=model, messages=ASK, stream=True, max_tokens=4))

    assert all(piece.choices for piece in pieces)
    assert [piece.usage for piece in pieces if piece.usage is not None] == []


def test_the_helper_for_streams_gathers_the_answer(client: OpenAI) -> None:
    with client.chat.completions.stream(model="echo", messages=ASK) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        whole = stream.get_final_completion()

    assert whole.choices[0].message.content == "".join(deltas)


def test_the_async_client_asks_many_at_once(system: System) -> None:
    async def asked() -> list[Any]:
        async with AsyncOpenAI(base_url=system.base_url, api_key=system.api_key) as client:
            return await asyncio.gather(
                *(client.chat.completions.create(model="echo", messages=ASK, user=str(n)) for n in range(20))
            )

    answers = asyncio.run(asked())

    assert len({answer.id for answer in answers}) == 20


def test_the_async_client_streams(system: System) -> None:
    async def asked() -> str:
        async with AsyncOpenAI(base_url=system.base_url, api_key=system.api_key) as client:
            stream = await client.chat.completions.create(model="echo", messages=ASK, stream=True)
            return "".join([piece.choices[0].delta.content or "" async for piece in stream])

    assert len(asyncio.run(asked()).split()) == 16


def test_an_answer_is_parsed_into_a_model_of_pydantic(client: OpenAI) -> None:
    answer = client.chat.completions.parse(
        model="small", messages=ASK, response_format=Answer, temperature=0, max_completion_tokens=64
    )

    parsed = answer.choices[0].message.parsed
    assert isinstance(parsed, Answer)


def test_a_tool_is_called_and_its_result_is_sent_back(client: OpenAI) -> None:
    asked: Any = {"model": "caller", "tools": [TOOL]}
    question: Any = {"role": "user", "content": "What is the weather in Paris?"}

    first = client.chat.completions.create(messages=[question], tool_choice="required", **asked)
    message = first.choices[0].message
    [call] = message.tool_calls or []
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "It rains."}
    second = client.chat.completions.create(messages=[question, message, result], tool_choice="none", **asked)

    assert first.choices[0].finish_reason == "tool_calls"
    assert call.type == "function"
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments)["city"] in {"Paris", "Rome"}
    assert second.choices[0].message.content


def test_a_call_of_a_tool_is_streamed(client: OpenAI) -> None:
    with client.chat.completions.stream(model="caller", messages=ASK, tools=[TOOL], tool_choice="required") as stream:
        whole = stream.get_final_completion()

    [call] = whole.choices[0].message.tool_calls or []
    assert json.loads(call.function.arguments)["city"] in {"Paris", "Rome"}


def test_a_prompt_is_completed_whole_and_streamed(client: OpenAI) -> None:
    whole = client.completions.create(model="echo", prompt="Once upon a time", max_tokens=4)
    pieces = list(client.completions.create(model="echo", prompt="Once upon a time", max_tokens=4, stream=True))

    assert whole.object == "text_completion"
    assert whole.usage is not None
    assert whole.usage.completion_tokens == len(whole.choices[0].text.split()) == 4
    assert len("".join(piece.choices[0].text for piece in pieces if piece.choices).split()) == 4


@pytest.mark.parametrize("written", ["float", "base64", None])
def test_texts_are_embedded(client: OpenAI, written: Literal["float", "base64"] | None) -> None:
    more: Any = {} if written is None else {"encoding_format": written}

    answer = client.embeddings.create(model="echo", input=["one", "two"], **more)

    assert [one.index for one in answer.data] == [0, 1]
    assert answer.usage.prompt_tokens > 0
    if written == "base64":
        assert all(isinstance(one.embedding, str) for one in answer.data)
    else:
        assert all(isinstance(number, float) for one in answer.data for number in one.embedding)


def test_models_are_listed_and_shown(client: OpenAI) -> None:
    names = [model.id for model in client.models.list()]

    assert names == ["caller", "echo", "slow", "small", "thinker"]
    assert client.models.retrieve("echo").id == "echo"


def test_options_come_in_the_extra_body_and_in_extra_headers(client: OpenAI, system: System) -> None:
    in_body = client.chat.completions.with_raw_response.create(
        model="echo",
        messages=ASK,
        metadata={"of": "OpenAI"},
        extra_body={"infermq": {"custom_id": "mine", "timeout_s": 20}},
    )
    in_headers = client.chat.completions.with_raw_response.create(
        model="echo",
        messages=ASK,
        extra_headers={"x-infermq-custom-id": "yours", "x-infermq-metadata": '{"of": "ours"}'},
    )

    first, second = system.job(in_body.headers["x-request-id"]), system.job(in_headers.headers["x-request-id"])
    assert (first["custom_id"], first["metadata"]) == ("mine", {"of": "OpenAI"})
    assert first["deadline_ms"] - first["admitted_ms"] == 20_000
    assert (second["custom_id"], second["metadata"]) == ("yours", {"of": "ours"})


def test_an_answer_says_by_which_id_its_job_is_found(client: OpenAI, system: System) -> None:
    answer = client.chat.completions.create(model="echo", messages=ASK)

    job = system.job(answer._request_id)
    assert (job["state"], job["usage"]["output_tokens"]) == ("succeeded", 16)


def test_a_pinned_deployment_answers(client: OpenAI, system: System) -> None:
    answer = client.chat.completions.create(model="echo@echo", messages=ASK)

    [execution] = system.job(answer._request_id)["executions"]
    assert execution["deployment"] == "echo"


def test_a_response_is_made_whole_and_streamed(client: OpenAI) -> None:
    whole = client.responses.create(model="echo", input="Hello.", instructions="Be brief.", max_output_tokens=4)
    with client.responses.stream(model="echo", input="Hello.") as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        last = stream.get_final_response()

    assert len(whole.output_text.split()) == 4
    assert whole.status == "incomplete"
    assert whole.usage is not None
    assert whole.usage.output_tokens == 4
    assert last.output_text == "".join(deltas)
    assert len(deltas) > 10


def test_a_response_is_parsed_and_calls_a_tool(client: OpenAI) -> None:
    tool: Any = {
        "type": "function",
        "name": "get_weather",
        "parameters": TOOL["function"]["parameters"],
        "strict": True,
    }

    parsed = client.responses.parse(model="small", input="What is the capital of France?", text_format=Answer)
    called = client.responses.create(model="caller", input="What is the weather in Paris?", tools=[tool])

    assert isinstance(parsed.output_parsed, Answer)
    [call] = [item for item in called.output if item.type == "function_call"]
    assert (call.name, json.loads(call.arguments)["city"]) == ("get_weather", "Paris")


def test_what_responses_cannot_do_is_refused_by_name(client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as raised:
        client.responses.create(model="echo", input="And then?", previous_response_id="resp_1")

    assert (raised.value.code, raised.value.param) == ("not_translated", "previous_response_id")
