"""A request to an ASGI application in this process, without a socket; its answer comes piece by piece.

HTTP clients' own ASGI transports collect the whole answer first, which is no use for a stream. The messages are those
of the ASGI specification, "HTTP & WebSocket ASGI AsgiMessage Format".
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
"""How long an application may take to notice that its client left."""


class AsgiResponse:
    """What the application answers. Leaving `called` early is the client hanging up."""

    def __init__(self, request: bytes) -> None:
        self._request: bytes | None = request
        self._messages: asyncio.Queue[AsgiMessage] = asyncio.Queue()
        self._left = asyncio.Event()
        self.status = 0

    async def begun(self) -> bool:
        """Wait for its status; False if it ended without one."""
        message = await self._messages.get()
        self.status = message.get("status", 0)
        return bool(self.status)

    async def next(self) -> bytes | None:
        """The next piece of its body; None at its end."""
        message = await self._messages.get()
        if not message.get("more_body", False):
            self._messages.put_nowait({})
        return message.get("body", b"") if message else None

    async def receive(self) -> AsgiMessage:
        if self._request is not None:
            body, self._request = self._request, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: AsgiMessage) -> None:
        self._messages.put_nowait(message)

    def hang_up(self) -> None:
        self._left.set()

    def ended(self, _: asyncio.Task[None]) -> None:
        self._messages.put_nowait({})


@asynccontextmanager
async def called(app: AsgiApp, path: str, body: bytes, headers: dict[str, str]) -> AsyncIterator[AsgiResponse]:
    """POST JSON. Raises what the application raises, once it is left."""
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
    answering = asyncio.create_task(_run(app, scope, reply))
    answering.add_done_callback(reply.ended)
    try:
        yield reply
    finally:
        reply.hang_up()
        await _finished(answering)


async def _run(app: AsgiApp, scope: AsgiMessage, reply: AsgiResponse) -> None:
    await app(scope, reply.receive, reply.send)


async def _finished(answering: asyncio.Task[None]) -> None:
    """Let it notice; it is cancelled if it does not, or if nobody may wait."""
    try:
        await asyncio.wait({answering}, timeout=_LEAVE_S)
    finally:
        if not answering.done():
            answering.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await answering
