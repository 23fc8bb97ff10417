"""A way to NATS on which acknowledgements are lost: whole messages, as a network never does but a dying server can."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

_PAYLOAD_VERBS = (b"PUB", b"HPUB", b"MSG", b"HMSG")
_STORED = b'{"stream":'
"""How the server's acknowledgement of a stored message begins."""


class LossyWay:
    """Stands between some processes and NATS, at a port of its own."""

    def __init__(self, port: int) -> None:
        self.url = ""
        self.loses_acks = False
        """Of messages that were handled: the stream delivers them again."""
        self.loses_confirmations = False
        """Of messages that were stored: the publisher tries again."""
        self.lost = 0
        self._port = port
        self._writers: set[asyncio.StreamWriter] = set()

    def cut(self) -> None:
        """End every connection."""
        for writer in self._writers:
            writer.transport.abort()

    async def took(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            writer.close()
            return
        both = {writer, there_writer}
        self._writers |= both
        try:
            await asyncio.gather(
                self._pass_on(reader, there_writer, self._is_lost_ack),
                self._pass_on(there_reader, writer, self._is_lost_confirmation),
            )
        finally:
            self._writers -= both

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_lost: Callable[[bytes, bytes], bool]
    ) -> None:
        """Pass on a protocol message at a time, until either end is closed."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            while line := await reader.readline():
                payload = b""
                if line.split(maxsplit=1)[:1][0] in _PAYLOAD_VERBS if line.strip() else False:
                    payload = await reader.readexactly(int(line.split()[-1]) + 2)
                if payload and is_lost(line, payload):
                    self.lost += 1
                    continue
                if writer.transport.is_closing():
                    break
                writer.write(line + payload)
                if writer.transport.get_write_buffer_size() > 1 << 16:
                    await writer.drain()
        writer.close()

    def _is_lost_ack(self, line: bytes, _: bytes) -> bool:
        return self.loses_acks and line.split()[1].startswith(b"$JS.ACK")

    def _is_lost_confirmation(self, _: bytes, payload: bytes) -> bool:
        return self.loses_confirmations and payload.startswith(_STORED)


@asynccontextmanager
async def a_lossy_way(port: int) -> AsyncIterator[LossyWay]:
    """To the server at this port of the loopback."""
    way = LossyWay(port)
    server = await asyncio.start_server(way.took, "127.0.0.1", 0, limit=1 << 20)
    way.url = f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield way
    finally:
        server.close()
        way.cut()
