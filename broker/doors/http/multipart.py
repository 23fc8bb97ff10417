"""Reads a form with one file, as it comes, with no more of the file in memory than one message of the server."""

from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from broker.doors.http.reading import Headers, Receive
from broker.service.refusal import Refusal
from schemas.api import Problem

_FIELD_BYTES = 64 * 1024
"""How much of fields beside the file is read, their names included."""


class Form:
    """A form that is being read: first the file, with the fields before it, and then the fields after it."""

    def __init__(self, receive: Receive, headers: Headers) -> None:
        """Raises: Refusal, if it is no form."""
        kind, options = parse_options_header(headers.get(b"content-type", b""))
        if kind != b"multipart/form-data" or b"boundary" not in options:
            raise _bad("send the file as multipart/form-data, with the fields file and purpose")
        names = (
            "part_begin",
            "part_data",
            "part_end",
            "header_field",
            "header_value",
            "header_end",
            "headers_finished",
        )
        callbacks: Any = {f"on_{name}": getattr(self, f"_{name}") for name in names}
        self._parser = MultipartParser(options[b"boundary"], callbacks)
        self._receive = receive
        self._is_whole = False
        self._header = [b"", b""]
        self._disposition: dict[bytes, bytes] = {}
        self._data: deque[bytes] = deque()
        self._is_file = False
        """The part that is being read is the file."""
        self._has_ended = False
        """The file has ended."""
        self._name = ""
        self._small = 0
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        """None: the file has not come yet."""

    async def begin(self) -> str:
        """Read on until the file begins, and return its name. Raises: Refusal, if there is none."""
        while self.filename is None:
            if not await self._more():
                raise _bad("the form has no file: send it in the field file", "file")
        return self.filename

    async def content(self) -> AsyncIterator[bytes]:
        """Yield the content of the file. Raises: Refusal, if the form ends in the middle of it."""
        while True:
            while self._data:
                yield self._data.popleft()
            if self._has_ended:
                return
            if not await self._more():
                raise _bad("the form ends in the middle of the file", "file")

    async def end(self) -> None:
        """Read the fields that follow the file."""
        while await self._more():
            pass

    async def _more(self) -> bool:
        """Read one more message of the body. False: there is none. Raises: Refusal, ConnectionError."""
        if self._is_whole:
            return False
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError("the client left before its file was whole")
        self._is_whole = not message.get("more_body", False)
        try:
            self._parser.write(message.get("body", b""))
        except MultipartParseError as error:
            raise _bad(f"the form cannot be read: {error}") from error
        if self._small > _FIELD_BYTES:
            raise Refusal(Problem("too_large", f"its fields have more than {_FIELD_BYTES} bytes", None, _FIELD_BYTES))
        return True

    def _part_begin(self) -> None:
        self._disposition = {}

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header[0] += data[start:end]
        self._small += end - start

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1] += data[start:end]
        self._small += end - start

    def _header_end(self) -> None:
        name, value = self._header
        self._header = [b"", b""]
        if name.lower() == b"content-disposition":
            self._disposition = parse_options_header(value)[1]

    def _headers_finished(self) -> None:
        self._name = self._disposition.get(b"name", b"").decode(errors="replace")
        self._is_file = b"filename" in self._disposition or self._name == "file"
        if self._is_file and self.filename is not None:
            raise _bad("the form has two files: send one", "file")
        if self._is_file:
            self.filename = self._disposition.get(b"filename", b"file").decode(errors="replace")
        else:
            self.fields[self._name] = ""

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._data.append(data[start:end])
            return
        self._small += end - start
        self.fields[self._name] += data[start:end].decode(errors="replace")

    def _part_end(self) -> None:
        self._has_ended |= self._is_file
        self._is_file = False


def _bad(message: str, field: str | None = None) -> Refusal:
    return Refusal(Problem("bad_request", message, field))
