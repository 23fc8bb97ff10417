"""Streams are read alike however the network cuts them."""

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.core.sse import DONE, Events

STREAM = b': hello\r\n\r\ndata: {"a": 1}\n\nevent: x\ndata:{"b":\ndata: 2}\r\n\r\nid: 7\n\ndata: [DONE]\n\n'
PAYLOADS = [b'{"a": 1}', b'{"b":\n2}', DONE]


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_however_it_is_cut(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    events = Events()

    payloads = [data for a, b in itertools.pairwise(places) for data in events.feed(STREAM[a:b])]

    assert payloads == PAYLOADS
    assert events.end() == []


def test_what_lacks_its_empty_line_is_there_at_the_end() -> None:
    events = Events()

    assert events.feed(b'data: {"cut') == []
    assert events.end() == [b'{"cut']


def test_a_long_line_is_kept_but_not_copied_for_each_piece() -> None:
    events, piece = Events(), b"x" * 65536
    began = time.process_time()

    for _ in range(400):
        assert events.feed(piece) == []

    assert events.pending_bytes == 400 * 65536
    assert events.feed(b"\n\n") == []
    assert events.pending_bytes == 0
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    ("line", "data"),
    [
        (b"data: x", b"x"),
        (b"data:x", b"x"),
        (b"data:  x ", b"x"),
        (b"\xef\xbb\xbfdata: x", b"x"),
        (b"data: [DONE] ", DONE),
        (b"data:", None),
        (b"data: null", None),
        (b"data: x\r", b"x"),
        (b": data: x", None),
        (b"database: x", None),
        (b"event: x", None),
        (b"data", None),
    ],
)
def test_what_a_line_holds(line: bytes, data: bytes | None) -> None:
    assert Events().feed(line + b"\n\n") == ([] if data is None else [data])


def test_at_the_end_nothing_is_left() -> None:
    events = Events()

    events.feed(b"data: a\n")
    assert events.pending_bytes == len(b"a")
    assert events.end() == [b"a"]

    assert events.end() == []
    assert events.pending_bytes == 0


def test_objects_between_which_the_empty_line_is_missing_are_events_of_their_own() -> None:
    assert Events().all(b'data: {"a": 1}\ndata: {"b": 2}\ndata: [DONE]\n') == [b'{"a": 1}', b'{"b": 2}', DONE]
    assert Events().all(b'data: {\ndata: "a": 1\ndata: }\n') == [b'{\n"a": 1\n}']


def test_several_events_may_come_at_once() -> None:
    assert Events().feed(b"\n\ndata: a\n\n\ndata: b\n\ndata: c") == [b"a", b"b"]
