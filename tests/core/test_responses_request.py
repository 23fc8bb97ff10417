"""What a request for /v1/responses asks of a chat completion, and what of it is refused."""

from typing import Any

import msgspec
import pytest

from broker.core.dialects.responses_request import ResponsesRequest, translated
from schemas.outcome import Refused

USER = {"role": "user", "content": "Hi"}
IMAGE = "data:image/png;base64,AAAA"
FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True, "description": "d"}
OTHER = {"type": "function", "name": "g"}
FUNCTIONS = [
    {
        "type": "function",
        "function": {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True},
    },
    {"type": "function", "function": {"name": "g"}},
]


def translate(**fields: Any) -> ResponsesRequest:
    read = translated(msgspec.json.encode({"model": "m", "input": "Hi", **fields}))
    assert isinstance(read, ResponsesRequest), read
    return read


def chat(**fields: Any) -> dict[str, Any]:
    body: dict[str, Any] = msgspec.json.decode(translate(**fields).chat)
    return body


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {}),
        ({"stream": True}, {"stream": True}),
        (
            {"max_output_tokens": 5, "temperature": 0.5, "top_p": 0.25},
            {"max_tokens": 5, "temperature": 0.5, "top_p": 0.25},
        ),
        ({"text": {"format": {"type": "text"}, "verbosity": "low"}}, {"verbosity": "low"}),
        ({"text": {"format": {"type": "json_object"}}}, {"response_format": {"type": "json_object"}}),
        (
            {
                "text": {
                    "format": {
                        "type": "json_schema",
                        "name": "n",
                        "schema": {"a": 1},
                        "strict": True,
                        "description": "d",
                    }
                }
            },
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": {"a": 1}, "description": "d", "strict": True},
                }
            },
        ),
        ({"reasoning": {"effort": "low", "summary": "auto"}}, {"reasoning_effort": "low"}),
        ({"user": "u", "safety_identifier": "s", "prompt_cache_key": "k", "service_tier": "auto"}, {"user": "u"}),
        ({"include": ["message.output_text.logprobs"], "top_logprobs": 2}, {"logprobs": True, "top_logprobs": 2}),
        ({"include": ["reasoning.encrypted_content"]}, {}),
        ({"store": False, "background": False, "truncation": "disabled", "previous_response_id": None}, {}),
        ({"tools": [], "tool_choice": "auto", "parallel_tool_calls": True}, {}),
        ({"tools": [FUNCTION, OTHER]}, {"tools": FUNCTIONS}),
        (
            {"tools": [FUNCTION, OTHER], "tool_choice": "required", "parallel_tool_calls": False},
            {"tools": FUNCTIONS, "tool_choice": "required", "parallel_tool_calls": False},
        ),
        (
            {"tools": [FUNCTION, OTHER], "tool_choice": {"type": "function", "name": "g"}},
            {"tools": FUNCTIONS, "tool_choice": {"type": "function", "function": {"name": "g"}}},
        ),
        (
            {
                "tools": [FUNCTION, OTHER],
                "tool_choice": {
                    "type": "allowed_tools",
                    "mode": "auto",
                    "tools": [{"type": "function", "name": "g"}],
                },
            },
            {"tools": FUNCTIONS[1:], "tool_choice": "auto"},
        ),
    ],
)
def test_the_chat_completion_of_a_request(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    assert chat(**fields) == {"model": "m", "messages": [USER]} | expected


def call(number: int) -> dict[str, Any]:
    return {
        "type": "function_call",
        "call_id": f"c{number}",
        "name": "f",
        "arguments": "{}",
        "id": "fc",
        "status": "completed",
    }


def called(number: int) -> dict[str, Any]:
    return {"id": f"c{number}", "type": "function", "function": {"name": "f", "arguments": "{}"}}


ANSWER = {
    "type": "message",
    "role": "assistant",
    "id": "msg_1",
    "status": "completed",
    "phase": None,
    "content": [
        {"type": "output_text", "text": "so", "annotations": [], "logprobs": []},
        {"type": "refusal", "refusal": " no"},
    ],
}


@pytest.mark.parametrize(
    ("items", "messages"),
    [
        ([USER], [USER]),
        (
            [
                {"role": "system", "content": "a"},
                {"role": "developer", "content": [{"type": "input_text", "text": "b"}]},
                USER,
            ],
            [{"role": "system", "content": "a\n\nb"}, USER],
        ),
        ([USER, {"role": "developer", "content": "a"}], [USER, {"role": "system", "content": "a"}]),
        ([USER, ANSWER, USER], [USER, {"role": "assistant", "content": "so no"}, USER]),
        (
            [
                USER,
                {"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "x"},
                call(1),
                call(2),
                {"type": "function_call_output", "call_id": "c1", "output": "1"},
                {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "2"}]},
            ],
            [
                USER,
                {"role": "assistant", "content": None, "tool_calls": [called(1), called(2)]},
                {"role": "tool", "tool_call_id": "c1", "content": "1"},
                {"role": "tool", "tool_call_id": "c2", "content": "2"},
            ],
        ),
        ([USER, ANSWER, call(1)], [USER, {"role": "assistant", "content": "so no", "tool_calls": [called(1)]}]),
        (
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "input_text", "text": "See", "prompt_cache_breakpoint": {"mode": "explicit"}},
                        {"type": "input_image", "image_url": IMAGE, "detail": "low", "file_id": None},
                        {"type": "input_file", "file_data": "data:application/pdf;base64,AA", "filename": "a.pdf"},
                    ],
                }
            ],
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "See"},
                        {"type": "image_url", "image_url": {"url": IMAGE, "detail": "low"}},
                        {
                            "type": "file",
                            "file": {"file_data": "data:application/pdf;base64,AA", "filename": "a.pdf"},
                        },
                    ],
                }
            ],
        ),
    ],
)
def test_the_messages_of_a_conversation(items: list[Any], messages: list[Any]) -> None:
    assert chat(input=items)["messages"] == messages


