"""Reads server-sent events, as browsers and SDKs do."""

from collections.abc import AsyncIterator
from typing import NamedTuple


class Event(NamedTuple):
    name: str
    data: bytes
    place: str
    """Its id."""


async def events_of(pieces: AsyncIterator[bytes]) -> AsyncIterator[Event]:
    """Yield events as they come. What has no end yet is left out."""
    rest = b""
    async for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n\n")
        for one in whole:
            if (event := _read(one)) is not None:
                yield event


def _read(text: bytes) -> Event | None:
    """Read an event. None: it has no data, as a comment."""
    fields: dict[bytes, bytes] = {}
    for line in text.split(b"\n"):
        name, _, value = line.partition(b":")
        fields[name] = value.removeprefix(b" ")
    if b"data" not in fields:
        return None
    return Event(fields.get(b"event", b"message").decode(), fields[b"data"], fields.get(b"id", b"").decode())
