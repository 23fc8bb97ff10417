"""A stream put together is the answer that would have come whole."""

import copy
import itertools
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.endpoints import CHAT, COMPLETIONS, Endpoint
from workers.core.assembly import ResponseAssembler


def put_together(*deltas: dict[str, Any]) -> dict[str, Any]:
    whole = ResponseAssembler(CHAT)
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


def a_call(name: str | None, arguments: str, **more: Any) -> dict[str, Any]:
    named = {} if name is None else {"name": name}
    return {"function": {**named, "arguments": arguments}, **more}


F, G = ("f", '{"a": 1}'), ("g", '{"b": 2}')


@pytest.mark.parametrize(
    "pieces",
    [
        [[a_call(*F, id="a", index=0)], [a_call(*G, id="b", index=0)]],
        [[a_call(*F, id="a", index=0), a_call(*G, id="b", index=0)]],
        [[a_call(*F, id="a"), a_call(*G, id="b")]],
        [[a_call(*F, id="a")], [a_call(*G, id="b")]],
        [[a_call("f", '{"a"', id="a", index=0)], [a_call(None, ": 1}", index=0)], [a_call(*G, id="b", index=0)]],
        [[a_call("f", '{"a"', id="a")], [a_call(None, ": 1}")], [a_call("g", "", id="b")], [a_call(None, G[1])]],
        [
            [a_call("f", '{"a"', id="a", index=0)],
            [a_call(None, ": 1}", id="a", index=0)],
            [a_call(*G, id="b", index=1)],
        ],
        [
            [a_call("f", '{"a"', id="a", index=0)],
            [a_call("f", ": 1}", id="", index=0)],
            [a_call(*G, id="b", index=1)],
        ],
        [[a_call("f", "", id=None, index=0)], [a_call(None, F[1], id="a", index=0)], [a_call(*G, id="b", index=1)]],
    ],
)
def test_a_new_id_begins_a_new_call(pieces: list[list[dict[str, Any]]]) -> None:
    message = put_together(*({"tool_calls": copy.deepcopy(calls)} for calls in pieces))

    assert [(call["id"], *call["function"].values()) for call in message["tool_calls"]] == [("a", *F), ("b", *G)]


def test_calls_without_ids_are_told_apart_by_index_place_or_name() -> None:
    for pieces in (
        [[a_call(*F, index=0), a_call(*G, index=1)]],
        [[a_call(*F), a_call(*G)]],
        [[a_call(*F)], [a_call(*G)]],
        [[a_call("f", '{"a"')], [a_call("f", ": 1}")], [a_call(*G)]],
    ):
        message = put_together(*({"tool_calls": calls} for calls in pieces))

        assert [tuple(call["function"].values()) for call in message["tool_calls"]] == [F, G]


def test_a_piece_gets_the_right_index_of_its_call() -> None:
    whole, pieces = ResponseAssembler(CHAT), [[a_call(*F, id="a", index=0)], [a_call(*G, id="b", index=0)]]

    for calls in pieces:
        whole.add({"choices": [{"index": 0, "delta": {"tool_calls": calls}}]})

    assert [call["index"] for calls in pieces for call in calls] == [0, 1]


def test_what_is_empty_says_nothing() -> None:
    body = body_of(
        {"choices": [{"delta": {"role": "assistant", "content": "a"}, "finish_reason": ""}]},
        {"choices": [{"delta": {"role": "", "content": ""}, "finish_reason": "stop"}]},
        {"choices": [{"delta": {"role": ""}, "finish_reason": ""}], "usage": {"prompt_tokens": 3}},
        {"choices": [], "usage": {"prompt_tokens": 0, "completion_tokens": 0}},
    )

    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "a"}
    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 0}


def test_a_usage_that_comes_in_parts_is_whole() -> None:
    body = body_of({"usage": {"prompt_tokens": 3, "completion_tokens": None}}, {"usage": {"completion_tokens": 5}})

    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 5}


def test_a_content_in_parts_is_text() -> None:
    parts = [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}]

    assert put_together({"content": "a"}, {"content": parts})["content"] == "abc"
    assert put_together({"content": [{"type": "thinking"}]})["content"] == [{"type": "thinking"}]


