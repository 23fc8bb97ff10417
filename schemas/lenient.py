"""Reads and mends JSON that others wrote not quite as JSON: bytes that are no UTF-8, half a character, NaN, Infinity.

A strict decoder comes first everywhere, since it is faster; this is for what it refuses.
"""

import json
import math
from typing import Any

MOST_DEPTH = 200
"""How deep values may be nested. Answers of models are nested less than ten deep."""


def parsed(data: bytes) -> Any:
    """Parse JSON leniently. Raises: ValueError, if it is no JSON even so.

    A byte that is no UTF-8 becomes U+FFFD. NaN, Infinity and half a character stay as Python has them: see `mended`.
    """
    try:
        return json.loads(data.decode("utf-8-sig", "replace"))
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def mended(data: bytes) -> bytes:
    """Return the same JSON as every decoder takes it. Raises: ValueError, if it is no JSON.

    What no decoder takes is replaced: a byte that is no UTF-8 and half a character by U+FFFD, NaN and Infinity by null.
    """
    return json.dumps(_whole(parsed(data), MOST_DEPTH), ensure_ascii=False, allow_nan=False).encode()


def whole_characters(text: str) -> str:
    """Join the two halves of a character (UTF-16 surrogates), and replace a half that stands alone by U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _whole(value: Any, depth: int) -> Any:
    match value:
        case str():
            return whole_characters(value)
        case float() if not math.isfinite(value):
            return None
        case dict() | list() if depth == 0:
            raise ValueError(f"it is nested more than {MOST_DEPTH} deep")
        case dict():
            return {whole_characters(name): _whole(part, depth - 1) for name, part in value.items()}
        case list():
            return [_whole(part, depth - 1) for part in value]
        case _:
            return value
