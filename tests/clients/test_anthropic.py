"""The official Python client of Anthropic: messages, streams, tools and errors."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic

from tests.clients.running import System, until

ASK: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
TOOL: Any = {
    "name": "get_weather",
    "description": "Tells the weather in a city.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
        "required": ["city"],
    },
}


@pytest.fixture
def client(system: System) -> Iterator[Anthropic]:
    with Anthropic(base_url=system.url, api_key=system.api_key, max_retries=0) as made:
        yield made


def test_a_message_is_answered_by_a_real_model(client: Anthropic) -> None:
    answer = client.messages.create(
        model="small", max_tokens=8, system="You are brief.", messages=ASK, extra_body={"temperature": 0}
    )

    [block] = answer.content
    assert block.type == "text"
    assert block.text
    assert (answer.role, answer.model) == ("assistant", "small")
    assert answer.stop_reason in {"end_turn", "max_tokens"}
    assert 0 < answer.usage.output_tokens <= 8


def test_a_stream_makes_the_same_message(client: Anthropic) -> None:
    with client.messages.stream(model="echo", max_tokens=100, messages=ASK) as stream:
        texts = list(stream.text_stream)
        whole = stream.get_final_message()

    [block] = whole.content
    assert block.type == "text"
    assert block.text == "".join(texts)
    assert (len(block.text.split()), whole.usage.output_tokens, whole.stop_reason) == (16, 16, "end_turn")


def test_the_async_client_streams_events(system: System) -> None:
    async def asked() -> list[str]:
        async with AsyncAnthropic(base_url=system.url, api_key=system.api_key) as client:
            stream = await client.messages.create(model="echo", max_tokens=100, messages=ASK, stream=True)
            return [event.type async for event in stream]

    kinds = asyncio.run(asked())

    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_a_tool_is_called_and_its_result_is_sent_back(client: Anthropic, *, streamed: bool) -> None:
    asked: Any = {"model": "caller", "max_tokens": 100, "tools": [TOOL]}
    question: Any = {"role": "user", "content": "What is the weather in Paris?"}

    if streamed:
        with client.messages.stream(messages=[question], **asked) as stream:
            first = stream.get_final_message()
    else:
        first = client.messages.create(messages=[question], **asked)
    [call] = [block for block in first.content if block.type == "tool_use"]
    result: Any = {
        "role": "user",
        "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "It rains."}],
    }
    assistant: Any = {"role": "assistant", "content": first.content}
    second = client.messages.create(messages=[question, assistant, result], tool_choice={"type": "none"}, **asked)

    assert first.stop_reason == "tool_use"
    assert (call.name, call.input) == ("get_weather", {"city": "Paris"})
    assert second.stop_reason == "end_turn"


@pytest.mark.parametrize(
    ("text", "model", "kind"),
    [
        ("Hello.", "none", anthropic.NotFoundError),
        ("cannot be answered", "echo", anthropic.BadRequestError),
        ("too much", "echo", anthropic.RateLimitError),
        ("x" * 300_000, "echo", anthropic.RequestTooLargeError),
        ("breaks it", "echo", anthropic.InternalServerError),
    ],
    ids=["model", "refused_by_the_engine", "throttled", "too_large", "fault"],
)
def test_each_error_is_its_exception(
    client: Anthropic, text: str, model: str, kind: type[anthropic.APIStatusError]
) -> None:
    with pytest.raises(kind) as raised:
        client.messages.create(model=model, max_tokens=9, messages=[{"role": "user", "content": text}])

    assert type(raised.value) is kind
    assert raised.value.request_id


def test_without_a_key_that_is_known_nobody_is_let_in(system: System, tmp_path: Path) -> None:
    file = tmp_path / "key"
    system.command("key", "create", "--role", "producer", "--models", "small", "--out", str(file))

    with (
        Anthropic(base_url=system.url, api_key="sk-of-another-service", max_retries=0) as stranger,
        pytest.raises(anthropic.AuthenticationError),
    ):
        stranger.messages.create(model="echo", max_tokens=9, messages=ASK)
    with (
        Anthropic(base_url=system.url, api_key=file.read_text().strip(), max_retries=0) as narrow,
        pytest.raises(anthropic.PermissionDeniedError),
    ):
        narrow.messages.create(model="echo", max_tokens=9, messages=ASK)


def test_a_paused_model_is_overloaded(client: Anthropic, system: System) -> None:
    system.command("pause", "model", "caller")
    try:
        with pytest.raises(anthropic.APIStatusError) as raised:
            client.messages.create(model="caller", max_tokens=9, messages=ASK)
    finally:
        system.command("resume", "model", "caller")

    assert isinstance(raised.value, anthropic.OverloadedError)
    assert int(raised.value.response.headers["retry-after"]) >= 1


def test_leaving_a_stream_cancels_it(client: Anthropic, system: System) -> None:
    with client.messages.stream(model="slow", max_tokens=1000, messages=ASK) as stream:
        next(iter(stream.text_stream))
        request = stream.request_id

    assert system.job(request)["state"] == "cancelled"
    until(lambda: not system.command("job", "list", "--state", "running"), "its slot is free")
