"""The official Python client of OpenAI asks for responses, which are translated to chat completions."""

import asyncio
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from openai import AsyncOpenAI, BadRequestError, NotFoundError, OpenAI
from pydantic import BaseModel

from tests.clients.running import System

ASK = "What is the capital of France?"
TOOL: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "Tells the weather in a city.",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


class Answer(BaseModel):
    city: Literal["Paris", "Rome"]
    is_capital: bool


@pytest.fixture
def client(system: System) -> Iterator[OpenAI]:
    with OpenAI(base_url=system.base_url, api_key=system.api_key) as made:
        yield made


def test_a_response_is_a_job_that_its_request_id_finds(client: OpenAI, system: System) -> None:
    answer = client.responses.create(model="echo", input=ASK, instructions="Be brief.", metadata={"of": "a test"})

    assert (answer.status, answer.error, answer.incomplete_details, answer.model) == ("completed", None, None, "echo")
    assert len(answer.output_text.split()) == 16
    assert answer.usage is not None
    assert (answer.usage.output_tokens, answer.usage.total_tokens) == (16, answer.usage.input_tokens + 16)
    job = system.job(answer._request_id)
    assert (job["state"], job["metadata"], job["endpoint"]) == ("succeeded", {"of": "a test"}, "/v1/chat/completions")
    assert answer.id == f"resp_{job['id'].replace('-', '')}"


def test_a_real_model_answers_within_its_limit(client: OpenAI) -> None:
    answer = client.responses.create(model="small", input=ASK, max_output_tokens=4, temperature=0)

    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.output_text
    assert answer.usage is not None
    assert answer.usage.output_tokens == 4


def test_the_events_of_a_stream_make_the_response(client: OpenAI) -> None:
    with client.responses.stream(model="thinker", input=ASK) as stream:
        events = list(stream)
        whole = stream.get_final_response()

    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    thought = "".join(event.delta for event in events if event.type == "response.reasoning_text.delta")
    assert text == whole.output_text
    reasoning, message = whole.output
    assert reasoning.type == "reasoning"
    assert [part.text for part in reasoning.content or []] == [thought]
    assert message.type == "message"
    assert whole.usage is not None
    assert whole.usage.output_tokens_details.reasoning_tokens == 4


def test_the_async_client_streams(system: System) -> None:
    async def asked() -> list[str]:
        async with AsyncOpenAI(base_url=system.base_url, api_key=system.api_key) as client:
            stream = await client.responses.create(model="echo", input=ASK, stream=True)
            return [event.type async for event in stream]

    kinds = asyncio.run(asked())

    assert kinds.count("response.output_text.delta") == 16
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")


@pytest.mark.parametrize("model", ["small", "thinker"])
def test_an_answer_is_parsed_into_a_model_of_pydantic(client: OpenAI, model: str) -> None:
    whole = client.responses.parse(model=model, input=ASK, text_format=Answer, temperature=0, max_output_tokens=64)
    with client.responses.stream(
        model=model, input=ASK, text_format=Answer, temperature=0, max_output_tokens=64
    ) as stream:
        streamed = stream.get_final_response()

    assert isinstance(whole.output_parsed, Answer)
    assert isinstance(streamed.output_parsed, Answer)


def test_a_tool_is_called_and_its_result_is_sent_back(client: OpenAI) -> None:
    conversation: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]

    first = client.responses.create(model="thinker", input=conversation, tools=[TOOL])
    [call] = first.output
    assert call.type == "function_call"
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "It rains."}
    second = client.responses.create(model="thinker", input=[*conversation, *first.output, result], tools=[TOOL])
    third = client.responses.create(
        model="thinker", input=[*conversation, *second.output, *conversation], tools=[TOOL], tool_choice="none"
    )

    assert (call.name, call.arguments) == ("get_weather", '{"city":"Paris"}')
    assert second.output_text
    assert third.output_text


def test_a_call_of_a_tool_is_streamed(client: OpenAI) -> None:
    with client.responses.stream(model="thinker", input=ASK, tools=[TOOL], tool_choice="required") as stream:
        deltas = [event.delta for event in stream if event.type == "response.function_call_arguments.delta"]
        [call] = stream.get_final_response().output

    assert len(deltas) > 1
    assert call.type == "function_call"
    assert call.arguments == "".join(deltas) == '{"city":"Paris"}'


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"store": True}, "store"),
        ({"background": True}, "background"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"max_output_tokens": 10**6}, "max_output_tokens"),
    ],
    ids=["store", "background", "previous", "web_search", "tokens"],
)
def test_what_is_not_served_is_refused_by_its_name(client: OpenAI, fields: Any, param: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        client.responses.create(**{"model": "echo", "input": ASK, **fields})

    assert caught.value.param == param
    assert caught.value.request_id


def test_what_the_engine_refuses_and_who_is_unknown_is_said(client: OpenAI) -> None:
    with pytest.raises(BadRequestError):
        client.responses.create(model="echo", input="This cannot be answered.", stream=True)
    with pytest.raises(NotFoundError, match="no model"):
        client.responses.create(model="none", input=ASK)
    with pytest.raises(NotFoundError, match="nothing is served"):
        client.responses.retrieve("resp_1")
