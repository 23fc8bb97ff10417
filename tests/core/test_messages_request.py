"""What a request for /v1/messages asks of a chat completion, and what of it is refused."""

from typing import Any

import msgspec
import pytest

from broker.core.dialects.messages_request import MessagesRequest, translated
from schemas.outcome import Refused

USER = {"role": "user", "content": "Hi"}
TOOL = {"name": "f", "description": "d", "input_schema": {"type": "object"}, "cache_control": {"type": "ephemeral"}}
FUNCTION = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
TEXT = {"type": "text", "text": "a"}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
IMAGE_URL = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
THINKING = {"type": "thinking", "thinking": "hm", "signature": "x"}


def encoded(**fields: Any) -> bytes:
    return msgspec.json.encode({"model": "m", "max_tokens": 5, "messages": [USER], **fields})


def translate(**fields: Any) -> MessagesRequest:
    read = translated(encoded(**fields))
    assert isinstance(read, MessagesRequest), read
    return read


def chat(**fields: Any) -> dict[str, Any]:
    body: dict[str, Any] = msgspec.json.decode(translate(**fields).chat)
    return body


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {}),
        ({"stream": True}, {"stream": True}),
        ({"temperature": 0.5, "top_p": 0.25, "top_k": 3}, {"temperature": 0.5, "top_p": 0.25, "top_k": 3}),
        ({"stop_sequences": ["END"]}, {"stop": ["END"]}),
        ({"metadata": {"user_id": "u"}}, {"user": "u"}),
        ({"service_tier": "auto", "cache_control": {"type": "ephemeral"}, "container": None}, {}),
        ({"thinking": {"type": "disabled"}}, {}),
        ({"context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}}, {}),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, {"reasoning_effort": "low"}),
        ({"thinking": {"type": "enabled", "budget_tokens": 10_000}}, {"reasoning_effort": "medium"}),
        ({"thinking": {"type": "enabled", "budget_tokens": 30_000}}, {"reasoning_effort": "high"}),
        ({"thinking": {"type": "adaptive"}}, {}),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}}, {"reasoning_effort": "max"}),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": {"a": 1}}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "answer", "schema": {"a": 1}, "strict": True},
                }
            },
        ),
        ({"tools": [], "tool_choice": {"type": "auto"}}, {}),
        ({"tools": [TOOL]}, {"tools": [FUNCTION]}),
        ({"tools": [TOOL], "tool_choice": {"type": "auto"}}, {"tools": [FUNCTION], "tool_choice": "auto"}),
        ({"tools": [TOOL], "tool_choice": {"type": "none"}}, {"tools": [FUNCTION], "tool_choice": "none"}),
        (
            {"tools": [TOOL], "tool_choice": {"type": "any", "disable_parallel_tool_use": True}},
            {"tools": [FUNCTION], "tool_choice": "required", "parallel_tool_calls": False},
        ),
        (
            {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "f"}},
            {"tools": [FUNCTION], "tool_choice": {"type": "function", "function": {"name": "f"}}},
        ),
    ],
)
def test_the_chat_completion_of_a_request(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    assert chat(**fields) == {"model": "m", "messages": [USER], "max_tokens": 5} | expected


@pytest.mark.parametrize(
    ("thinking", "shows"),
    [
        (None, False),
        ({"type": "disabled"}, False),
        ({"type": "adaptive"}, True),
        ({"type": "enabled", "budget_tokens": 1024, "display": "summarized"}, True),
        ({"type": "enabled", "budget_tokens": 1024, "display": "omitted"}, False),
    ],
)
def test_reasoning_is_shown_to_those_who_ask(thinking: Any, *, shows: bool) -> None:
    assert translate(thinking=thinking).shows_thinking is shows


def a_result(content: Any, **fields: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "t", "content": content, **fields}


CALLED = {
    "role": "assistant",
    "content": [
        THINKING,
        TEXT,
        {"type": "tool_use", "id": "t", "name": "f", "input": {"n": 1}, "caller": {"type": "direct"}},
    ],
}
CALL = {
    "role": "assistant",
    "content": "a",
    "tool_calls": [{"id": "t", "type": "function", "function": {"name": "f", "arguments": '{"n":1}'}}],
}


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([{"role": "user", "content": [TEXT]}], [{"role": "user", "content": "a"}]),
        (
            [{"role": "user", "content": [{**TEXT, "cache_control": {"type": "ephemeral"}}, IMAGE]}],
            [{"role": "user", "content": [TEXT, IMAGE_URL]}],
        ),
        (
            [USER, {"role": "assistant", "content": [TEXT, TEXT]}, USER],
            [USER, {"role": "assistant", "content": "aa"}, USER],
        ),
        ([USER, {"role": "system", "content": "s"}], [USER, {"role": "system", "content": "s"}]),
        (
            [USER, CALLED, {"role": "user", "content": [a_result("3"), TEXT]}],
            [USER, CALL, {"role": "tool", "tool_call_id": "t", "content": "3"}, {"role": "user", "content": "a"}],
        ),
        (
            [USER, CALLED, {"role": "user", "content": [a_result([TEXT, IMAGE], is_error=True)]}],
            [
                USER,
                CALL,
                {"role": "tool", "tool_call_id": "t", "content": "Error: a"},
                {"role": "user", "content": [IMAGE_URL]},
            ],
        ),
        (
            [USER, CALLED, {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t"}]}],
            [USER, CALL, {"role": "tool", "tool_call_id": "t", "content": ""}],
        ),
        (
            [
                USER,
                {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {"n": 1}}]},
                USER,
            ],
            [USER, {**CALL, "content": None}, USER],
        ),
    ],
)
def test_the_messages_of_a_conversation(messages: list[Any], expected: list[Any]) -> None:
    assert chat(messages=messages)["messages"] == expected


