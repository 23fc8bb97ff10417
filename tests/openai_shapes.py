"""Holds JSON against what OpenAI documents of its objects (`openai_shapes.toml`)."""

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

SHAPES: Mapping[str, Any] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
_FIRST_S, _LAST_S = 1_600_000_000, 4_000_000_000
"""No time in an object is outside of these: milliseconds, for one, would be."""


def faults(shape: str, value: Any, path: str = "") -> Iterator[str]:
    """Say where an object is not as it is documented."""
    what, path = SHAPES[shape], path or shape
    if not isinstance(value, dict):
        yield f"{path}: {value!r} is no object"
        return
    fields: Mapping[str, Any] = what["fields"]
    for name in value.keys() - fields.keys() - {*what.get("ours", ())}:
        yield f"{path}.{name}: it is not documented"
    for name, kind in fields.items():
        if name not in value:
            yield f"{path}.{name}: it is missing"
        else:
            yield from _wrong(kind, value[name], f"{path}.{name}")
    if of_status := what.get("of_status"):
        always, may = of_status[value["status"]]
        for name in of_status["fields"]:
            is_wrong = value[name] is None if name in always else value[name] is not None and name not in may
            if is_wrong:
                yield f"{path}.{name}: {value[name]!r} of a batch that is {value['status']}"


def _wrong(kind: Any, value: Any, path: str) -> Iterator[str]:
    if isinstance(kind, list):
        is_right = value in kind
    elif kind.startswith("?"):
        if value is not None:
            yield from _wrong(kind[1:], value, path)
        return
    elif kind.startswith("[") and isinstance(value, list):
        for at, one in enumerate(value):
            yield from faults(kind[1:-1], one, f"{path}[{at}]")
        return
    elif kind in SHAPES:
        yield from faults(kind, value, path)
        return
    else:
        is_right = _is(kind, value)
    if not is_right:
        yield f"{path}: {value!r} is not {kind}"


def _is(kind: str, value: Any) -> bool:
    match kind:
        case "any":
            return True
        case "string":
            return isinstance(value, str) and value != ""
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            return type(value) is int and value >= 0
        case "time":
            return type(value) is int and _FIRST_S < value < _LAST_S
        case "texts":
            return isinstance(value, dict) and all(isinstance(one, str) for one in value.values())
    return False
