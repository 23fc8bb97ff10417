"""What nats-py's Client (2.16.0) does not survive; broker and workers put `Sturdy` in front of it.

Its reader and its flusher end in silence over an exception they do not expect: the connection looks connected, and
nothing comes or goes any more. And a task that is cancelled inside one of its calls goes on as if it had not been: the
flush catches the cancellation, as does asyncio.wait_for before Python 3.12 when the answer comes at the same moment.
What tells is how often the task was cancelled: an earlier cancellation does not count, so that a task can still publish
while it ends.
"""

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

T = TypeVar("T")


class Sturdy:
    """Takes a lost socket for lost, any subject and headers for a message, and a cancellation for what it is."""

    is_connected: bool
    is_closed: bool

    async def _flush_pending(self, force_flush: bool = False) -> Any:  # noqa: FBT001, FBT002 - nats-py's own signature
        """Uvloop raises RuntimeError for a write to a socket that the server has closed.

        Publish, request, subscribe, unsubscribe and drain all come here when much is pending. A connection that is being
        closed is closed first; then `close` raises.
        """
        task = _this_task()
        before = task.cancelling()
        try:
            flushed = await super()._flush_pending(force_flush)  # type: ignore[misc] # nats-py's Client is behind
        except RuntimeError as error:
            flushed = None
            await self._lost(error)
        if task.cancelling() > before and not self.is_closed:
            raise asyncio.CancelledError
        return flushed

    async def request(self, *args: Any, **named: Any) -> Any:
        return await _ending(super().request(*args, **named))  # type: ignore[misc]

    async def flush(self, *args: Any, **named: Any) -> None:
        await _ending(super().flush(*args, **named))  # type: ignore[misc]

    async def close(self) -> None:
        await _ending(super().close())  # type: ignore[misc]

    async def subscribe(self, *args: Any, **named: Any) -> Any:
        """Its `next_msg` waits in a task of its own, which a message ends at the moment of the cancellation."""
        subscription = await super().subscribe(*args, **named)  # type: ignore[misc]
        wait = subscription.next_msg
        subscription.next_msg = lambda timeout=1.0: _ending(wait(timeout))
        return subscription

    async def _read_loop(self) -> None:
        """It has to end by a reconnect, a close or a cancellation."""
        await super()._read_loop()  # type: ignore[misc]
        if self.is_connected and not _this_task().cancelling():
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


async def _ending(call: Awaitable[T]) -> T:
    """Await a call. If the task is told to end meanwhile, it ends, whatever the call comes to at that moment."""
    task = _this_task()
    before = task.cancelling()
    try:
        return await call
    finally:
        if task.cancelling() > before:
            raise asyncio.CancelledError


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - only a task can await
    return task


def _utf8(name: bytes) -> bytes:
    return name if name.isascii() else name.decode(errors="backslashreplace").encode()