@pytest.mark.parametrize("system", ["a\nb", [TEXT, {"type": "text", "text": "b"}]])
def test_the_system_prompt_comes_first(system: Any) -> None:
    assert chat(system=system)["messages"] == [{"role": "system", "content": "a\nb"}, USER]


def a_user(*blocks: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(blocks)}]}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"container": "c"}, "container"),
        ({"mcp_servers": [{"type": "url"}]}, "mcp_servers"),
        (
            {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}},
            "context_management.edits[0].type",
        ),
        ({"context_management": {"other": 1}}, "context_management.other"),
        ({"speed": "fast"}, "speed"),
        ({"thread": {"type": "create"}}, "thread"),
        ({"seed": 1}, "seed"),
        ({"metadata": {"other": 1}}, "metadata.other"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tools": [{**TOOL, "defer_loading": True}]}, "tools[0].defer_loading"),
        ({"messages": [USER, {"role": "assistant", "content": "I"}]}, "messages[1]"),
        ({"system": [IMAGE]}, "system[0].type"),
        (a_user({"type": "document", "source": {}}), "messages[0].content[0].type"),
        (
            a_user(TEXT, {"type": "image", "source": {"type": "file", "file_id": "f"}}),
            "messages[0].content[1].source.type",
        ),
        (a_user({**TEXT, "citations": [{}]}), "messages[0].content[0].citations"),
        (a_user(a_result([{"type": "search_result"}])), "messages[0].content[0].content[0].type"),
        ({"messages": [{"role": "assistant", "content": [IMAGE]}, USER]}, "messages[0].content[0].type"),
    ],
)
def test_what_cannot_be_translated_is_refused_by_its_name(fields: dict[str, Any], field: str) -> None:
    refused = translated(encoded(**fields))

    assert isinstance(refused, Refused)
    assert (refused.code, refused.field) == ("not_translated", f"body.{field}")
    assert refused.message.startswith(f"{field}: ")


def test_addresses_of_media_are_refused_as_admission_does() -> None:
    refused = translated(
        encoded(**a_user({"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}))
    )

    assert isinstance(refused, Refused)
    assert (refused.code, refused.field) == ("media_url", "body.messages[0].content[0].source")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"model": None}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": [3]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role"),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
        ({"tools": [TOOL], "tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
    ],
)
def test_what_is_misshapen_is_refused_by_its_place(fields: dict[str, Any], field: str) -> None:
    refused = translated(encoded(**fields))

    assert isinstance(refused, Refused)
    assert (refused.code, refused.field) == ("body_shape", f"body.{field}")
