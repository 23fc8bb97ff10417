"""A connection to the memory server that behaves as `NatsClient` does over nats-py (2.16)."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from broker.simulate.nats import wire
from broker.simulate.nats.link import Link
from broker.simulate.nats.server import Server
from broker.simulate.nats.session import Command, Session
from broker.simulate.nats.subscription import Callback, MemoryMessage, MemorySubscription
from schemas.jetstream.connection import (
    BadHeaderError,
    BadSubjectError,
    ConnectionClosedError,
    FlushTimeoutError,
    MaxPayloadError,
    NatsError,
    NatsTimeoutError,
    NoRespondersError,
    NoServersError,
    OutboundBufferLimitError,
    SlowConsumerError,
    StaleConnectionError,
)
from schemas.subjects import is_subject

_PENDING_MESSAGES = 512 * 1024
_PENDING_BYTES = 128 * 1024 * 1024
_PENDING_SIZE = 2 * 1024 * 1024
_MOST_PINGS = 2
_COMMAND_BYTES = 24
"""About how many bytes a command has besides its subjects and its message."""


class _Status(Enum):
    NEW = "new"
    CONNECTED = "connected"
    RECONNECTING = "reconnecting"
    CLOSED = "closed"


@dataclass(slots=True, eq=False)
class _Publish:
    subject: str
    reply: str
    head: bytes
    data: bytes

    def run(self, session: Session) -> None:
        session.publish(self.subject, self.reply, self.head, self.data)


@dataclass(slots=True, eq=False)
class _Subscribe:
    sid: int
    subject: str
    queue: str

    def run(self, session: Session) -> None:
        session.subscribe(self.sid, self.subject, self.queue)


@dataclass(slots=True, eq=False)
class _Unsubscribe:
    sid: int

    def run(self, session: Session) -> None:
        session.unsubscribe(self.sid, 0)


class _Ping:
    def run(self, session: Session) -> None:
        session.ping()


async def _nothing(*_: object) -> None:
    """Do nothing when a connection is lost or found, unless something else is to be done."""


@dataclass(slots=True)
class _Options:
    name: str = ""
    error_cb: Callable[[Exception], Awaitable[None]] = _nothing
    disconnected_cb: Callable[[], Awaitable[None]] = _nothing
    reconnected_cb: Callable[[], Awaitable[None]] = _nothing
    closed_cb: Callable[[], Awaitable[None]] = _nothing
    max_reconnect_attempts: int = 60
    reconnect_time_wait: float = 1
    pending_size: int = _PENDING_SIZE
    connect_timeout: float = 2
    ping_interval: float = 4
    allow_reconnect: bool = True


class MemoryConnection:
    """Implements `schemas.jetstream.NatsConnection`. `ids` makes names that no other connection has."""

    def __init__(self, server: Server, link: Link, *, ids: Callable[[], str]) -> None:
        self._server = server
        self._link = link
        self._ids = ids
        self._options = _Options()
        self._status = _Status.NEW
        self._session: Session | None = None
        self.is_gone = False
        """Whether its process has died."""
        self._dialled: asyncio.Future[Session] | None = None
        self._reconnecting: asyncio.Task[None] | None = None
        self._pinging: asyncio.TimerHandle | None = None
        self._pings = 0
        self._pongs: list[asyncio.Future[None] | None] = []
        self._pending: list[bytes | Command] = []
        self._pending_bytes = 0
        self._is_gathering = False
        self._subscriptions: dict[int, MemorySubscription] = {}
        self._sid = 0
        self._answers = ""
        """How the subjects of answers to requests begin. Empty: nothing was asked yet."""
        self._answers_sid = 0
        self._asked = 0
        self._waiting: dict[str, asyncio.Future[MemoryMessage]] = {}
        self.reconnects = 0
        self.stats = {"in_msgs": 0, "in_bytes": 0, "out_msgs": 0, "out_bytes": 0}

    def __repr__(self) -> str:
        return f"MemoryConnection({self._options.name}, {self._status.value})"

    @property
    def is_connected(self) -> bool:
        return self._status is _Status.CONNECTED

    @property
    def is_closed(self) -> bool:
        return self._status is _Status.CLOSED

    @property
    def is_reconnecting(self) -> bool:
        return self._status is _Status.RECONNECTING

    @property
    def max_payload(self) -> int:
        return self._server.max_payload

    def new_inbox(self) -> str:
        return f"_INBOX.{self._ids()}"

    # its life

    async def connect(self, servers: object = None, **options: Any) -> None:  # noqa: ARG002 - there is one server
        """Connect, waiting for the server if it is away. The options are those of nats-py, as far as they matter here.

        Raises: NatsError, OSError.
        """
        known = _Options.__dataclass_fields__
        self._options = _Options(
            **{key: value for key, value in options.items() if key in known and value is not None}
        )
        tries = 0
        while True:
            try:
                session = await self._dial()
                break
            except (OSError, NatsError) as error:
                await self._options.error_cb(error)
                tries += 1
                if not self._options.allow_reconnect:
                    raise
                if 0 < self._options.max_reconnect_attempts < tries:
                    raise NoServersError from error
            await asyncio.sleep(self._options.reconnect_time_wait)
        self._begin(session)
        self._status = _Status.CONNECTED

    async def close(self) -> None:
        """Send what is pending and leave, for good."""
        if self.is_closed:
            return
        was_connected, self._status = self.is_connected, _Status.CLOSED
        if self._pinging is not None:
            self._pinging.cancel()
        if self._reconnecting is not None and self._reconnecting is not asyncio.current_task():
            self._reconnecting.cancel()
        session, self._session = self._session, None
        if session is not None:
            if was_connected:
                self._send_pending(session)
            self._link.to_server(session.close)
        await asyncio.sleep(0)
        for subscription in self._subscriptions.values():
            subscription.end()
        self._subscriptions.clear()
        await self._options.disconnected_cb()
        await self._options.closed_cb()

    def abandon(self) -> None:
        """Leave because the process has died. What it had sent arrives still, as a kernel sees to it."""
        self.is_gone = True
        self._link.to_server(self._server.hung_up, self)

    async def drain(self) -> None:
        """Handle what has come, send what is pending and leave."""
        if self.is_closed:
            raise ConnectionClosedError
        await asyncio.gather(*(one.drain() for one in list(self._subscriptions.values())))
        await self.close()

    async def _dial(self) -> Session:
        """Raises: ConnectionRefusedError, NatsTimeoutError."""
        dialled: asyncio.Future[Session] = asyncio.get_running_loop().create_future()
        self._dialled = dialled
        self._link.to_server(self._server.accept, self, self._link, self._options.name)
        try:
            async with asyncio.timeout(self._options.connect_timeout):
                return await dialled
        except BaseException as error:
            if dialled.done() and not dialled.cancelled() and dialled.exception() is None:
                self._link.to_server(dialled.result().close)  # it came at the same moment
            if isinstance(error, TimeoutError):
                raise NatsTimeoutError from None
            raise
        finally:
            self._dialled = None

    def _begin(self, session: Session) -> None:
        """Use a new session: nothing that was asked in the last one is answered."""
        self._session = session
        self._pongs.clear()
        self._pings = 0
        self._ping_later()

    async def _reconnect(self) -> None:
        """Connect again, for ever or as often as the options say. What is pending is sent then."""
        options = self._options
        await options.disconnected_cb()
        tries = 0
        while not self.is_closed:
            try:
                session = await self._dial()
                self._begin(session)
                self.reconnects += 1
                again: list[bytes | Command] = [
                    _Subscribe(one.sid, one.subject, one.queue) for one in self._subscriptions.values()
                ]
                if self._answers:
                    again.append(_Subscribe(self._answers_sid, f"{self._answers}*", ""))
                self._link.to_server(session.run, again)
                self._status = _Status.CONNECTED
                await self.flush()
                await options.reconnected_cb()
            except (OSError, NatsError) as error:
                if self._session is not None:
                    self._link.to_server(self._session.close)
                await options.error_cb(error)
                if self._status is not _Status.CLOSED:
                    self._status = _Status.RECONNECTING
                tries += 1
                if 0 < options.max_reconnect_attempts < tries:
                    await self.close()
                    return
                await asyncio.sleep(options.reconnect_time_wait)
            else:
                return

    def _lose(self, error: Exception) -> None:
        """Give the session up, and look for another one."""
        session, self._session = self._session, None
        if session is not None:
            self._link.to_server(session.close)
        if self._pinging is not None:
            self._pinging.cancel()
        if self._reconnecting is not None:
            self._reconnecting.cancel()
        self._status = _Status.RECONNECTING
        loop = asyncio.get_running_loop()
        self._reconnecting = loop.create_task(
            self._reconnect() if self._options.allow_reconnect else self._close_lost(error)
        )

    async def _close_lost(self, error: Exception) -> None:
        await self._options.error_cb(error)
        await self.close()

    def _ping_later(self) -> None:
        loop = asyncio.get_running_loop()
        self._pinging = loop.call_later(self._options.ping_interval, self._ping)

    def _ping(self) -> None:
        """Ask whether the server is there. After two questions without an answer the connection counts as lost."""
        if not self.is_connected or self._session is None:
            return
        self._pings += 1
        if self._pings > _MOST_PINGS:
            self._lose(StaleConnectionError())
            return
        self._pongs.append(None)
        self._link.to_server(self._session.run, [_Ping()])
        self._ping_later()

    # what comes from the server

    def accepted(self, session: Session) -> None:
        if self._dialled is not None and not self._dialled.done():
            self._dialled.set_result(session)
        else:
            self._link.to_server(session.close)

    def refused(self) -> None:
        if self._dialled is not None and not self._dialled.done():
            self._dialled.set_exception(ConnectionRefusedError("nobody listens"))

    def lost(self, session: Session, why: str) -> None:
        if session is self._session and not self.is_closed:
            self._lose(NatsError(f"nats: {why}"))

    def ponged(self, session: Session) -> None:
        if session is self._session and self._pongs:
            self._pings = 0
            waiting = self._pongs.pop(0)
            if waiting is not None and not waiting.done():
                waiting.set_result(None)

    def take(self, session: Session, sid: int, message: wire.Published) -> None:
        if session is not self._session or not session.is_open:
            return
        subject, reply, head, data = message
        self.stats["in_msgs"] += 1
        self.stats["in_bytes"] += len(data)
        came = MemoryMessage(subject, reply, data, wire.parsed(head) if head else None)
        if sid == self._answers_sid:
            waiting = self._waiting.get(subject)
            if waiting is not None and not waiting.done():
                waiting.set_result(came)
        elif (subscription := self._subscriptions.get(sid)) is not None and not subscription.put(came):
            error = SlowConsumerError(subject=subject, reply=reply, sid=sid, sub=subscription)  # type: ignore[arg-type]
            asyncio.get_running_loop().create_task(self.tell_error(error))

    async def tell_error(self, error: Exception) -> None:
        await self._options.error_cb(error)

    # what goes to the server

    async def publish(
        self, subject: str, payload: bytes = b"", reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        if not is_subject(subject) or (reply and not is_subject(reply)):
            raise BadSubjectError
        self._check_can_publish(len(payload))
        try:
            head = wire.head_of(headers) if headers else b""
        except ValueError as error:
            raise BadHeaderError(str(error)) from error
        self.stats["out_msgs"] += 1
        self.stats["out_bytes"] += len(payload)
        size = len(subject) + len(reply) + len(head) + len(payload) + _COMMAND_BYTES
        self._send(_Publish(subject, reply, head, bytes(payload)), size)

    def _check_can_publish(self, size: int) -> None:
        if self._status is _Status.CONNECTED:
            if size > self._server.max_payload:
                raise MaxPayloadError
            return
        if self.is_closed:
            raise ConnectionClosedError
        if size + self._pending_bytes > self._options.pending_size:
            raise OutboundBufferLimitError
        if size > self._server.max_payload:
            raise MaxPayloadError

    async def write(self, commands: bytes) -> None:
        self._pending.append(commands)
        self._pending_bytes += len(commands)
        if self._pending_bytes > self._options.pending_size:
            self._flush_gathered()

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        timeout: float = 0.5,  # noqa: ASYNC109 - nats-py's own signature
        old_style: bool = False,  # noqa: ARG002, FBT001, FBT002 - nats-py's own signature
        headers: dict[str, str] | None = None,
    ) -> MemoryMessage:
        if not self._answers:
            self._listen_for_answers()
        self._asked += 1
        inbox = f"{self._answers}{self._asked}"
        waiting: asyncio.Future[MemoryMessage] = asyncio.get_running_loop().create_future()
        self._waiting[inbox] = waiting
        try:
            await self.publish(subject, payload, inbox, headers)
            async with asyncio.timeout(timeout):
                message = await waiting
        except TimeoutError:
            raise NatsTimeoutError from None
        finally:
            del self._waiting[inbox]
        if message.headers and message.headers.get("Status") == "503":
            raise NoRespondersError
        return message

    def _listen_for_answers(self) -> None:
        if self.is_closed:
            raise ConnectionClosedError
        self._sid += 1
        self._answers, self._answers_sid = f"{self.new_inbox()}.", self._sid
        self._send(_Subscribe(self._sid, f"{self._answers}*", ""), len(self._answers) + _COMMAND_BYTES)

    async def subscribe(
        self,
        subject: str,
        queue: str = "",
        cb: Callback | None = None,
        *,
        pending_msgs_limit: int = _PENDING_MESSAGES,
        pending_bytes_limit: int = _PENDING_BYTES,
    ) -> MemorySubscription:
        if not subject:
            raise BadSubjectError
        if self.is_closed:
            raise ConnectionClosedError
        self._sid += 1
        subscription = MemorySubscription(
            self, self._sid, subject, queue, cb, most=pending_msgs_limit, most_bytes=pending_bytes_limit
        )
        self._subscriptions[self._sid] = subscription
        self._send(_Subscribe(self._sid, subject, queue), len(subject) + len(queue) + _COMMAND_BYTES)
        return subscription

    def tell_unsubscribed(self, subscription: MemorySubscription) -> None:
        self._send(_Unsubscribe(subscription.sid), _COMMAND_BYTES)

    def forget(self, subscription: MemorySubscription, *, tell: bool) -> None:
        self._subscriptions.pop(subscription.sid, None)
        if tell:
            self.tell_unsubscribed(subscription)

    async def flush(self, timeout: float = 10) -> None:  # noqa: ASYNC109 - nats-py's own signature
        if self.is_closed:
            raise ConnectionClosedError
        if not self.is_connected or self._session is None:
            return  # nats-py waits for nothing while it looks for a server
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._send_pending(self._session)
        self._pongs.append(answered)
        self._link.to_server(self._session.run, [_Ping()])
        try:
            async with asyncio.timeout(timeout):
                await answered
        except TimeoutError:
            raise FlushTimeoutError from None
        await asyncio.sleep(0)  # what came before the answer is handled before this goes on

    def _send(self, command: Command, size: int) -> None:
        """Have a command sent in a turn of the loop, together with those of the next turn."""
        self._pending.append(command)
        self._pending_bytes += size
        if self._pending_bytes > self._options.pending_size:
            self._flush_gathered()
        elif not self._is_gathering:
            self._is_gathering = True
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._flush_gathered)

    def _flush_gathered(self) -> None:
        self._is_gathering = False
        if self.is_connected and self._session is not None:
            self._send_pending(self._session)

    def _send_pending(self, session: Session) -> None:
        if self._pending:
            pending, self._pending, self._pending_bytes = self._pending, [], 0
            self._link.to_server(session.run, pending)
