"""The pieces in which the content of files is kept, and what a range of bytes needs of them."""

import msgspec

PIECE_BYTES = 1024 * 1024
"""The size of every piece of a file but the last, before compression."""


class Span(msgspec.Struct, frozen=True):
    """What a range of bytes takes of one piece."""

    number: int
    """The piece, from 0 on."""
    begin: int
    end: int
    """The byte after the last, within the piece."""


def spans(begin: int, end: int) -> list[Span]:
    """Cut the range from byte `begin` to the one before `end` into what each piece has of it."""
    first, last = begin // PIECE_BYTES, -(-end // PIECE_BYTES)
    cut = [(n, max(0, begin - n * PIECE_BYTES), min(PIECE_BYTES, end - n * PIECE_BYTES)) for n in range(first, last)]
    return [Span(*one) for one in cut if one[1] < one[2]]


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """The rest of a file, from a byte on, whose content is known by its digest."""

    sha256: bytes
    """Of the whole file."""
    bytes: int
    """The size of the whole file."""
    offset: int
    """The byte of the file with which the rest begins."""
    name: str
    kept_ms: int | None
    """How long the file is kept. None: until somebody deletes it."""


class Pieces:
    """Gathers bytes of any sizes into pieces."""

    def __init__(self) -> None:
        self._held = bytearray()
        self.bytes = 0
        """How many came so far."""

    def add(self, data: bytes) -> list[bytes]:
        """Take bytes; return the pieces that are full now."""
        self._held += data
        self.bytes += len(data)
        full = len(self._held) // PIECE_BYTES * PIECE_BYTES
        pieces = [bytes(self._held[at : at + PIECE_BYTES]) for at in range(0, full, PIECE_BYTES)]
        del self._held[:full]
        return pieces

    def rest(self) -> list[bytes]:
        """Return the last piece, which is smaller, if there is one."""
        return [bytes(self._held)] if self._held else []
