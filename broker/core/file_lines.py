"""Where the expansion of a file into jobs stands, and how the next page of it is cut off."""

from collections.abc import Iterable
from typing import Literal

import msgspec

PAGE_LINES = 2000
PAGE_BYTES = 2 * 1024 * 1024
"""How much of a file a page takes at most. The longest line is far shorter."""


class Cursor(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where the next page begins. A file is read twice: all lines are checked before any is made a job."""

    phase: Literal["check", "submit"] = "check"
    offset: int = 0
    """The byte of the file."""
    line: int = 1
    """The number of the line there."""
    skipping: bool = False
    """The line there is too long, and its beginning was passed."""
    models: tuple[str, ...] = ()
    """The models that were asked by now: one, or two that stand for several."""

    def text(self) -> str:
        return _encoder.encode(self).decode()

    def asking(self, models: Iterable[str]) -> "Cursor":
        """Add models that lines ask."""
        return msgspec.structs.replace(self, models=tuple(sorted({*self.models, *models}))[:2])

    @classmethod
    def read(cls, text: str | None) -> "Cursor":
        return cls() if text is None else _decoder.decode(text)


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Cursor)


class Page(msgspec.Struct, frozen=True):
    """A part of a file that is read at once."""

    data: bytes
    """Whole lines, but for the last one of a file."""
    too_long: bool = False
    """Its only line is longer than a page, and `data` is its beginning."""
    next: Cursor | None = None
    """None: the file ends here."""


def cut(cursor: Cursor, data: bytes, *, is_end: bool) -> Page:
    """Cut the page that begins at the cursor off what was read there, at least a page's bytes unless the file ends.

    `is_end`: nothing follows the data in the file.
    """
    if cursor.skipping:
        return _after_long_line(cursor, data, is_end=is_end)
    lines = data.split(b"\n", PAGE_LINES)
    rest = len(lines.pop())
    if len(lines) == PAGE_LINES:
        size = len(data) - rest
        return Page(data[:size], next=None if is_end and rest == 0 else _moved(cursor, size, PAGE_LINES))
    if is_end:
        return Page(data)
    if lines:
        size = len(data) - rest
        return Page(data[:size], next=_moved(cursor, size, len(lines)))
    return Page(data, too_long=True, next=msgspec.structs.replace(_moved(cursor, len(data), 0), skipping=True))


def _after_long_line(cursor: Cursor, data: bytes, *, is_end: bool) -> Page:
    end = data.find(b"\n") + 1
    if end == 0:
        return Page(b"", next=None if is_end else _moved(cursor, len(data), 0))
    if is_end and end == len(data):
        return Page(b"")
    return Page(b"", next=msgspec.structs.replace(_moved(cursor, end, 1), skipping=False))


def _moved(cursor: Cursor, size: int, lines: int) -> Cursor:
    return msgspec.structs.replace(cursor, offset=cursor.offset + size, line=cursor.line + lines)
