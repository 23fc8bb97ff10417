"""Makes up JSON by a schema, for the simulated engine: always the same, as small as the schema allows.

Of JSON Schema it knows what clients send for tools and structured outputs. What else a schema demands may be broken.
"""

from typing import Any, NamedTuple

import msgspec

_DEEPEST = 16
_WORD = "word"
_VALUES: dict[str, Any] = {"string": _WORD, "integer": 1, "number": 1, "boolean": True, "null": None}
_FORMATS = {"date": "2026-01-01", "date-time": "2026-01-01T00:00:00Z", "uuid": "01234567-89ab-7cde-8f01-23456789abcd"}


class MadeUp(NamedTuple):
    """What a chat is answered with instead of words."""

    tool: str
    """The tool that is called; empty: none is, and the JSON is the answer's text."""
    text: str


def made_up(tools: Any, choice: Any, response_format: Any, *, after_result: bool) -> MadeUp | None:
    """Return what to answer; None: words will do. After the result of a tool none is called, unless that is demanded."""
    if (tool := _tool(tools, choice, after_result=after_result)) is not None:
        return MadeUp(str(tool.get("name", "")), _json(value_of(tool.get("parameters") or {"type": "object"})))
    match response_format:
        case {"type": "json_schema", "json_schema": {"schema": schema}}:
            return MadeUp("", _json(value_of(schema)))
        case {"type": "json_object"}:
            return MadeUp("", _json({"answer": _WORD}))
        case _:
            return None


def value_of(schema: Any) -> Any:
    """Make up a value that the schema allows."""
    return _value(schema, schema, 0)


def _tool(tools: Any, choice: Any, *, after_result: bool) -> dict[str, Any] | None:
    """Return the function to call: the one that is demanded, or the first."""
    listed = tools if isinstance(tools, list) else []
    functions: list[dict[str, Any]] = [
        tool["function"] for tool in listed if isinstance(tool, dict) and isinstance(tool.get("function"), dict)
    ]
    match choice:
        case "none":
            return None
        case {"function": {"name": name}}:
            return next((function for function in functions if function.get("name") == name), None)
        case _ if functions and (choice == "required" or not after_result):
            return functions[0]
        case _:
            return None


def _value(schema: Any, root: Any, depth: int) -> Any:
    if not isinstance(schema, dict) or depth > _DEEPEST:
        return None
    if isinstance(reference := schema.get("$ref"), str):
        return _value(_referred(reference, root), root, depth + 1)
    if "const" in schema:
        return schema["const"]
    for name in ("enum", "anyOf", "oneOf", "allOf"):
        if isinstance(choices := schema.get(name), list) and choices:
            return choices[0] if name == "enum" else _value(choices[0], root, depth + 1)
    return _of_type(schema, root, depth)


def _of_type(schema: dict[str, Any], root: Any, depth: int) -> Any:
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) and kind else kind
    match kind:
        case "object":
            properties = schema.get("properties")
            fields = properties.items() if isinstance(properties, dict) else ()
            return {name: _value(field, root, depth + 1) for name, field in fields}
        case "array":
            least = schema.get("minItems")
            return [_value(schema.get("items"), root, depth + 1)] * (least if isinstance(least, int) else 1)
        case "string":
            return _FORMATS.get(str(schema.get("format")), _WORD)
        case "integer" | "number":
            return schema.get("minimum", _VALUES[kind])
        case _:
            return _VALUES.get(str(kind))


def _referred(reference: str, root: Any) -> Any:
    """Follow a reference within the schema, such as `#/$defs/Person`."""
    found = root
    for name in reference.removeprefix("#").split("/")[1:]:
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
