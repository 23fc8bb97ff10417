"""What a request asks for."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.endpoints import CHAT, COMPLETIONS, EMBEDDINGS, Endpoint
from workers.core.body import (
    MOST_TOKENS,
    BadBody,
    RequestedOutput,
    asks_for_length,
    fields_of,
    has_parts,
    requested_output,
    with_fields,
)


@pytest.mark.parametrize(
    ("endpoint", "body", "asked"),
    [
        (CHAT, {}, RequestedOutput(1, 64)),
        (CHAT, {"n": 2, "max_completion_tokens": 5, "prompt": ["a", "b"]}, RequestedOutput(2, 10)),
        (COMPLETIONS, {"prompt": "a", "best_of": 4, "n": 2}, RequestedOutput(2, 4 * 64)),
        (COMPLETIONS, {"prompt": ["a", "b", "c"]}, RequestedOutput(3, 3 * 64)),
        (COMPLETIONS, {"prompt": [1, 2, 3]}, RequestedOutput(1, 64)),
        (COMPLETIONS, {"prompt": [[1, 2], [3]]}, RequestedOutput(2, 128)),
        (COMPLETIONS, {"prompt": [], "n": None}, RequestedOutput(1, 64)),
        (CHAT, {"max_tokens": 5, "max_completion_tokens": 9}, RequestedOutput(1, 9)),
        (CHAT, {"max_tokens": "5", "n": "x"}, RequestedOutput(1, 5)),
        (CHAT, {"n": 10**6, "max_tokens": 10**6}, RequestedOutput(10**6, MOST_TOKENS)),
        (EMBEDDINGS, {"input": ["a", "b"]}, RequestedOutput(1, 0)),
    ],
)
def test_what_a_request_asks_for(endpoint: Endpoint, body: dict[str, Any], asked: RequestedOutput) -> None:
    assert requested_output(msgspec.json.encode(body), endpoint, max_output_tokens=64) == asked


@pytest.mark.parametrize(("value", "has"), [(b"[1]", True), (b"[]", False), (b"null", False), (b'"x"', False)])
def test_parts_are_a_list_with_something_in_it(value: bytes, *, has: bool) -> None:
    assert has_parts(msgspec.Raw(value)) is has


names = st.text(max_size=5)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(names, values, max_size=5), st.dictionaries(names, values, max_size=3))
def test_fields_are_set_and_taken_out_and_the_others_stay(body: dict[str, Any], changes: dict[str, Any]) -> None:
    changed = with_fields(fields_of(json.dumps(body).encode()), **changes)

    kept = {name: value for name, value in {**body, **changes}.items() if name not in changes or value is not None}
    assert json.loads(changed) == kept


def test_what_is_not_changed_stays_as_it_was_written() -> None:
    assert with_fields(fields_of(b'{"a": 1.0e0,  "b":[ 1 ]}'), c=2) == b'{"a":1.0e0,"b":[ 1 ],"c":2}'


@pytest.mark.parametrize("body", [b"", b"[]", b"5", b"null", b"{", b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_object_is_bad(body: bytes) -> None:
    for read in (fields_of, lambda body: requested_output(body, CHAT, max_output_tokens=1)):
        with pytest.raises(BadBody, match="cannot be read"):
            read(body)


@pytest.mark.parametrize(
    ("body", "asks"),
    [
        ({}, False),
        ({"max_tokens": None}, False),
        ({"max_tokens": 1}, True),
        ({"max_completion_tokens": 1, "max_tokens": None}, True),
    ],
)
def test_whether_a_length_is_asked_for(body: dict[str, Any], *, asks: bool) -> None:
    assert asks_for_length(fields_of(msgspec.json.encode(body)), CHAT) is asks
