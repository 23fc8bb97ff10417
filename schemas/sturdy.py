"""What nats-py's Client (2.16.0) does not survive; broker and workers put `Sturdy` in front of it.

Its reader and its flusher end in silence over an exception they do not expect: the connection looks connected, and
nothing comes or goes any more.
"""

import asyncio
from typing import Any


class Sturdy:
    """Takes a lost socket for lost, and any subject and headers for a message."""

    is_connected: bool

    async def _flush_pending(self, force_flush: bool = False) -> Any:  # noqa: FBT001, FBT002 - nats-py's own signature
        """Uvloop raises RuntimeError for a write to a socket that the server has closed."""
        try:
            return await super()._flush_pending(force_flush)  # type: ignore[misc] # nats-py's Client is behind
        except RuntimeError as error:
            await self._lost(error)

    async def _read_loop(self) -> None:
        """It has to end by a reconnect, a close or a cancellation."""
        await super()._read_loop()  # type: ignore[misc]
        task = asyncio.current_task()
        if self.is_connected and not (task and task.cancelling()):
            await self._lost(ConnectionError("the reader ended"))

    async def _process_headers(self, headers: bytes) -> dict[str, str] | None:
        """A block of headers that is none (`NATS/1.0` and no more) passes the server."""
        try:
            found: dict[str, str] | None = await super()._process_headers(headers)  # type: ignore[misc]
        except (ValueError, IndexError):
            return None
        return found

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None
    ) -> Any:
        """A subject that is not UTF-8 passes the server."""
        return super()._build_message(sid, _utf8(subject), _utf8(reply), data, headers)  # type: ignore[misc]

    async def _lost(self, error: Exception) -> None:
        await self._process_op_err(error)  # type: ignore[attr-defined]


def _utf8(name: bytes) -> bytes:
    return name if name.isascii() else name.decode(errors="backslashreplace").encode()
