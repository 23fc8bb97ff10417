"""Server-sent events, as OpenAI-compatible APIs stream them: the payloads of `data:` lines, as they come in.

What is read follows the HTML standard, "Parsing an event stream"; only `data` matters here.
"""

DONE = b"[DONE]"


class Events:
    """Bytes in, in pieces as the network cut them; the payloads of whole events out."""

    def __init__(self) -> None:
        self._line: list[bytes] = []
        """The pieces of a line that has not ended."""
        self._data: list[bytes] = []
        self.pending_bytes = 0
        """What is kept for an event that has not ended."""

    def feed(self, piece: bytes) -> list[bytes]:
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
        """The payload of the event that this line ends, if it does."""
        if line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))
        elif not line.strip() and self._data:
            payload, self._data = b"\n".join(self._data), []
            return payload
        return None

    def end(self) -> bytes | None:
        """What came after the last whole event: an API that forgets the empty line, or a stream that was cut."""
        left = self.feed(b"\n\n")
        return left[0] if left else None
