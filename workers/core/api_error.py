"""Finds the error in what an OpenAI-compatible API answers, wherever and however the API writes it.

What is empty states nothing: `"error": {}`, `"message": ""` or `"code": 0` beside an answer is no error.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from schemas import lenient
from schemas.codec import UNREADABLE
from schemas.lenient import whole_characters

MOST_WORDS = 500
"""How many characters of an API's message are kept."""
_MOST_DEPTH = 5
_RESULTS = ("choices", "data", "output", "candidates")
"""The fields of an answer. Where one of them is, a `message` beside it is not an error."""
_PLACES = ("errors", "detail", "error_msg", "base_resp", "fault")
"""Where else an error may stand, if there is no answer."""
_FINE = frozenset({"", "0", "200", "ok", "success", "none", "null", "false"})
"""Codes by which some gateways say that all is well."""
_STATUS_WORDS = (
    (re.compile(r"rate.?limit|resource.?exhausted|too.?many.?requests|throttl", re.IGNORECASE), 429),
    (re.compile(r"overloaded|unavailable|capacity", re.IGNORECASE), 529),
    (re.compile(r"authentication|unauthenticated|unauthorized|invalid.?api.?key", re.IGNORECASE), 401),
    (re.compile(r"permission|forbidden", re.IGNORECASE), 403),
    (re.compile(r"insufficient.?(quota|balance|funds)|billing|payment", re.IGNORECASE), 402),
    (re.compile(r"not.?found", re.IGNORECASE), 404),
    (re.compile(r"invalid|bad.?request|context.?length|unprocessable|validation", re.IGNORECASE), 400),
)
"""The types and codes of errors that have no number, with the status that they are usually sent with."""


class ApiError(msgspec.Struct, frozen=True):
    """An error of an API, in whichever way it was written."""

    message: str = ""
    code: str = ""
    """A number or a name, as text."""
    type: str = ""
    param: str = ""
    """The field of the request that it is about."""
    is_moderated: bool = False
    """OpenRouter: the request was moderated; it says for which reasons."""
    headers: Mapping[str, str] = {}
    """Headers that a gateway passes on inside the error, with lower-case names."""
    wait: str = ""
    """How long to wait, in the API's words: `8s`, `8.5`. See `answers.retry_after_ms`."""

    @property
    def names(self) -> frozenset[str]:
        return frozenset({self.code, self.type} - {""})

    @property
    def status(self) -> int:
        """The HTTP status that it would have had outside a 200 answer: its code if it is one, else by its name, else 500."""
        for name in (self.code, self.type):
            if name.isdecimal() and 400 <= int(name) < 600:
                return int(name)
        return next((status for words, status in _STATUS_WORDS if any(map(words.search, self.names))), 500)


def error_in(body: bytes) -> ApiError | None:
    """Return the error of a JSON answer or of one of its choices; None if it is no JSON or has no error."""
    try:
        return find_error(_decoder.decode(body))
    except UNREADABLE:
        pass
    try:
        return find_error(lenient.parsed(body))
    except ValueError:
        return None


_decoder = msgspec.json.Decoder()


def find_error(answer: Any) -> ApiError | None:
    """Return the error that an answer states; None if it states none."""
    return next(filter(None, _errors(answer)), None)


def _errors(answer: Any) -> Iterator[ApiError | None]:
    """Yield what may be the error, from the likeliest place on."""
    if isinstance(answer, list):  # Google
        yield from (_stated(part.get("error")) for part in answer if isinstance(part, dict))
    if not isinstance(answer, dict):
        return
    yield _stated(answer.get("error"))
    choices = answer.get("choices")
    yield from map(_error_of, choices if isinstance(choices, list) else ())
    is_status = _is_status(answer.get("code"))
    if not is_status and any(answer.get(name) is not None for name in _RESULTS):
        return
    yield from (_stated(answer.get(name), answer) for name in _PLACES)
    if is_status or not answer.get("usage"):
        bare = _stated(answer)
        yield bare if bare is not None and (bare.message or is_status) else None


