"""A way to a server that loses what it is told to lose."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, urlsplit, urlunsplit

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Proxy:
    """Stands between clients and a server."""

    def __init__(self, server: Callable[[], Awaitable[Streams]], watched: bytes) -> None:
        self.url = ""
        self.watched = watched
        """Counted in what clients write."""
        self.seen = 0
        self.loses = False
        """What is watched is lost."""
        self.is_deaf = False
        """What the server answers is lost."""
        self.flows = asyncio.Event()
        """While it is not set, nothing of what clients write is read."""
        self.flows.set()
        self.is_open = True
        self._server = server
        self._writers: list[asyncio.StreamWriter] = []

    def cut(self) -> None:
        """Every connection; new ones are taken while it is open."""
        writers, self._writers = self._writers, []
        for writer in writers:
            writer.close()

    async def took(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.is_open:
            writer.close()
            return
        server_reader, server_writer = await self._server()
        self._writers += [writer, server_writer]
        await asyncio.gather(self._upward(reader, server_writer), self._downward(server_reader, writer))

    async def _upward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                await self.flows.wait()
                if self.watched in data:
                    self.seen += 1
                    if self.loses:
                        continue
                writer.write(data)
        writer.close()

    async def _downward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                if not self.is_deaf:
                    writer.write(data)
        writer.close()


@asynccontextmanager
async def a_proxy(nats_url: str, *, watched: bytes = b"\0") -> AsyncIterator[Proxy]:
    proxy = Proxy(partial(asyncio.open_connection, "127.0.0.1", int(urlsplit(nats_url).port or 0)), watched)
    server = await asyncio.start_server(proxy.took, "127.0.0.1", 0)
    proxy.url = f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
        proxy.cut()


@asynccontextmanager
async def a_postgres_proxy(url: str) -> AsyncIterator[Proxy]:
    """The proxy is a socket file, as the server may be."""
    parts = urlsplit(url)
    if parts.hostname:
        server = partial(asyncio.open_connection, parts.hostname, parts.port or 5432)
    else:
        server = partial(asyncio.open_unix_connection, Path(parse_qs(parts.query)["host"][0], _SOCKET))
    proxy = Proxy(server, b"\0\0never")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        listening = await asyncio.start_unix_server(proxy.took, Path(folder, _SOCKET))
        user = parts.netloc.rpartition("@")[0]
        proxy.url = urlunsplit(parts._replace(netloc=f"{user}@" if user else "", query=f"host={folder}"))
        try:
            yield proxy
        finally:
            listening.close()
            proxy.cut()


_SOCKET = ".s.PGSQL.5432"
