"""Checks that an answer is what its request demanded: JSON, JSON of a schema, or a call of a tool.

Engines and providers say that they hold to these, and some drop them in silence. An answer that was cut at its limit, or
was refused or filtered, is left as it is, as at OpenAI.
"""

from functools import lru_cache
from typing import Any

import jsonschema_rs
import msgspec

from schemas.codec import UNREADABLE

_CUT = frozenset({"length", "content_filter"})
_json = msgspec.json.Decoder()


class _Function(msgspec.Struct, frozen=True):
    name: str = ""


class _Choice(msgspec.Struct, frozen=True):
    function: _Function = _Function()


class _Schema(msgspec.Struct, frozen=True):
    schema: msgspec.Raw = msgspec.Raw()


class _Format(msgspec.Struct, frozen=True):
    type: str = "text"
    json_schema: _Schema = _Schema()


class _Request(msgspec.Struct, frozen=True):
    response_format: _Format | None = None
    tool_choice: str | _Choice | None = None
    temperature: float | None = None
    seed: int | None = None


_request = msgspec.json.Decoder(_Request)


class Constraints(msgspec.Struct, frozen=True):
    """What a request demands of the answer."""

    format: str
    """`text`, `json_object` or `json_schema`."""
    schema: bytes
    """The JSON schema; empty: none."""
    tool: str | None
    """The tool to call; "" for any; None: a call is not demanded."""
    may_differ: bool
    """Whether another try may give another answer: it is sampled, and not from a fixed seed."""


def constraints_of(body: bytes) -> Constraints | None:
    """Read what a chat request demands; None if it demands nothing that can be checked."""
    if b"response_format" not in body and b"tool_choice" not in body:
        return None
    try:
        request = _request.decode(body)
    except UNREADABLE:
        return None
    tool = None
    match request.tool_choice:
        case "required":
            tool = ""
        case _Choice(_Function(name)) if name:
            tool = name
    wanted = request.response_format or _Format()
    if wanted.type not in {"json_object", "json_schema"} and tool is None:
        return None
    is_sampled = request.temperature != 0 and request.seed is None
    return Constraints(wanted.type, bytes(wanted.json_schema.schema), tool, is_sampled)


def violation(constraints: Constraints, response: bytes) -> str | None:
    """Say which constraint a response breaks, without a word of it; None if it breaks none."""
    try:
        choices = _json.decode(response)["choices"]
    except (*UNREADABLE, KeyError, TypeError):
        return None
    found = (_broken(constraints, choice) for choice in _list(choices) if isinstance(choice, dict))
    return next((broken for broken in found if broken is not None), None)


def _broken(constraints: Constraints, choice: dict[str, Any]) -> str | None:
    message = choice.get("message")
    if not isinstance(message, dict) or choice.get("finish_reason") in _CUT or message.get("refusal"):
        return None
    calls = _list(message.get("tool_calls"))
    if constraints.tool is not None:
        names = [_name_of(call) for call in calls]
        if not names or (constraints.tool and constraints.tool not in names):
            return f"tool_choice demands a call of {constraints.tool or 'a tool'}, and there is none"
    if calls or constraints.format not in {"json_object", "json_schema"}:
        return None
    return _not_as_demanded(constraints, message.get("content"))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _name_of(call: Any) -> str:
    function = call.get("function") if isinstance(call, dict) else None
    return str(function.get("name")) if isinstance(function, dict) else ""


def _not_as_demanded(constraints: Constraints, content: Any) -> str | None:
    try:
        value = _json.decode(content) if isinstance(content, str) else None
    except UNREADABLE:
        value = None
    if constraints.format == "json_object":
        return None if isinstance(value, dict) else "response_format demands a JSON object, and the answer is none"
    if value is None and content != "null":
        return "response_format demands JSON, and the answer is none"
    validator = _validator(constraints.schema)
    if validator is None:
        return None
    error = next(validator.iter_errors(value), None)
    if error is None:
        return None
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.instance_path)
    return f"response_format demands another schema: ${where[:200]} breaks {str(error.schema_path[-1])[:100]!r}"


@lru_cache(maxsize=256)
def _validator(schema: bytes) -> Any:
    """Compile a schema; None if it is none that can be read: whoever answered took it. No reference is fetched."""
    try:
        return jsonschema_rs.validator_for(_json.decode(schema), retriever=_refuse)
    except (*UNREADABLE, ValueError):
        return None


def _refuse(uri: str) -> Any:
    raise ValueError(f"{uri} is not fetched")
