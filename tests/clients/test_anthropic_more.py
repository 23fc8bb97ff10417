"""What the client of Anthropic has beyond plain messages: JSON, tools that run, thinking, and what is refused."""

from collections.abc import Iterator
from typing import Any, Literal

import anthropic
import pytest
from anthropic import Anthropic, beta_tool
from pydantic import BaseModel

from tests.clients.running import System

ASK: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
TOOL: Any = {
    "name": "get_weather",
    "description": "Tells the weather in a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
        "required": ["city"],
    },
}


class Answer(BaseModel):
    city: Literal["Paris", "Rome"]
    is_capital: bool


@pytest.fixture
def client(system: System) -> Iterator[Anthropic]:
    with Anthropic(base_url=system.url, api_key=system.api_key) as made:
        yield made


def test_a_message_is_a_job_that_its_request_id_finds(client: Anthropic, system: System) -> None:
    answer = client.messages.create(model="echo", max_tokens=100, system="Be brief.", messages=ASK)

    [block] = answer.content
    assert block.type == "text"
    assert len(block.text.split()) == answer.usage.output_tokens == 16
    assert (answer.role, answer.model, answer.stop_reason) == ("assistant", "echo", "end_turn")
    assert answer.usage.input_tokens > 0
    job = system.job(answer._request_id)
    assert (job["state"], job["endpoint"]) == ("succeeded", "/v1/chat/completions")
    assert answer.id == f"msg_{job['id'].replace('-', '')}"


def test_the_key_comes_as_a_token_too(system: System) -> None:
    with Anthropic(base_url=system.url, api_key=None, auth_token=system.api_key) as client:
        assert client.messages.create(model="echo", max_tokens=4, messages=ASK).stop_reason == "max_tokens"


def test_a_real_model_answers_whole_and_streamed(client: Anthropic) -> None:
    asked: Any = {"model": "small", "max_tokens": 12, "messages": ASK, "extra_body": {"temperature": 0, "top_k": 5}}

    whole = client.messages.create(**asked)
    with client.messages.stream(**asked) as stream:
        text = "".join(stream.text_stream)
        streamed = stream.get_final_message()

    assert whole.content[0].type == streamed.content[0].type == "text"
    assert streamed.content[0].text == text
    assert whole.stop_reason in {"end_turn", "max_tokens"}
    assert 0 < streamed.usage.output_tokens <= 12
    assert streamed.usage.input_tokens + (streamed.usage.cache_read_input_tokens or 0) > 5


def test_a_call_of_a_tool_is_streamed(client: Anthropic) -> None:
    with client.messages.stream(
        model="thinker", max_tokens=100, tools=[TOOL], tool_choice={"type": "any"}, messages=ASK
    ) as stream:
        pieces = [event.partial_json for event in stream if event.type == "input_json"]
        [call] = stream.get_final_message().content

    assert "".join(pieces) == '{"city":"Paris"}'
    assert call.type == "tool_use"
    assert call.input == {"city": "Paris"}


def test_the_tool_runner_goes_on_without_threads(client: Anthropic) -> None:
    cities: list[str] = []

    def weather(city: str) -> str:
        """Tell the weather in a city."""
        cities.append(city)
        return "It rains."

    runner = client.beta.messages.tool_runner(
        model="thinker", max_tokens=100, tools=[beta_tool(weather)], messages=ASK
    )
    last = runner.until_done()

    assert cities == ["word"]
    assert last.content[-1].type == "text"


@pytest.mark.parametrize("model", ["small", "thinker"])
def test_an_answer_is_parsed_into_a_model_of_pydantic(client: Anthropic, model: str) -> None:
    answer = client.messages.parse(model=model, max_tokens=100, messages=ASK, output_format=Answer)

    assert isinstance(answer.parsed_output, Answer)


def test_reasoning_is_shown_to_those_who_ask(client: Anthropic) -> None:
    asked: Any = {"model": "thinker", "max_tokens": 100, "messages": ASK}

    plain = client.messages.create(**asked)
    with client.messages.stream(**asked, thinking={"type": "enabled", "budget_tokens": 1024}) as stream:
        thoughtful = stream.get_final_message()

    assert [block.type for block in plain.content] == ["text"]
    assert [block.type for block in thoughtful.content] == ["thinking", "text"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"max_tokens": 8000}, "max_tokens is 8000"),
        ({"container": "c"}, "container: "),
        ({"messages": [*ASK, {"role": "assistant", "content": "It"}]}, r"messages\[1\]: "),
    ],
    ids=["tokens", "container", "prefill"],
)
def test_what_is_not_served_is_refused_by_its_name(client: Anthropic, fields: Any, words: str) -> None:
    asked = {"model": "echo", "max_tokens": 4, "messages": ASK, **fields}

    with pytest.raises(anthropic.BadRequestError, match=words) as raised:
        client.messages.create(**asked)

    assert raised.value.request_id


def test_who_counts_tokens_is_told_that_this_is_not_served(client: Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match="nothing is served"):
        client.messages.count_tokens(model="echo", messages=ASK)
