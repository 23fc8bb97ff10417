"""A way to a server that loses what it is told to lose."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit


class Proxy:
    """Stands between clients and a NATS server."""

    def __init__(self, port: int, watched: bytes) -> None:
        self.url = ""
        self.watched = watched
        """Counted in what clients write."""
        self.seen = 0
        self.loses = False
        """What is watched is lost."""
        self.flows = asyncio.Event()
        """While it is not set, nothing of what clients write is read."""
        self.flows.set()
        self.is_open = True
        self._port = port
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
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers += [writer, server_writer]
        await asyncio.gather(self._upward(reader, server_writer), _copy(server_reader, writer))

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


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
    writer.close()


@asynccontextmanager
async def a_proxy(nats_url: str, *, watched: bytes = b"\0") -> AsyncIterator[Proxy]:
    proxy = Proxy(int(urlsplit(nats_url).port or 0), watched)
    server = await asyncio.start_server(proxy.took, "127.0.0.1", 0)
    proxy.url = f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
        proxy.cut()
