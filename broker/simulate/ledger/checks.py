"""Refuses values that Postgres cannot store."""

from collections.abc import Iterable

from broker.errors import BadData

_MOST = 1 << 63


def check_values(values: Iterable[object]) -> None:
    """Refuse a NUL or half a surrogate in a text, and a number out of range, also in lists. Raises: BadData."""
    for value in values:
        if isinstance(value, str):
            _check_text(value)
        elif isinstance(value, int):
            if not -_MOST <= value < _MOST:
                raise BadData("a number is out of range")
        elif isinstance(value, list | tuple):
            check_values(value)


def _check_text(text: str) -> None:
    """JSON may have neither a NUL nor its escape."""
    if "\0" in text or ("\\u0000" in text and text.startswith(("{", "["))):
        raise BadData("a text has a NUL")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise BadData(str(error)) from error
