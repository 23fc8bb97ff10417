"""Reads text and tokens out of OpenAI objects.

It returns what it can read and raises nothing, whatever a provider puts beside or instead of it: the object itself is what
is delivered, its text is a convenience.
"""

from typing import Any

import msgspec

from schemas import lenient
from schemas.codec import UNREADABLE
from schemas.lenient import whole_characters
from schemas.outcome import Usage

_decoder = msgspec.json.Decoder()
_MOST_TOKENS = 10**9


class StreamText:
    """Reads the text of the first choice out of the objects of one stream."""

    def __init__(self) -> None:
        self._half = ""
        """The first half of a character (a UTF-16 surrogate) whose second half comes in the next piece."""

    def of(self, data: bytes) -> str:
        """Return the text that a streaming object adds."""
        text = self._half + _text_of(_choice_of(_parsed(data)), "delta")
        self._half = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
        return whole_characters(text.removesuffix(self._half))


def text_of(data: bytes) -> str:
    """Return the text of the first choice of a response; "" if there is none."""
    return whole_characters(_text_of(_choice_of(_parsed(data)), "message"))


def was_cut(data: bytes) -> bool:
    """Say whether the first choice of a response was cut at a limit of tokens."""
    return _choice_of(_parsed(data)).get("finish_reason") == "length"


def usage_of(data: bytes) -> Usage:
    """Return the tokens that the engine counted; 0 where a response does not say."""
    response = _parsed(data)
    used = response.get("usage") if isinstance(response, dict) else None
    used = used if isinstance(used, dict) else {}
    return Usage(_count(used.get("prompt_tokens")), _count(used.get("completion_tokens")))


def _parsed(data: bytes) -> Any:
    """Parse JSON, also if it holds half a character, a byte that is no UTF-8 or NaN. None: it is no JSON at all."""
    try:
        return _decoder.decode(data)
    except UNREADABLE:
        pass
    try:
        return lenient.parsed(data)
    except ValueError:
        return None


def _choice_of(response: Any) -> dict[str, Any]:
    """Return the first choice, which is the one of index 0: a stream of several choices sends one in each object."""
    choices = response.get("choices") if isinstance(response, dict) else None
    found = [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
    return next((choice for choice in found if choice.get("index") in (None, 0)), {})


def _text_of(choice: dict[str, Any], part: str) -> str:
    message = choice[part] if part in choice else choice.get("message")
    content = message.get("content") if isinstance(message, dict) else choice.get("text")
    if isinstance(content, list):  # some APIs send the parts of a text as in a request
        texts = [piece.get("text") for piece in content if isinstance(piece, dict)]
        return "".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def _count(value: Any) -> int:
    return int(value) if isinstance(value, int | float) and 0 <= value <= _MOST_TOKENS else 0
