"""A client's subscription, and the messages that come to it, as nats-py has them."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from schemas.jetstream.connection import BadSubscriptionError, ConnectionClosedError, NatsTimeoutError

if TYPE_CHECKING:
    from broker.simulate.nats.connection import MemoryConnection

Callback = Callable[["MemoryMessage"], Awaitable[None]]


@dataclass(slots=True, eq=False)
class MemoryMessage:
    """Implements `schemas.jetstream.Message`."""

    subject: str
    reply: str
    data: bytes
    headers: dict[str, str] | None = None


class MemorySubscription:
    """Implements `schemas.jetstream.Subscription`. A callback gets one message at a time, in a task of its own."""

    def __init__(
        self,
        connection: "MemoryConnection",
        sid: int,
        subject: str,
        queue: str,
        cb: Callback | None,
        *,
        most: int,
        most_bytes: int,
    ) -> None:
        self._connection = connection
        self.sid = sid
        self.subject = subject
        self.queue = queue
        self._cb = cb
        self._messages: asyncio.Queue[MemoryMessage | None] = asyncio.Queue(most)
        self._most_bytes = most_bytes
        self._bytes = 0
        self._is_closed = False
        self._waiters = 0
        """How many wait for the next message."""
        self._handling: asyncio.Task[None] | None = None
        if cb is not None:
            self._handling = asyncio.get_running_loop().create_task(self._handle(cb))

    def __repr__(self) -> str:
        return f"MemorySubscription({self.subject}, waiting={self._messages.qsize()})"

    async def next_msg(self, timeout: float | None = 1.0) -> MemoryMessage:  # noqa: ASYNC109 - nats-py's own signature
        if self._connection.is_closed:
            raise ConnectionClosedError
        self._waiters += 1
        try:
            async with asyncio.timeout(timeout):
                message = await self._messages.get()
        except TimeoutError:
            raise NatsTimeoutError from None
        finally:
            self._waiters -= 1
        if message is None:
            raise ConnectionClosedError
        self._bytes -= len(message.data)
        self._messages.task_done()
        return message

    async def unsubscribe(self) -> None:
        self._check_open()
        self._is_closed = True
        self._stop_handling()
        self._connection.forget(self, tell=True)

    async def drain(self) -> None:
        """Unsubscribe once the messages that were already sent have been handled."""
        self._check_open()
        try:
            self._connection.tell_unsubscribed(self)
            await self._connection.flush()
            await self._messages.join()
        finally:
            self._stop_handling()
            self._connection.forget(self, tell=not self._connection.is_closed)
            self._is_closed = True

    def put(self, message: MemoryMessage) -> bool:
        """Queue a message. False: it is lost, because too many wait already."""
        size = len(message.data)
        if (0 < self._most_bytes <= self._bytes + size) or self._messages.full():
            return False
        self._bytes += size
        self._messages.put_nowait(message)
        return True

    def end(self) -> None:
        """Stop, because the connection is closed."""
        self._stop_handling()
        for _ in range(self._waiters):
            self._messages.put_nowait(None)

    def _check_open(self) -> None:
        if self._connection.is_closed:
            raise ConnectionClosedError
        if self._is_closed:
            raise BadSubscriptionError

    def _stop_handling(self) -> None:
        if self._handling is not None:
            self._handling.cancel()

    async def _handle(self, cb: Callback) -> None:
        messages = self._messages
        while True:
            message = await messages.get()
            if message is None:
                return
            self._bytes -= len(message.data)
            try:
                await cb(message)
            except Exception as error:  # noqa: BLE001 - as nats-py: whatever a callback raises is told
                await self._connection.tell_error(error)
            finally:
                messages.task_done()
