"""Parses server-sent events, as OpenAI-compatible APIs stream them. Only the payloads of `data:` lines matter here.

It follows the HTML standard, section "Parsing an event stream".
"""

DONE = b"[DONE]"
_BOM = b"\xef\xbb\xbf"
_NOTHING = (b"", b"null")
"""What some APIs send now and then to keep a connection open."""
_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")


def holds_events(body: bytes) -> bool:
    """Say whether a body is a stream of events, whatever its content type says."""
    return body.removeprefix(_BOM).lstrip().startswith(_FIELDS)


class Events:
    """Takes bytes in pieces, however the network cut them, and returns the payloads of complete events."""

    def __init__(self) -> None:
        self._line: list[bytes] = []
        """The pieces of the line that has not ended yet."""
        self._data: list[bytes] = []
        self.pending_bytes = 0
        """How many bytes are held for the event that has not ended yet."""

    def feed(self, piece: bytes) -> list[bytes]:
        """Take the next piece, and return the payloads of the events that it completes."""
        first, *others = piece.split(b"\n")
        self._line.append(first)
        self.pending_bytes += len(first)
        if not others:
            return []
        lines = [b"".join(self._line), *others[:-1]]
        self._line = [others[-1]]
        payloads = [data for line in lines for data in self._ended_by(line.removesuffix(b"\r"))]
        self.pending_bytes = len(others[-1]) + sum(map(len, self._data))
        return payloads

    def _ended_by(self, line: bytes) -> list[bytes]:
        """Return the payloads of the event that this line ends: one, unless empty lines were left out between events."""
        if line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))
        elif line.startswith(b"error:"):  # older llama.cpp servers
            self._data.append(b'{"error":%s}' % line[6:])
        elif not line.strip() and self._data:
            parts, self._data = self._data, []
            is_many = len(parts) > 1 and all(map(_is_whole, parts))
            payloads = [part.strip() for part in (parts if is_many else [b"\n".join(parts)])]
            return [payload for payload in payloads if payload not in _NOTHING]
        elif line.startswith(_BOM):
            return self._ended_by(line.removeprefix(_BOM))
        return []

    def all(self, stream: bytes) -> list[bytes]:
        """Take a whole stream, and return the payloads of its events."""
        return [*self.feed(stream), *self.end()]

    def end(self) -> list[bytes]:
        """Return what an unended last event holds: the API omitted the empty line, or the stream was cut."""
        return self.feed(b"\n\n")


def _is_whole(part: bytes) -> bool:
    """Say whether a line of data is an object of its own, or the end."""
    part = part.strip()
    return part == DONE or (part.startswith(b"{") and part.endswith(b"}"))
