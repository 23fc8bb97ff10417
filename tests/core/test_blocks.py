"""Which blocks an answer has, in which order they begin and end, and what is read of answers."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.dialects.answers import CallPiece, Said, Usage, said_in
from broker.core.dialects.blocks import Blocks, Change, Closed, Grew, Kind, Opened
from tests.core.chat_answers import USAGE, a_call, a_piece, a_whole, streams


def told(changes: list[Change]) -> list[str]:
    """Write changes as words, such as `+0 TEXT`, `0 so`, `-0`."""
    words = []
    for change in changes:
        match change:
            case Opened(block):
                words.append(f"+{block.place} {block.kind.name}")
            case Grew(block, text):
                words.append(f"{block.place} {text}")
            case Closed(block):
                words.append(f"-{block.place}")
    return words


def a_call_piece(index: int, **function: str) -> bytes:
    named = {"id": f"call_{index}"} if "name" in function else {}
    return a_piece(tool_calls=[{"index": index, **named, "function": function}])


@pytest.mark.parametrize(
    ("pieces", "whole", "expected"),
    [
        pytest.param(
            [a_piece(content="so"), a_piece(content="!")], a_whole(content="so!"), "+0 TEXT|0 so|0 !|-0", id="text"
        ),
        pytest.param(
            [a_piece(reasoning="hm"), a_piece(content="so")],
            a_whole(content="so", reasoning="hm"),
            "+0 REASONING|0 hm|-0|+1 TEXT|1 so|-1",
            id="reasoning-ends-when-the-text-begins",
        ),
        pytest.param(
            [], a_whole(content="so", refusal="no"), "+0 TEXT|0 so|-0|+1 REFUSAL|1 no|-1", id="no-piece-came"
        ),
        pytest.param(
            [a_piece(content="so")], a_whole(content="so long"), "+0 TEXT|0 so|0  long|-0", id="a-piece-is-missing"
        ),
        pytest.param([a_piece(content="so")], a_whole(content="other"), "+0 TEXT|0 so|-0", id="the-whole-differs"),
        pytest.param([], a_whole(content=""), "+0 TEXT|-0", id="nothing-was-said"),
        pytest.param([], b"not json", "+0 TEXT|-0", id="unreadable"),
        pytest.param(
            [a_call_piece(0, name="f"), a_call_piece(0, arguments="{}"), a_call_piece(1, name="g", arguments="{}")],
            a_whole(tool_calls=[a_call("f", "{}"), a_call("g", "{}")]),
            "+0 CALL|0 {}|-0|+1 CALL|1 {}|-1",
            id="one-call-after-the-other",
        ),
        pytest.param(
            [
                a_call_piece(0, name="f", arguments="{"),
                a_call_piece(1, name="g", arguments="{"),
                a_call_piece(0, arguments="}"),
            ],
            a_whole(tool_calls=[a_call("f", "{}"), a_call("g", "{}")]),
            "+0 CALL|0 {|+1 CALL|1 {|0 }|1 }|-0|-1",
            id="calls-by-turns",
        ),
        pytest.param(
            [
                a_piece(tool_calls=[{"index": 3, "id": "c"}]),
                a_call_piece(3, arguments="{"),
                a_call_piece(3, name="f", arguments="}"),
            ],
            a_whole(tool_calls=[a_call("f", "{}")]),
            "+0 CALL|0 {}|-0",
            id="a-call-begins-with-its-name",
        ),
    ],
)
def test_the_blocks_of_an_answer(pieces: list[bytes], whole: bytes, expected: str) -> None:
    blocks = Blocks()

    changes = [change for piece in pieces for change in blocks.add(said_in(piece))]
    changes += blocks.end(said_in(whole))

    assert "|".join(told(changes)) == expected


def test_reasoning_that_nobody_asked_for_is_no_block() -> None:
    blocks = Blocks(shows_reasoning=False)

    blocks.add(said_in(a_piece(reasoning="hm")))
    blocks.end(said_in(a_whole(content="so", reasoning="hm")))

    assert [block.kind for block in blocks.all] == [Kind.TEXT]


def test_logprobs_belong_to_their_text() -> None:
    token = {"token": "so", "logprob": -0.5, "bytes": [115, 111], "top_logprobs": []}
    choice = {"index": 0, "message": {"content": "so"}, "logprobs": {"content": [token]}, "finish_reason": "stop"}
    blocks = Blocks()

    blocks.end(said_in(msgspec.json.encode({"choices": [choice]})))

    assert blocks.all[0].logprobs == [token]


@given(streams(), st.data())
def test_pieces_cut_anywhere_make_the_blocks_of_the_whole_answer(
    stream: tuple[list[bytes], bytes], data: st.DataObject
) -> None:
    pieces, whole = stream
    streamed, at_once = Blocks(), Blocks()

    for piece in pieces[: data.draw(st.integers(0, len(pieces)))]:
        streamed.add(said_in(piece))
    streamed.end(said_in(whole))
    at_once.end(said_in(whole))

    assert [(b.kind, b.place, b.call, b.name, b.text, b.is_open) for b in streamed.all] == [
        (b.kind, b.place, b.call, b.name, b.text, b.is_open) for b in at_once.all
    ]


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"content": "so"}, Said(text="so")),
        ({"content": [{"type": "text", "text": "s"}, {"text": "o"}, {"type": "image"}, 3]}, Said(text="so")),
        ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]}, Said(reasoning="hm")),
        ({"reasoning": "a", "reasoning_content": "b"}, Said(reasoning="a")),
        ({"refusal": "no"}, Said(refusal="no")),
        ({"tool_calls": [a_call("f", "{}", call="c")]}, Said(calls=(CallPiece(0, "c", "f", "{}"),))),
        (
            {"tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
            Said(calls=(CallPiece(0, "", "f", '{"a":1}'),)),
        ),
        ({"tool_calls": [None, {"function": None}]}, Said(calls=(CallPiece(1, "", "", ""),))),
        ({"tool_calls": 3, "content": 3, "reasoning": {}}, Said()),
    ],
)
def test_what_an_answer_says(message: dict[str, Any], said: Said) -> None:
    assert said_in(a_piece(**message)) == said


@pytest.mark.parametrize(
    "data", [b"", b"[]", b'{"choices":3}', b'{"choices":[3]}', b'{"choices":[{"delta":3}]}', b"{"]
)
def test_what_cannot_be_read_says_nothing(data: bytes) -> None:
    assert said_in(data) == Said()


@pytest.mark.parametrize(
    ("usage", "counted"),
    [
        (USAGE, Usage(12, 5, 17, 4, 2)),
        ({"prompt_tokens": 3, "completion_tokens": 4}, Usage(3, 4, 7, 0, 0)),
        ({"prompt_tokens": None, "prompt_tokens_details": None}, Usage(0, 0, 0, 0, 0)),
        (None, None),
        ("?", None),
    ],
)
def test_the_tokens_of_an_answer(usage: Any, counted: Usage | None) -> None:
    assert said_in(a_whole(usage=usage)).usage == counted


@pytest.mark.timeout(20)
def test_many_blocks_cost_no_more_each_than_few() -> None:
    blocks = Blocks()

    for number in range(20_000):
        blocks.add(Said(reasoning="a", text="b", calls=(CallPiece(number, "", "f", ""),)))
    blocks.end(Said())

    assert len(blocks.all) == 60_000