def _error_of(choice: Any) -> ApiError | None:
    """Return the error of a choice. OpenRouter puts it there, in a 200, if the provider fails after the first text."""
    if not isinstance(choice, dict):
        return None
    is_ended = choice.get("finish_reason") == "error"
    return _stated(choice.get("error")) or (ApiError("the provider ended it with an error") if is_ended else None)


def _is_status(code: object) -> bool:
    return str(code).isdecimal() and 400 <= int(str(code)) < 600


def _stated(said: Any, beside: Mapping[str, Any] | None = None) -> ApiError | None:
    """Read an error; None if nothing is said, or that all is well. Fields that it lacks may stand `beside` it."""
    if not isinstance(said, dict):
        message = _words(said)
        return None if message.lower() in _FINE else ApiError(message, *_names(beside or {}))
    code, kind = _names({**(beside or {}), **said})
    message = _words(said)
    metadata = _dict(said.get("metadata"))
    if upstream := _upstream(metadata):
        message = f"{message}: {upstream}" if message and upstream not in message else message or upstream
    if code.lower() in _FINE and kind.lower() in _FINE and (code or not message):
        return None
    return ApiError(
        message,
        code,
        kind,
        _text(said.get("param")),
        is_moderated=bool(metadata.get("reasons")),
        headers={name.lower(): _text(value) for name, value in _dict(metadata.get("headers")).items()},
        wait=_wait(said),
    )


def _names(said: Mapping[str, Any]) -> tuple[str, str]:
    """Return code and type: the code is the first of the fields that have one, a number before a word."""
    codes = [_text(said.get(name)) for name in ("code", "status_code", "error_code", "status", "statusCode")]
    number = next((code for code in codes if _is_status(code)), None)
    return number or next(filter(None, codes), ""), _text(said.get("type") or said.get("error_type"))


def _words(said: Any, depth: int = _MOST_DEPTH) -> str:
    """Find the words of an error: a text, or what stands in the fields that APIs use for it, however deep."""
    if isinstance(said, str):
        return "" if said.lstrip().startswith("<") else " ".join(whole_characters(said).split())[:MOST_WORDS]
    if depth == 0:
        return ""
    if isinstance(said, list):
        return "; ".join(filter(None, (_words(part, depth - 1) for part in said)))[:MOST_WORDS]
    if not isinstance(said, dict):
        return ""
    for name in _MESSAGES:
        if words := _words(said.get(name), depth - 1):
            where = said.get("loc")
            place = ".".join(map(str, where)) if isinstance(where, list) else ""
            return f"{place}: {words}" if place else words
    return ""


_MESSAGES = (
    "message", "msg", "detail", "error_msg", "status_msg", "error_description", "faultstring", "Message", "error",
    "errors", "title", "reason",
)  # fmt: skip


def _upstream(metadata: Mapping[str, Any]) -> str:
    """Return the words of the provider behind a gateway (OpenRouter: `metadata.raw`, JSON or text)."""
    raw = metadata.get("raw")
    if isinstance(raw, str):
        try:
            raw = lenient.parsed(raw.encode("utf-8", "replace"))
        except ValueError:
            return _words(raw)
    return _words(raw)


def _wait(said: Mapping[str, Any]) -> str:
    """Return how long the error asks to wait: in a field of its own, or in Google's `details`."""
    for name, unit in (("retry_after", "s"), ("retry_after_seconds", "s"), ("retry_after_ms", "ms")):
        if (given := _text(said.get(name))) and given.replace(".", "", 1).isdecimal():
            return f"{given}{unit}"
    details = said.get("details")
    delays = [_text(_dict(one).get("retryDelay")) for one in (details if isinstance(details, list) else ())]
    return next(filter(None, delays), "")


def _text(value: Any) -> str:
    """Return a text or a number as text; "" for everything else."""
    is_said = isinstance(value, str | int | float) and not isinstance(value, bool)
    return whole_characters(str(value))[:MOST_WORDS] if is_said else ""


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
