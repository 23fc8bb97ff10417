"""Refuses values that Postgres cannot store."""

from collections.abc import Iterable
from uuid import UUID

from broker.errors import BadData

_MOST = 1 << 63
_ANY = frozenset({UUID, bytes, bool})
"""The types of which Postgres stores all values."""


def check_values(values: Iterable[object], *, keeps_json_as_text: bool = False) -> None:
    """Refuse a NUL or half a surrogate in a text, and a number out of range, also in lists. Raises: BadData.

    JSON may not even have the escape of a NUL, unless it is kept as text.
    """
    for value in values:
        if value is None or type(value) in _ANY:
            continue
        if isinstance(value, str):
            _check_text(value, is_text=keeps_json_as_text)
        elif isinstance(value, int):
            if not -_MOST <= value < _MOST:
                raise BadData("a number is out of range")
        elif isinstance(value, list | tuple):
            check_values(value, keeps_json_as_text=keeps_json_as_text)


def _check_text(text: str, *, is_text: bool) -> None:
    if "\0" in text or (not is_text and "\\u0000" in text and text.startswith(("{", "["))):
        raise BadData("a text has a NUL")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise BadData(str(error)) from error
