"""Foreign JSON is read leniently and mended into JSON that every decoder takes."""

import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.lenient import MOST_DEPTH, mended, parsed, whole_characters


@pytest.mark.parametrize(
    ("data", "value"),
    [
        ('{"a":"Straße"}'.encode("latin-1"), {"a": "Stra\ufffde"}),
        (b'{"a":"cut \\ud83d"}', {"a": "cut \ufffd"}),
        (b'{"\\ud83d":[1]}', {"\ufffd": [1]}),
        (b'{"a":[NaN,Infinity,-Infinity,1.5]}', {"a": [None, None, None, 1.5]}),
        (b'{"a":1e999}', {"a": None}),
        (b"\xef\xbb\xbf[1]", [1]),
        (b'"\\ud83d\\ude00"', "😀"),
    ],
)
def test_what_no_decoder_takes_is_replaced(data: bytes, value: object) -> None:
    assert msgspec.json.decode(mended(data)) == value


@pytest.mark.parametrize(
    "data", [b"", b"{", b"<html>", b"[" * 100_000, b"[" * (MOST_DEPTH + 1) + b"]" * (MOST_DEPTH + 1)]
)
def test_what_is_no_json_stays_none(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - which words it has depends on the decoder
        mended(data)


_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(st.characters()),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(), max_size=3), inner, max_size=3)
    ),
)


@given(_values)
def test_every_json_is_mended_and_one_that_is_right_stays(value: Any) -> None:
    data = json.dumps(value).encode()
    strict = msgspec.json.decode(mended(data))

    assert strict == parsed(mended(data))
    if _is_strict(value):
        assert strict == json.loads(data)


def _is_strict(value: Any) -> bool:
    match value:
        case dict():
            return all(_is_strict(part) for pair in value.items() for part in pair)
        case list():
            return all(map(_is_strict, value))
        case str():
            return whole_characters(value) == value
        case float():
            return math.isfinite(value)
        case int():
            return abs(value) < 2**63
        case _:
            return True
