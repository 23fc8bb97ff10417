"""A stream put together is the answer that would have come whole."""

import json
import time
from typing import Any

from schemas.catalog import CHAT, COMPLETIONS
from workers.core.whole import Whole


def put_together(*deltas: dict[str, Any]) -> dict[str, Any]:
    whole = Whole(CHAT)
    for delta in deltas:
        whole.add({"choices": [{"index": 0, "delta": delta}]})
    message: dict[str, Any] = json.loads(whole.body())["choices"][0]["message"]
    return message


def test_texts_are_joined_and_lists_go_on() -> None:
    message = put_together(
        {"role": "assistant", "content": "", "reasoning": "Hm"},
        {"content": "a", "reasoning": "m", "annotations": [1]},
        {"content": "b", "annotations": [2], "refusal": None},
    )

    assert message == {"role": "assistant", "content": "ab", "reasoning": "Hmm", "annotations": [1, 2]}


def test_the_halves_of_a_character_are_joined() -> None:
    assert put_together({"content": "\ud83d"}, {"content": "\ude00"})["content"] == "\U0001f600"
    assert put_together({"content": "\ud83d"}, {"content": "x"})["content"] == "\ufffdx"


def test_calls_are_put_together() -> None:
    tools = put_together(
        {"tool_calls": [{"index": 1, "id": "t1", "function": {"name": "g", "arguments": "{}"}}]},
        {"tool_calls": [{"index": 0, "id": "t0", "type": "function", "function": {"name": "f", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ": 1}"}}]},
    )
    legacy = put_together(
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": ""}},
        {"function_call": {"arguments": '{"a"'}},
        {"function_call": {"arguments": ": 1}"}},
    )

    assert tools["content"] is None
    assert tools["tool_calls"] == [
        {"id": "t0", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
        {"id": "t1", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]
    called = {"name": "f", "arguments": '{"a": 1}'}
    assert legacy == {"role": "assistant", "content": None, "function_call": called}


def test_it_is_finished_when_all_choices_that_were_asked_for_have_ended() -> None:
    whole = Whole(COMPLETIONS)
    assert not whole.is_finished()

    whole.add({"choices": [{"index": 0, "text": "a", "finish_reason": "stop"}]})
    assert whole.is_finished()
    assert not whole.is_finished(2)

    whole.add({"choices": [{"index": 1, "text": "b", "finish_reason": None}]})
    assert not whole.is_finished(2)


def test_a_long_answer_is_not_copied_for_each_piece() -> None:
    whole, event = Whole(CHAT), {"choices": [{"index": 0, "delta": {"content": "x" * 40}}]}
    began = time.process_time()

    for _ in range(50_000):
        whole.add(event)

    assert len(whole.body()) > 2_000_000
    assert time.process_time() - began < 1.5