def test_it_is_finished_when_all_choices_that_were_asked_for_have_ended() -> None:
    whole = ResponseAssembler(COMPLETIONS)
    assert not whole.is_finished()

    whole.add({"choices": [{"index": 0, "text": "a", "finish_reason": "stop"}]})
    assert whole.is_finished()
    assert not whole.is_finished(2)

    whole.add({"choices": [{"index": 1, "text": "b", "finish_reason": None}]})
    assert not whole.is_finished(2)


def test_a_long_answer_is_not_copied_for_each_piece() -> None:
    whole, event = ResponseAssembler(CHAT), {"choices": [{"index": 0, "delta": {"content": "x" * 40}}]}
    began = time.process_time()

    for _ in range(50_000):
        whole.add(event)

    assert len(whole.body()) > 2_000_000
    assert time.process_time() - began < 1.5


def body_of(*events: dict[str, Any], endpoint: Endpoint = CHAT, **head: str) -> dict[str, Any]:
    whole = ResponseAssembler(endpoint)
    for event in events:
        whole.add(event)
    body: dict[str, Any] = json.loads(whole.body(**head))
    return body


def test_a_completion_is_text() -> None:
    body = body_of(
        {"choices": [{"index": 0, "text": "a"}]},
        {"choices": [{"index": 0, "text": "b", "finish_reason": "length"}]},
        endpoint=COMPLETIONS,
    )

    assert body["object"] == "text_completion"
    assert body["choices"] == [{"index": 0, "text": "ab", "finish_reason": "length"}]


def test_choices_stand_in_their_order_and_are_not_mixed() -> None:
    body = body_of(
        {"choices": [{"index": 1, "delta": {"content": "b"}, "finish_reason": "stop"}]},
        {"choices": [{"index": 0, "delta": {"content": "a"}}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "length", "stop_reason": 2}]},
    )

    assert [(choice["index"], choice["message"]["content"]) for choice in body["choices"]] == [(0, "a"), (1, "b")]
    assert [choice["finish_reason"] for choice in body["choices"]] == ["length", "stop"]
    assert body["choices"][0]["stop_reason"] == 2


def test_a_null_says_nothing_of_what_was_said_before() -> None:
    body = body_of(
        {"id": "g", "usage": {"prompt_tokens": 1}, "choices": [{"delta": {"role": "x"}, "finish_reason": "stop"}]},
        {"id": None, "usage": None, "choices": [{"delta": {"role": None, "content": None}, "finish_reason": None}]},
        {"choices": None},
    )

    assert (body["id"], body["usage"]) == ("g", {"prompt_tokens": 1})
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["choices"][0]["message"] == {"role": "x", "content": ""}


def test_the_head_is_the_first_ones_and_the_usage_the_last_ones() -> None:
    first = {"id": "g", "created": 1, "model": "m", "system_fingerprint": "f", "provider": "p", "service_tier": "s"}

    body = body_of(
        {**first, "usage": {"prompt_tokens": 1}}, {"id": "h", "usage": {"prompt_tokens": 2}}, model="public"
    )

    assert body == {
        **first,
        "model": "public",
        "object": "chat.completion",
        "choices": [],
        "usage": {"prompt_tokens": 2},
    }


def test_probabilities_go_on() -> None:
    body = body_of(
        {"choices": [{"delta": {"content": "a"}, "logprobs": {"content": [1], "refusal": None}}]},
        {"choices": [{"delta": {"content": "b"}, "logprobs": None}]},
        {"choices": [{"delta": {"content": "c"}, "logprobs": {"content": [2]}}]},
    )

    assert body["choices"][0]["logprobs"] == {"content": [1, 2], "refusal": []}


@pytest.mark.parametrize(
    "event",
    [
        [],
        {"choices": [5]},
        {"choices": 5},
        {"choices": [{"delta": {"tool_calls": [1]}}]},
        {"choices": [{"delta": {"function_call": {"arguments": 5}}}]},
    ],
)
def test_what_is_no_streaming_object_is_said_to_be_none(event: Any) -> None:
    with pytest.raises((AttributeError, TypeError, ValueError)):
        ResponseAssembler(CHAT).add(event)


@given(st.text(max_size=30), st.lists(st.integers(0, 30), max_size=5))
def test_a_text_is_whole_however_it_was_cut(text: str, cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(text)]

    assert put_together(*({"content": text[a:b]} for a, b in itertools.pairwise(places)))["content"] == text
