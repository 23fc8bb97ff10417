"""Works around bugs of nats-py's Client (2.16.0): `ClientFixes` overrides its methods.

The client's reader and flusher end silently at an unexpected exception. The connection then seems connected, but nothing is
sent or received any more. Also, a task that is cancelled inside one of the client's calls goes on as if it had not been: the
flush swallows the cancellation, and so does asyncio.wait_for before Python 3.12 if the answer comes at the same moment. So
the task's count of cancellations is compared before and after the call. An earlier cancellation does not count: a task may
still publish while it ends.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from nats.aio.transport import TcpTransport

from schemas.jetstream.connection import NatsError

T = TypeVar("T")
_PERMISSIONS = "permissions violation"
"""What a server says that refuses one subject, and leaves the connection alone."""
_DISCONNECTED = 0
"""The client's own number for a connection that is lost."""


class ClientFixes:
    """Reconnects when the socket is lost, closes a lost one, accepts any subject and headers, lets cancellations through.

    What ends while the connection is lost is over for the next server too.
    """

    is_connected: bool
    is_reconnecting: bool
    is_closed: bool
    _status: int
    _pending: list[bytes]
    _pending_data_size: int
    options: dict[str, Any]
    _error_cb: Callable[[Exception], Awaitable[None]]

    async def _flush_pending(self, force_flush: bool = False) -> Any:  # noqa: FBT001, FBT002 - nats-py's own signature
        """Reconnect if the server has closed the socket, for which uvloop raises RuntimeError.

        Publish, request, subscribe, unsubscribe and drain all call this when much is pending. If the connection is being
        closed, a cancellation waits until it is; then `close` raises it.
        """
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - only a task can await
        before = task.cancelling()
        try:
            flushed = await super()._flush_pending(force_flush)  # type: ignore[misc] # nats-py's Client comes next
        except RuntimeError as error:
            flushed = None
            await self._lost(error)
        if task.cancelling() > before and not self.is_closed:
            raise asyncio.CancelledError
        return flushed

    def request(self, *args: Any, **named: Any) -> Coroutine[Any, Any, Any]:
        return _cancellable(super().request(*args, **named))  # type: ignore[misc]

    def flush(self, *args: Any, **named: Any) -> Coroutine[Any, Any, None]:
        return _cancellable(super().flush(*args, **named))  # type: ignore[misc]

    def close(self) -> Coroutine[Any, Any, None]:
        return _cancellable(super().close())  # type: ignore[misc]

    async def _close(self, status: int, do_cbs: bool = True) -> None:  # noqa: FBT001, FBT002 - nats-py's own signature
        """Close a lost connection too: nats-py writes what is pending to the lost socket, and stops halfway at its error."""
        if self.is_connected:
            with contextlib.suppress(OSError, RuntimeError):
                await super()._close(status, do_cbs)  # type: ignore[misc]
                return
            self._status = _DISCONNECTED
        self._pending, self._pending_data_size = [], 0
        await super()._close(status, do_cbs)  # type: ignore[misc]

    async def subscribe(self, *args: Any, **named: Any) -> Any:
        """Make `next_msg` of the subscription raise a cancellation even if a message comes at the same moment.

        And let it be over once it was to be drained, whatever comes of that: if the connection was lost meanwhile, nats-py
        has begun it anew at the next server.
        """
        subscription = await super().subscribe(*args, **named)  # type: ignore[misc]
        wait, drain = subscription.next_msg, subscription._drain  # noqa: SLF001 - what `drain` calls, of the client too

        async def drained() -> None:
            try:
                await drain()
            finally:
                subscription._stop_processing()  # noqa: SLF001
                super(ClientFixes, self)._remove_sub(subscription._id)  # type: ignore[misc] # noqa: SLF001
                self._end_at_server(subscription._id)  # noqa: SLF001

        subscription.next_msg = lambda timeout=1.0: _cancellable(wait(timeout))
        subscription._drain = drained  # noqa: SLF001
        return subscription

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        """Take a subscription back that may be pending. While the connection is lost, nats-py sends only its beginning."""
        super()._remove_sub(sid, max_msgs)  # type: ignore[misc]
        if self.is_reconnecting:
            self._end_at_server(sid)

    def _end_at_server(self, sid: int) -> None:
        """Have the server told with what is sent next that a subscription is over. Saying it again does no harm."""
        if not self.is_closed:
            self._pending.append(command := b"UNSUB %d\r\n" % sid)
            self._pending_data_size += len(command)

    async def _read_loop(self) -> None:
        """Reconnect if the reader ends for any other reason than a reconnect, a close or a cancellation."""
        await super()._read_loop()  # type: ignore[misc]
        task = asyncio.current_task()
        if self.is_connected and not (task and task.cancelling()):
            await self._lost(ConnectionError("the reader ended"))

    async def _process_headers(self, headers: bytes) -> dict[str, str] | None:
        """Treat malformed headers as none: the server lets a block through that holds no more than `NATS/1.0`."""
        try:
            found: dict[str, str] | None = await super()._process_headers(headers)  # type: ignore[misc]
        except (ValueError, IndexError):
            return None
        return found

    @staticmethod
    def _parse_header_lines(raw: bytes) -> dict[str, str]:
        """Parse headers as nats-py does, without its generator for each name, which costs more than the rest."""
        found: dict[str, str] = {}
        for line in raw.split(b"\r\n"):
            name, colon, text = line.partition(b":")
            if colon and (name := name.strip()).isascii():
                key = name.decode()
                if "".join(key.split()) == key:
                    found[key] = text.strip().decode(errors="replace")
        return found

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None
    ) -> Any:
        """Accept a subject that is not UTF-8: the server lets it through."""
        if not subject.isascii() or not reply.isascii():
            subject, reply = _utf8(subject), _utf8(reply)
        return super()._build_message(sid, subject, reply, data, headers)  # type: ignore[misc]

    async def _process_err(self, message: str) -> None:
        """Connect again after an error that a server ends a connection with, for which nats-py closes it for good.

        A refusal may come late: a server under load may take its time to ask whether a key is let in.
        """
        if _PERMISSIONS in message.lower() or not self.options["allow_reconnect"]:
            await super()._process_err(message)  # type: ignore[misc]
            return
        error = NatsError("nats: " + message.strip("'"))
        await self._error_cb(error)
        await self._lost(error)

    async def _lost(self, error: Exception) -> None:
        await self._process_op_err(error)  # type: ignore[attr-defined]


