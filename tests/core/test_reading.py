"""The text and tokens of an OpenAI object are read as far as they can be, and nothing in it is an error."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.client.reading import StreamText, text_of, usage_of, was_cut
from schemas.outcome import Usage


def a_piece(content: object, **more: Any) -> bytes:
    return json.dumps({"choices": [{"index": 0, "delta": {"content": content}}], **more}).encode()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("Hi.", "Hi."),
        (None, ""),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab"),
        ([{"type": "image_url"}, None, {"type": "text", "text": None}, "x"], ""),
        ({"text": "a"}, ""),
        (7, ""),
    ],
)
def test_a_text_is_what_can_be_read(content: object, text: str) -> None:
    message = {"choices": [{"message": {"content": content}}]}

    assert text_of(json.dumps(message).encode()) == text
    assert StreamText().of(a_piece(content, usage=None)) == text


@pytest.mark.parametrize(
    ("choices", "cut"),
    [
        ([{"index": 0, "finish_reason": "length"}], True),
        ([{"index": 0, "finish_reason": "stop"}], False),
        ([{"index": 1, "finish_reason": "length"}, {"index": 0, "finish_reason": "stop"}], False),
        ([], False),
        (None, False),
    ],
)
def test_an_answer_is_cut_if_it_ends_at_a_limit(choices: object, *, cut: bool) -> None:
    assert was_cut(json.dumps({"choices": choices}).encode()) is cut
    assert not was_cut(b"[")


def test_a_completions_text_stands_in_its_choice() -> None:
    data = b'{"choices": [{"text": "Hi.", "logprobs": null}]}'

    assert (text_of(data), StreamText().of(data)) == ("Hi.", "Hi.")


def test_the_first_choice_is_read_wherever_it_stands() -> None:
    second = {"index": 1, "delta": {"content": "no"}, "message": {"content": "no"}}
    first = {"index": 0, "delta": {"content": "yes"}, "message": {"content": "yes"}}

    assert text_of(json.dumps({"choices": [second, first]}).encode()) == "yes"
    assert StreamText().of(json.dumps({"choices": [second]}).encode()) == ""


def test_half_a_character_waits_for_its_other_half() -> None:
    text = StreamText()

    assert [text.of(a_piece(part)) for part in ("x \ud83d", "\ude00 y", "\ud83d", "z")] == [
        "x ",
        "😀 y",
        "",
        "\ufffdz",
    ]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ('{"choices":[{"message":{"content":"Straße"}}]}'.encode("latin-1"), "Stra\ufffde"),
        (b'{"choices":[{"message":{"content":"cut \\ud83d"}}]}', "cut \ufffd"),
        (b'{"choices":[{"message":{"content":"a"},"logprobs":-Infinity}]}', "a"),
        (b'{"choices":[null,{"message":{"content":"a"}}]}', "a"),
        (b'{"choices":{}}', ""),
        (b"[]", ""),
        (b"", ""),
        (b"[" * 100_000, ""),
    ],
)
def test_foreign_bytes_spoil_no_text(data: bytes, text: str) -> None:
    assert text_of(data) == text


@pytest.mark.parametrize(
    ("usage", "counted"),
    [
        ({"prompt_tokens": 7, "completion_tokens": 3}, Usage(7, 3)),
        ({"prompt_tokens": 7.0, "completion_tokens": None}, Usage(7, 0)),
        ({"prompt_tokens": "7", "completion_tokens": -1}, Usage(0, 0)),
        ({}, Usage()),
        (None, Usage()),
        ([], Usage()),
    ],
)
def test_tokens_that_are_not_said_are_none(usage: object, counted: Usage) -> None:
    assert usage_of(json.dumps({"usage": usage}).encode()) == counted


_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "delta", "message", "content", "text", "index", "usage", "prompt_tokens"]),
            inner,
        )
    ),
)


@given(_values, st.binary())
def test_no_object_is_an_error(value: object, garbage: bytes) -> None:
    text = StreamText()
    for data in (json.dumps(value).encode(), garbage):
        assert isinstance(text.of(data), str)
        assert isinstance(text_of(data), str)
        assert usage_of(data).input_tokens >= 0


@given(st.text(), st.lists(st.integers(0, 50)))
def test_a_text_is_whole_however_it_was_cut(text: str, cuts: list[int]) -> None:
    units = text.encode("utf-16-le", "surrogatepass")
    places = sorted({2 * min(cut, len(units) // 2) for cut in cuts} | {0, len(units)})
    parts = [units[a:b].decode("utf-16-le", "surrogatepass") for a, b in itertools.pairwise(places)]
    stream = StreamText()

    assert "".join(stream.of(a_piece(part)) for part in parts) == text
