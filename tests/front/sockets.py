"""Hand-made HTTP/1.1, for what no client library would send."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple
from urllib.parse import urlsplit

WITHIN_S = 20.0


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Socket:
    """One connection to a server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await asyncio.wait_for(self.writer.drain(), WITHIN_S)

    async def ask(self, data: bytes) -> Answer:
        await self.send(data)
        return await self.answer()

    async def answer(self) -> Answer:
        """Read one answer, whole. Raises: IncompleteReadError if the connection ends before."""
        async with asyncio.timeout(WITHIN_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            line, *rest = head.strip().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in rest)}
            if headers.get("transfer-encoding") == "chunked":
                body = b"".join([chunk async for chunk in self.chunks()])
            else:
                body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return Answer(int(line.split()[1]), headers, body)

    async def chunks(self) -> AsyncIterator[bytes]:
        while size := int(await self.reader.readline(), 16):
            yield await self.reader.readexactly(size)
            await self.reader.readexactly(2)
        await self.reader.readexactly(2)

    async def ended(self, within_s: float = WITHIN_S) -> bytes:
        """Wait until the server ends the connection. Return what it sent before."""
        try:
            return await asyncio.wait_for(self.reader.read(), within_s)
        except ConnectionError:
            return b""


@asynccontextmanager
async def connected(
    url: str, *, source: str | None = None, context: ssl.SSLContext | None = None
) -> AsyncIterator[Socket]:
    """Connect, from a certain address of this machine if one is given."""
    place = urlsplit(url)
    local = None if source is None else (source, 0)
    reader, writer = await asyncio.open_connection(place.hostname, place.port, local_addr=local, ssl=context)
    try:
        yield Socket(reader, writer)
    finally:
        writer.transport.abort()


def a_request(path: str = "/", *headers: str, method: str = "GET", body: bytes | None = None) -> bytes:
    more = [] if body is None else [f"content-length: {len(body)}"]
    lines = [f"{method} {path} HTTP/1.1", "host: here", *headers, *more, "", ""]
    return "\r\n".join(lines).encode() + (body or b"")
