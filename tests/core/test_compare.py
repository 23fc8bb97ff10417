"""What a job and its repetition came to, side by side."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.compare import MOST_CHANGES, Ended, compared, text_of
from schemas.api import State
from schemas.repeats import Change, Compared, Comparison, Side
from tests.builders import an_id


def an_end(body: bytes | None, state: State = State.SUCCEEDED) -> Ended:
    return Ended(side=Side(job=an_id(), state=state, model="m"), body=body)


def a_chat(content: Any, **message: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": content, **message}, "finish_reason": "stop"}
    return json.dumps({"id": str(an_id()), "choices": [choice], "usage": {"prompt_tokens": 1}}).encode()


def a_comparison(old: bytes, new: bytes) -> Compared:
    return compared(an_end(old), an_end(new), custom_id=None, line=None)


@pytest.mark.parametrize(
    ("old", "new", "comparison"),
    [
        (State.SUCCEEDED, State.SUCCEEDED, Comparison.SAME),
        (State.SUCCEEDED, State.DEAD, Comparison.NOW_FAILS),
        (State.FAILED, State.SUCCEEDED, Comparison.NOW_SUCCEEDS),
        (State.EXPIRED, State.FAILED, Comparison.BOTH_FAIL),
        (None, State.SUCCEEDED, Comparison.UNKNOWN),
    ],
)
def test_states_are_compared_first(old: State | None, new: State, comparison: Comparison) -> None:
    ends = [None if state is None else an_end(body_of(state), state) for state in (old, new)]
    assert ends[1] is not None

    assert compared(ends[0], ends[1], custom_id=None, line=None).comparison is comparison


def body_of(state: State) -> bytes | None:
    return a_chat("x") if state is State.SUCCEEDED else None


def test_answers_are_the_same_whatever_their_ids_and_counts() -> None:
    assert a_comparison(a_chat("yes"), a_chat("yes")).comparison is Comparison.SAME


def test_texts_are_shown_from_where_they_differ_first() -> None:
    old, new = "word " * 20 + "old end", "word " * 20 + "new end"

    found = a_comparison(a_chat(old), a_chat(new))

    [change] = found.changes
    assert (change.path, found.comparison) == ("", Comparison.DIFFERENT)
    assert change.old == f"…{'word ' * 6}old end"
    assert change.new == f"…{'word ' * 6}new end"
    assert found.similarity == pytest.approx(21 / 22, abs=0.001)


def test_answers_in_json_are_compared_field_by_field() -> None:
    old = {"name": "a", "same": 1, "deep": {"list": [1, 2]}, "gone": True}
    new = {"name": "b", "same": 1, "deep": {"list": [1, 3, 4]}, "new": None}

    found = a_comparison(a_chat(json.dumps(old)), a_chat(json.dumps(new)))

    assert found.changes == (
        Change("name", "a", "b"),
        Change("deep.list[1]", "2", "3"),
        Change("deep.list[2]", None, "4"),
        Change("gone", "true", None),
        Change("new", None, "null"),
    )
    assert found.similarity is None


def test_spaces_and_the_order_of_fields_in_json_do_not_differ() -> None:
    assert a_comparison(a_chat('{"a": 1, "b": 2}'), a_chat('{"b":2,"a":1}')).comparison is Comparison.SAME


def test_true_is_not_one() -> None:
    assert a_comparison(a_chat('{"a": true}'), a_chat('{"a": 1}')).changes == (Change("a", "true", "1"),)


def test_calls_of_tools_are_compared_too() -> None:
    calls = [[{"id": "x", "function": {"name": "f", "arguments": text}}] for text in ("{}", '{"a":1}')]

    found = a_comparison(*(a_chat(None, tool_calls=call) for call in calls))

    assert [change.path for change in found.changes] == ["tool_calls[0].function.arguments"]


def test_only_so_many_changes_are_named() -> None:
    old, new = [{str(n): n + more for n in range(MOST_CHANGES + 5)} for more in (0, 1)]

    found = a_comparison(a_chat(json.dumps(old)), a_chat(json.dumps(new)))

    assert (len(found.changes), found.more_changes) == (MOST_CHANGES, 5)


def test_long_texts_are_compared_without_measuring_them() -> None:
    found = a_comparison(a_chat("a " * 100_000), a_chat("b " * 100_000))

    assert (found.comparison, found.similarity) == (Comparison.DIFFERENT, None)
    assert all(len(change.old or "") <= 201 for change in found.changes)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (None, ""),
        (a_chat("hello"), "hello"),
        (a_chat('{"a": 1}'), '{"a": 1}'),
        (b'{"choices":[{"index":0,"text":"said"}]}', "said"),
        (b'{"choices":[{"text":"a"},{"text":"b"}]}', '["a","b"]'),
        (b'{"data":[{"embedding":[1,2]}]}', '[{"embedding":[1,2]}]'),
        (b"not JSON \xff", "not JSON \N{REPLACEMENT CHARACTER}"),
        (b"[1]", "[1]"),
    ],
)
def test_the_text_of_an_answer_is_read_from_any_shape(body: bytes | None, text: str) -> None:
    assert text_of(body) == text


@given(st.binary(max_size=50), st.binary(max_size=50))
def test_whatever_was_answered_can_be_compared(old: bytes, new: bytes) -> None:
    found = a_comparison(old, new)

    assert (found.comparison is Comparison.DIFFERENT) >= bool(found.changes)
