"""Sends a request to an ASGI application in this process, without a socket, and reads its answer piece by piece.

The ASGI transports of HTTP clients collect the complete answer first, which is no use for a stream. The messages are
those of the ASGI specification, "HTTP & WebSocket ASGI Message Format".
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

AsgiMessage = MutableMapping[str, Any]
AsgiApp = Callable[
    [AsgiMessage, Callable[[], Awaitable[AsgiMessage]], Callable[[AsgiMessage], Awaitable[None]]], Awaitable[None]
]
_LEAVE_S = 5.0
"""How long the application may take to notice that its client has disconnected, before it is cancelled."""


class AsgiResponse:
    """What the application answers. To the application, leaving `called` early is a client that disconnects."""

    def __init__(self, request: bytes) -> None:
        self._request: bytes | None = request
        self._messages: asyncio.Queue[AsgiMessage] = asyncio.Queue()
        self._disconnected = asyncio.Event()
        self.status = 0

    async def begun(self) -> bool:
        """Wait for the status. Return False if the application ended without one."""
        message = await self._messages.get()
        self.status = message.get("status", 0)
        return bool(self.status)

    async def next(self) -> bytes | None:
        """Return the next piece of the body; None at its end."""
        message = await self._messages.get()
        if not message.get("more_body", False):
            self._messages.put_nowait({})
        return message.get("body", b"") if message else None

    async def receive(self) -> AsgiMessage:
        if self._request is not None:
            body, self._request = self._request, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._disconnected.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: AsgiMessage) -> None:
        self._messages.put_nowait(message)

    def disconnect(self) -> None:
        self._disconnected.set()

    def end(self, _: asyncio.Task[None]) -> None:
        """Wake the reader: the application has ended, perhaps without an answer."""
        self._messages.put_nowait({})


@asynccontextmanager
async def called(app: AsgiApp, path: str, body: bytes, headers: dict[str, str]) -> AsyncIterator[AsgiResponse]:
    """POST a JSON body, and yield the answer. On leaving, raises what the application raised."""
    reply = AsgiResponse(body)
    scope: AsgiMessage = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            *((name.lower().encode(), value.encode()) for name, value in headers.items()),
        ],
        "client": None,
        "server": None,
    }
    answering = asyncio.ensure_future(app(scope, reply.receive, reply.send))
    answering.add_done_callback(reply.end)
    try:
        yield reply
    finally:
        reply.disconnect()
        await _finished(answering)


async def _finished(answering: asyncio.Future[None]) -> None:
    """Wait until the application has noticed the disconnect. Cancel it if that takes too long, or if we are cancelled."""
    try:
        await asyncio.wait({answering}, timeout=_LEAVE_S)
    finally:
        if not answering.done():
            answering.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await answering