class QuietTransport(TcpTransport):
    """Gives up a connection whose TLS cannot be agreed on, for whose end nats-py would wait for ever, or that is ended.

    Also, it closes one with TLS without a warning of asyncio's, which nobody can do anything about.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __bool__(self) -> bool:
        return True  # or nats-py would take another one

    async def connect(self, *args: Any, **named: Any) -> None:
        """Connect, and leave no socket open of an attempt that was refused."""
        if self._io_writer is not None:
            self._io_writer.close()
        await super().connect(*args, **named)

    async def connect_tls(self, *args: Any, **named: Any) -> None:
        try:
            await super().connect_tls(*args, **named)
        except BaseException:
            if self._io_writer is not None:
                self._io_writer.transport.abort()
            self._io_reader = self._io_writer = self._bare_io_reader = self._bare_io_writer = None
            raise
        protocol = None if self._io_writer is None else self._io_writer.transport.get_protocol()
        if protocol is not None:  # else the server has left already
            protocol._over_ssl = True  # type: ignore[attr-defined] # noqa: SLF001

    async def readline(self) -> bytes:
        """Read what a server says while a connection begins: nats-py takes its end for a yes. Raises: ConnectionError."""
        line: bytes = await super().readline()  # type: ignore[no-untyped-call]
        if not line:
            raise ConnectionResetError("the server ended the connection")
        return line


async def _cancellable(call: Awaitable[T]) -> T:
    """Await a call. If the task is cancelled meanwhile, raise that, whatever the call returns or raises."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - only a task can await
    before = task.cancelling()
    try:
        return await call
    finally:
        if task.cancelling() > before:
            raise asyncio.CancelledError


def _utf8(name: bytes) -> bytes:
    return name.decode(errors="backslashreplace").encode()
