"""Server-sent events, as OpenAI-compatible APIs stream them: the payloads of `data:` lines, as they come in.

What is read follows the HTML standard, "Parsing an event stream"; only `data` matters here.
"""

DONE = b"[DONE]"


class Events:
    """Bytes in, in pieces as the network cut them; the payloads of whole events out."""

    def __init__(self) -> None:
        self._rest = b""
        self._lines: list[bytes] = []

    def feed(self, piece: bytes) -> list[bytes]:
        payloads = []
        *lines, self._rest = (self._rest + piece).replace(b"\r\n", b"\n").split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._lines.append(line[5:].removeprefix(b" "))
            elif not line.strip() and self._lines:
                payloads.append(b"\n".join(self._lines))
                self._lines = []
        return payloads

    def end(self) -> bytes | None:
        """What came after the last whole event: an API that forgets the empty line, or a stream that was cut."""
        left = self.feed(b"\n\n")
        return left[0] if left else None
