"""A chat that is cut while the model still reasons has no answer: that is a failure of its own, with advice."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.endpoints import CHAT, COMPLETIONS, Endpoint
from schemas.outcome import Charge, CutWhileReasoning, Failed, Succeeded, Usage, public_message
from schemas.units import NanoUsd
from workers.core.constraints import constraints_of
from workers.ports import EngineRequest
from workers.run import checked

MOST = 4096


def a_choice(message: dict[str, Any], reason: str = "length") -> dict[str, Any]:
    return {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": reason}


def counted(reasoning: int, output: int = 256) -> dict[str, Any]:
    details = {"completion_tokens_details": {"reasoning_tokens": reasoning}}
    return {"prompt_tokens": 20, "completion_tokens": output, "total_tokens": 20 + output, **details}


def a_success(*choices: dict[str, Any], usage: dict[str, Any] | None = None, **used: Any) -> Succeeded:
    body = json.dumps({"choices": choices, "usage": usage}).encode()
    return Succeeded(body, Usage(20, used.pop("output", 256), **used), Charge(NanoUsd(5), "provider"))


def a_request(endpoint: Endpoint = CHAT, **fields: Any) -> EngineRequest:
    body = json.dumps({"messages": [{"role": "user", "content": "x"}], **fields}).encode()
    return EngineRequest("r", "m", endpoint, body, MOST, streamed=False, priority=0, constraints=constraints_of(body))


def cut(success: Succeeded, **fields: Any) -> CutWhileReasoning:
    outcome = checked(success, a_request(**fields))
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.failure, CutWhileReasoning)
    assert (outcome.usage, outcome.charge) == (success.usage, success.charge)
    return outcome.failure


@pytest.mark.parametrize(
    ("message", "usage"),
    [
        ({"content": ""}, counted(256)),  # OpenAI, Azure
        ({"content": None, "refusal": None, "tool_calls": None, "reasoning": "Hm"}, None),  # vLLM, Groq
        ({"content": None, "tool_calls": [], "reasoning_content": "Hm"}, None),  # DeepSeek, vLLM before 0.12
        (
            {"content": "", "reasoning": None, "reasoning_details": [{"type": "reasoning.encrypted"}]},
            None,
        ),  # OpenRouter
        ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}]}, None),  # Mistral
        ({}, {"prompt_tokens": 20, "total_tokens": 276}),  # Google
        ({"content": "\n<think>\nHm, the user"}, None),  # a model of which nobody takes the reasoning apart
        ({"content": " \n", "reasoning": "Hm"}, None),
    ],
)
def test_a_chat_that_is_nothing_but_reasoning_fails_with_its_cost(
    message: dict[str, Any], usage: dict[str, Any] | None
) -> None:
    found = cut(a_success(a_choice(message), usage=usage), max_completion_tokens=256)

    assert (found.field, found.limit_tokens, found.most_tokens, found.output_tokens) == (
        "max_completion_tokens",
        256,
        MOST,
        256,
    )
    assert found.reasoning_tokens == (256 if usage else 0)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"content": "The answ", "reasoning": "Hm"}, "length"),
        ({"content": [{"type": "text", "text": "The answ"}], "reasoning": "Hm"}, "length"),
        ({"content": "<think>Hm</think>The answ"}, "length"),
        ({"content": None, "reasoning": "Hm", "tool_calls": [{"function": {"name": "f"}}]}, "length"),
        ({"content": None, "reasoning": "Hm", "function_call": {"name": "f"}}, "length"),
        ({"content": None, "reasoning": "Hm", "refusal": "I will not"}, "length"),
        ({"content": None, "reasoning": "Hm", "audio": {"id": "a"}}, "length"),
        ({"content": "", "reasoning": "Hm"}, "stop"),
        ({"content": "", "reasoning": "Hm", "annotations": ["length"]}, "stop"),
        ({"content": "<think>Hm"}, "stop"),
        (
            {"content": ""},
            "length",
        ),  # it generated something that nobody sees, and nothing says that it was reasoning
        ({"content": 3, "reasoning": "Hm"}, "length"),
    ],
)
def test_an_answer_that_shows_anything_or_was_not_cut_stays_an_answer(message: dict[str, Any], reason: str) -> None:
    success = a_success(a_choice(message, reason), usage=counted(0))

    assert checked(success, a_request(max_tokens=256)) is success


def test_of_several_choices_all_must_be_cut() -> None:
    thought = a_choice({"content": "", "reasoning": "Hm"})

    assert cut(a_success(thought, thought, usage=counted(400, 512), output=512), max_tokens=256) == CutWhileReasoning(
        output_tokens=256, reasoning_tokens=200, field="max_tokens", limit_tokens=256, most_tokens=MOST
    )
    mixed = a_success(thought, a_choice({"content": "Yes"}), usage=counted(400, 512))
    assert checked(mixed, a_request(max_tokens=256)) is mixed


def test_it_is_told_before_what_the_answer_breaks_of_a_demand() -> None:
    success = a_success(a_choice({"content": None, "reasoning": "Hm"}))

    assert cut(success, max_tokens=256, response_format={"type": "json_object"}).limit_tokens == 256


def test_a_text_that_a_completion_continues_is_left_as_it_is() -> None:
    body = json.dumps({"choices": [{"index": 0, "text": "<think>", "finish_reason": "length"}]}).encode()
    success = Succeeded(body, Usage(1, 1))

    assert checked(success, a_request(COMPLETIONS, max_tokens=1)) is success


@pytest.mark.parametrize(
    ("fields", "output", "words"),
    [
        (
            {"max_tokens": 256},
            256,
            "its limit of 256 tokens (max_tokens) was reached, 256 of them counted as reasoning",
        ),
        ({"max_tokens": 256}, 256, "set max_tokens higher (this model allows 4096)"),
        ({"max_tokens": 9, "max_completion_tokens": 256}, 256, "set max_completion_tokens higher"),
        ({"max_tokens": None, "max_completion_tokens": 256.0}, 256, "set max_completion_tokens higher"),
        ({"max_tokens": MOST}, MOST, "have max_output_tokens of the model raised in the catalog"),
        ({}, MOST, "its limit of 4096 tokens (max_output_tokens of the model) was reached"),
        (
            {"max_tokens": 2000},
            1500,
            "cut after 1500 tokens, 256 of them counted as reasoning, below its limit of 2000",
        ),
        ({"max_tokens": 2000}, 1500, "Shorten the prompt"),
    ],
)
def test_its_message_names_the_limit_and_says_what_to_do(fields: dict[str, Any], output: int, words: str) -> None:
    found = cut(a_success(a_choice({"content": ""}), usage=counted(256, output), output=output), **fields)

    message = public_message(found)
    assert words in message
    assert "reasoning_effort" in message


def test_where_nobody_counted_the_limit_was_reached() -> None:
    success = a_success(a_choice({"content": "", "reasoning": "Hm"}), output=7, estimated=True)

    assert cut(success, max_tokens=256).output_tokens == 256


_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["", "length", "<think>", "x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "message", "content", "finish_reason", "reasoning", "usage", "tool_calls", "type", "text"]
            ),
            inner,
        )
    ),
    max_leaves=20,
)


@given(_values, _values)
def test_whatever_an_answer_looks_like_it_is_an_answer_or_a_failure(message: Any, usage: Any) -> None:
    choice = {"message": message, "finish_reason": "length"}
    success = Succeeded(json.dumps({"choices": [choice], "usage": usage}).encode(), Usage(1, 1))

    assert isinstance(checked(success, a_request()), Succeeded | Failed)