def test_instructions_come_first() -> None:
    assert chat(instructions="Be brief.")["messages"] == [{"role": "system", "content": "Be brief."}, USER]


def an_input(*parts: Any, role: str = "user") -> dict[str, Any]:
    return {"input": [{"role": role, "content": list(parts)}]}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"store": True}, "store"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"truncation": "auto"}, "truncation"),
        ({"include": ["web_search_call.results"]}, "include[0]"),
        ({"max_tool_calls": 1}, "max_tool_calls"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"stream_options": {"include_obfuscation": True}}, "stream_options"),
        ({"reasoning": {"summary": "detailed"}}, "reasoning.summary"),
        ({"reasoning": {"other": 1}}, "reasoning.other"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
        ({"text": {"other": 1}}, "text.other"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [OTHER, {**FUNCTION, "defer_loading": True}]}, "tools[1].defer_loading"),
        ({"tools": [FUNCTION], "tool_choice": "some"}, "tool_choice"),
        ({"tools": [FUNCTION], "tool_choice": {"type": "mcp"}}, "tool_choice.type"),
        ({"seed": 1}, "seed"),
        ({"input": [USER, {"type": "item_reference", "id": "x"}]}, "input[1].type"),
        ({"input": [{**USER, "name": "n"}]}, "input[0].name"),
        (an_input({"type": "input_audio", "input_audio": {}}), "input[0].content[0].type"),
        (an_input({"type": "input_image", "file_id": "file_1"}), "input[0].content[0].file_id"),
        (an_input({"type": "input_image", "image_url": IMAGE}, role="assistant"), "input[0].content[0]"),
        (
            {
                "input": [
                    {
                        "type": "function_call_output",
                        "call_id": "c",
                        "output": [{"type": "input_image", "image_url": IMAGE}],
                    }
                ]
            },
            "input[0].output[0]",
        ),
    ],
)
def test_what_cannot_be_translated_is_refused_by_its_name(fields: dict[str, Any], field: str) -> None:
    refused = translated(msgspec.json.encode({"model": "m", "input": "Hi", **fields}))

    assert isinstance(refused, Refused)
    assert (refused.code, refused.field) == ("not_translated", f"body.{field}")
    assert refused.message.startswith(f"{field}: ")


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ({"type": "input_image", "image_url": "https://example.com/a.png"}, "image_url"),
        ({"type": "input_file", "file_data": "file:///etc/passwd"}, "file_data"),
    ],
)
def test_addresses_of_media_are_refused_as_admission_does(part: dict[str, Any], field: str) -> None:
    refused = translated(msgspec.json.encode({"model": "m", **an_input(part)}))

    assert isinstance(refused, Refused)
    assert (refused.code, refused.field) == ("media_url", f"body.input[0].content[0].{field}")


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        (b"{", "body_not_json", "body"),
        (b"\xff", "body_not_json", "body"),
        (b'{"model":"m","input":[{"role":' + b"[" * 100_000, "body_not_json", "body"),
        (b"[]", "body_shape", "body"),
        (b'{"model":"m"}', "body_shape", "body.input"),
        (b'{"input":"Hi"}', "body_shape", "body.model"),
        (b'{"model":"m","input":[]}', "body_shape", "body.input"),
        (b'{"model":"m","input":[{"role":"user","content":[]}]}', "body_shape", "body.input[0].content"),
        (b'{"model":"m","input":[{"role":"tool","content":"a"}]}', "body_shape", "body.input[0].role"),
        (b'{"model":"m","input":[{"type":3}]}', "body_shape", "body.input[0].type"),
        (b'{"model":"m","input":"Hi","temperature":"hot"}', "body_shape", "body.temperature"),
        (b'{"model":"m","input":[{"type":"function_call","name":"f"}]}', "body_shape", "body.input[0].call_id"),
    ],
)
def test_what_is_misshapen_is_refused_by_its_place(body: bytes, code: str, field: str) -> None:
    refused = translated(body)

    assert isinstance(refused, Refused)
    assert (refused.code, refused.field) == (code, field)


def test_metadata_is_of_the_job_and_is_repeated() -> None:
    read = translate(metadata={"team": "a"}, instructions="Be brief.")

    assert read.metadata == read.repeated["metadata"] == {"team": "a"}
    assert b"team" not in read.chat
    assert read.repeated["instructions"] == "Be brief."
