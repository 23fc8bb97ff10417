"""Splits a stream of server-sent events, as a broker writes them, into events."""

from collections.abc import Iterator

ANSWER = b"answer"
"""The name of the event that holds the whole answer."""
ERROR = b"error"
"""The name of the event that ends a stream which cannot go on, where the whole answer was asked for."""
DONE = b"[DONE]"
"""The data of the last event of OpenAI's streams."""


class Events:
    """The bytes of one stream, of which an event may come in parts."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def of(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield name and data of each event that ends with these bytes. Comments are left out; a name may be empty."""
        self._parts.append(data)
        if b"\n" not in data:  # no event has ended
            return
        *events, rest = b"".join(self._parts).split(b"\n\n")
        self._parts = [rest]
        for event in events:
            yield from _read(event)


def _read(event: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Read an event; ours have one line of data."""
    lines = dict(line.partition(b": ")[::2] for line in event.split(b"\n"))
    if b"data" in lines:
        yield lines.get(b"event", b""), lines[b"data"]
