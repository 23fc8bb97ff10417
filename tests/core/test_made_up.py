"""JSON that is made up by a schema, for the simulated engine."""

from typing import Any

import jsonschema_rs
import msgspec
import pytest

from workers.core.made_up import MadeUp, made_up, value_of

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 18},
        "role": {"enum": ["user", "guest"]},
        "nick": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "tags": {"type": "array", "items": {"type": "string"}, "minItems": 2},
        "home": {"$ref": "#/$defs/Place"},
        "when": {"type": "string", "format": "date-time"},
        "kind": {"const": "person"},
        "ok": {"type": ["boolean", "null"]},
        "weight": {"type": "number"},
        "none": {"type": "null"},
    },
    "required": ["name", "age", "role", "nick", "tags", "home", "when", "kind", "ok", "weight", "none"],
    "additionalProperties": False,
    "$defs": {"Place": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}},
}


@pytest.mark.parametrize(
    "schema", [PERSON, {"type": "array", "items": PERSON["properties"]}, {"type": "object"}, {"const": 3}]
)
def test_what_is_made_up_is_of_its_schema(schema: dict[str, Any]) -> None:
    assert jsonschema_rs.validator_for(schema).is_valid(value_of(schema))


@pytest.mark.parametrize("schema", [{"$ref": "#"}, {"$ref": "#/a/b"}, {"items": 3}, True, None, {"enum": []}])
def test_odd_schemas_end(schema: Any) -> None:
    value_of(schema)


def a_tool(name: str) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {"name": name, "parameters": {"properties": {"a": {"type": "string"}}, "type": "object"}},
    }


TOOLS = [a_tool("f"), a_tool("g")]
CALL_F, CALL_G = MadeUp("f", '{"a":"word"}'), MadeUp("g", '{"a":"word"}')
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}


@pytest.mark.parametrize(
    ("tools", "choice", "wanted", "after_result", "made"),
    [
        (TOOLS, None, None, False, CALL_F),
        (TOOLS, "auto", None, False, CALL_F),
        (TOOLS, "auto", None, True, None),
        (TOOLS, "required", None, True, CALL_F),
        (TOOLS, "none", None, False, None),
        (TOOLS, {"type": "function", "function": {"name": "g"}}, None, True, CALL_G),
        ([], "required", None, False, None),
        ([{"type": "function", "function": {"name": "f"}}], None, None, False, MadeUp("f", "{}")),
        (TOOLS, "none", FORMAT, False, MadeUp("", "{}")),
        (None, None, FORMAT, False, MadeUp("", "{}")),
        (None, None, {"type": "json_object"}, False, MadeUp("", '{"answer":"word"}')),
        (None, None, {"type": "text"}, False, None),
        (3, 3, 3, False, None),
    ],
)
def test_what_a_chat_is_answered_with(
    tools: Any, choice: Any, wanted: Any, made: MadeUp | None, *, after_result: bool
) -> None:
    assert made_up(tools, choice, wanted, after_result=after_result) == made
    assert made is None or isinstance(msgspec.json.decode(made.text), dict)
