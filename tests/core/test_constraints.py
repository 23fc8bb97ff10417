"""An answer is checked against what its request demanded: JSON, JSON of a schema, a call of a tool."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.endpoints import CHAT
from schemas.outcome import Charge, ConstraintViolated, Failed, Succeeded, Usage
from schemas.units import NanoUsd
from workers.core.constraints import Constraints, constraints_of, violation
from workers.ports import EngineRequest
from workers.run import checked

ZIP = {"type": "object", "properties": {"zip": {"type": "string", "pattern": "^[0-9]{5}$"}}, "required": ["zip"]}
A_CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def demanded(**fields: Any) -> Constraints:
    found = constraints_of(json.dumps({"messages": [], **fields}).encode())
    assert found is not None
    return found


def of_schema(schema: object) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


def an_answer(content: object = None, *, reason: str = "stop", **message: Any) -> bytes:
    choice = {"message": {"role": "assistant", "content": content, **message}, "finish_reason": reason}
    return json.dumps({"choices": [choice]}).encode()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"response_format": {"type": "text"}},
        {"response_format": None, "tool_choice": None},
        {"tool_choice": "auto"},
        {"tool_choice": "none"},
        {"response_format": "odd"},
        {"tool_choice": {"type": "function"}},
    ],
)
def test_nothing_is_checked_where_nothing_is_demanded(fields: dict[str, Any]) -> None:
    assert constraints_of(json.dumps({"messages": [], **fields}).encode()) is None


@pytest.mark.parametrize(
    ("wanted", "content", "words"),
    [
        ({"type": "json_object"}, '{"a": 1}', None),
        ({"type": "json_object"}, "[1]", "a JSON object"),
        ({"type": "json_object"}, "Here: {}", "a JSON object"),
        ({"type": "json_object"}, None, "a JSON object"),
        (of_schema(ZIP), '{"zip": "12345"}', None),
        (of_schema(ZIP), ' {"zip": "12345"}\n', None),
        (of_schema(ZIP), '{"zip": "1234"}', "$.zip breaks 'pattern'"),
        (of_schema(ZIP), "{}", "$ breaks 'required'"),
        (of_schema(ZIP), "prose", "demands JSON"),
        (of_schema({"type": "null"}), "null", None),
        (of_schema({"type": "array", "items": ZIP}), '[{"zip": "12345"}, {"zip": 5}]', "$[1].zip breaks 'type'"),
        (of_schema({"$ref": "http://127.0.0.1:9/schema"}), "{}", None),
        (of_schema({"type": "frob"}), "{}", None),
        ({"type": "json_schema"}, "{}", None),
    ],
)
def test_a_format_that_was_demanded_is_kept_or_said_to_be_broken(
    wanted: dict[str, Any], content: object, words: str | None
) -> None:
    broken = violation(demanded(response_format=wanted), an_answer(content))

    assert (broken is None) is (words is None)
    assert words is None or words in str(broken)


@pytest.mark.parametrize(
    ("choice", "calls", "is_kept"),
    [
        ("required", [A_CALL], True),
        ("required", [], False),
        ("required", None, False),
        ({"type": "function", "function": {"name": "f"}}, [A_CALL], True),
        ({"type": "function", "function": {"name": "g"}}, [A_CALL], False),
        ("required", [{}], True),
    ],
)
def test_a_call_that_was_demanded_is_there_or_said_to_be_missing(
    choice: object, calls: object, *, is_kept: bool
) -> None:
    broken = violation(demanded(tool_choice=choice), an_answer("prose", tool_calls=calls))

    assert (broken is None) is is_kept


@pytest.mark.parametrize(
    "answer",
    [
        an_answer("{", reason="length"),
        an_answer("", reason="content_filter"),
        an_answer(None, refusal="No."),
        an_answer(None, tool_calls=[A_CALL]),
        b'{"choices": [{}]}',
        b'{"choices": null}',
        b"[]",
        b"{",
    ],
)
def test_an_answer_that_was_cut_refused_or_calls_a_tool_is_left_as_it_is(answer: bytes) -> None:
    assert violation(demanded(response_format=of_schema(ZIP)), answer) is None


@pytest.mark.parametrize(
    ("fields", "may_differ"),
    [
        ({}, True),
        ({"temperature": 0.7}, True),
        ({"temperature": 0}, False),
        ({"temperature": 0.0}, False),
        ({"seed": 0}, False),
    ],
)
def test_it_is_tried_again_only_where_the_answer_may_differ(fields: dict[str, Any], *, may_differ: bool) -> None:
    assert demanded(tool_choice="required", **fields).may_differ is may_differ


def test_nothing_of_the_answer_is_repeated() -> None:
    broken = violation(demanded(response_format=of_schema(ZIP)), an_answer('{"zip": "secret"}'))

    assert broken is not None
    assert "secret" not in broken


def test_a_pattern_that_is_slow_elsewhere_stops_nobody() -> None:
    slow = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}}
    began = time.process_time()

    assert (
        violation(demanded(response_format=of_schema(slow)), an_answer(json.dumps({"a": "a" * 5000 + "b"})))
        is not None
    )
    assert time.process_time() - began < 1


@pytest.mark.parametrize(("fields", "repeat"), [({}, True), ({"temperature": 0}, False)])
def test_an_answer_that_breaks_its_demand_is_a_failure_with_its_cost(fields: dict[str, Any], *, repeat: bool) -> None:
    body = json.dumps({"messages": [], "response_format": {"type": "json_object"}, **fields}).encode()
    request = EngineRequest("r", "m", CHAT, body, 64, streamed=False, priority=0, constraints=constraints_of(body))
    usage, charge = Usage(3, 4), Charge(NanoUsd(5), "provider")
    good, bad = (Succeeded(an_answer(text), usage, charge) for text in ("{}", "prose"))

    assert checked(good, request) is good
    failed = checked(bad, request)
    assert isinstance(failed, Failed)
    assert (failed.usage, failed.charge) == (usage, charge)
    assert isinstance(failed.failure, ConstraintViolated)
    assert failed.failure.repeat is repeat


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "json_schema", "schema", "function", "name", "choices", "message", "content"]),
            inner,
        )
    ),
)


@given(_values, _values, _values, st.binary())
def test_no_demand_and_no_answer_is_an_error(wanted: object, choice: object, answer: object, garbage: bytes) -> None:
    found = constraints_of(json.dumps({"response_format": wanted, "tool_choice": choice}).encode())
    for constraints in filter(None, [found, demanded(response_format=of_schema(wanted), tool_choice="required")]):
        violation(constraints, json.dumps(answer).encode())
        violation(constraints, an_answer(answer))
        violation(constraints, garbage)
