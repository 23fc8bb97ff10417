"""Reads the fields of a request that is to be translated, and refuses what cannot be, by its name."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import msgspec

from schemas.codec import place_of
from schemas.outcome import Refused

T = TypeVar("T")
NOT_TRANSLATED = "not_translated"
"""The code of the refusal of what chat completions do not have."""
TOO_DEEP = Refused("body_not_json", "the body is nested too deeply", "body")
_SHAPE = "body_shape"
_UNKNOWN = re.compile(r"unknown field `(.*)`")
_MISSING = re.compile(r"missing required field `(.*)`")
_fields = msgspec.json.Decoder(dict[str, Any])


class CannotTranslate(Exception):
    """A request cannot be translated; `refused` says what of it. It never leaves this package."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.message)
        self.refused = refused


class Event(NamedTuple):
    """One event of a stream: its name, and its data."""

    name: str
    data: dict[str, Any]


def not_translated(field: str, why: str) -> CannotTranslate:
    """Say that a field asks for what chat completions do not have."""
    return CannotTranslate(Refused(NOT_TRANSLATED, f"{field}: {why}", f"body.{field}"))


def remote_media(field: str) -> CannotTranslate:
    """Say that an address would have to be fetched."""
    message = "media must be in the request as a data: URL; addresses are not fetched"
    return CannotTranslate(Refused("media_url", f"{field}: {message}", f"body.{field}"))


def misshapen(field: str, what: str) -> CannotTranslate:
    """Say that a field is not of the shape that the API defines."""
    return CannotTranslate(Refused(_SHAPE, f"{field or 'the body'}: {what}", f"body.{field}" if field else "body"))


def fields_of(body: bytes) -> dict[str, Any]:
    """Return the fields of a body that say something: null says nothing. Raises: CannotTranslate."""
    try:
        fields = _fields.decode(body)
    except msgspec.ValidationError as error:
        raise misshapen("", "it must be an object") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CannotTranslate(Refused("body_not_json", f"the body is not JSON: {error}", "body")) from error
    return stated(fields)


def stated(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that are not null."""
    return {name: value for name, value in fields.items() if value is not None}


def served(
    fields: Mapping[str, Any],
    values: Mapping[str, tuple[Any, ...]],
    *,
    at: str = "",
    why: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the fields but those in `values`, which change nothing as long as they have one of the values there.

    Raises: CannotTranslate, if one has another value, or any where no values are listed; `why` has words for some.
    """
    for name in sorted(fields.keys() & values.keys()):
        if fields[name] not in values[name]:
            raise not_translated(f"{at}{name}", (why or {}).get(name) or _only(values[name]))
    return {name: value for name, value in fields.items() if name not in values}


def _only(values: tuple[Any, ...]) -> str:
    if not values:
        return "this cannot be translated to a chat completion: leave it out"
    words = " or ".join(msgspec.json.encode(value).decode() for value in values)
    return f"only {words} can be translated to a chat completion: leave it out"


def converted(value: Any, into: type[T], at: str) -> T:
    """Convert the value that stands at `at`. Raises: CannotTranslate, which names the field that is wrong."""
    with _placed(at):
        return msgspec.convert(value, into)


@contextmanager
def _placed(at: str) -> Iterator[None]:
    try:
        yield
    except msgspec.ValidationError as error:
        what, path = place_of(str(error))
        field = f"{at}{path}".removeprefix(".")
        if (unknown := _UNKNOWN.search(what)) is not None:
            name = f"{field}.{unknown[1]}".removeprefix(".")
            raise not_translated(
                name, "no such field can be translated to a chat completion: leave it out"
            ) from error
        if (missing := _MISSING.search(what)) is not None:
            raise misshapen(f"{field}.{missing[1]}".removeprefix("."), "it is missing") from error
        raise misshapen(field, what) from error
