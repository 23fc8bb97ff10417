"""Parses server-sent events, as OpenAI-compatible APIs stream them. Only the payloads of `data:` lines matter here.

It follows the HTML standard, section "Parsing an event stream".
"""

DONE = b"[DONE]"
_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")


def holds_events(body: bytes) -> bool:
    """Say whether a body is a stream of events, whatever its content type says."""
    return body.lstrip().startswith(_FIELDS)


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
        payloads = [data for line in lines if (data := self._ended_by(line.removesuffix(b"\r"))) is not None]
        self.pending_bytes = len(others[-1]) + sum(map(len, self._data))
        return payloads

    def _ended_by(self, line: bytes) -> bytes | None:
        """Return the payload of the event that this line ends; None if it ends none."""
        if line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))
        elif line.startswith(b"error:"):  # older llama.cpp servers
            self._data.append(b'{"error":%s}' % line[6:])
        elif not line.strip() and self._data:
            payload, self._data = b"\n".join(self._data), []
            return payload
        return None

    def all(self, stream: bytes) -> list[bytes]:
        """Take a whole stream, and return the payloads of its events."""
        payloads = self.feed(stream)
        last = self.end()
        return payloads if last is None else [*payloads, last]

    def end(self) -> bytes | None:
        """Return the payload of an unended last event: the API omitted the empty line, or the stream was cut."""
        left = self.feed(b"\n\n")
        return left[0] if left else None
