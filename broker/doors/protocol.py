"""Bounds what one HTTP connection may take: uvicorn's protocol over llhttp bounds neither time nor the size of a head.

A connection receives requests, one after the other: it waits for one (`IDLE`), then reads its head (`HEAD`), then its body
(`BODY`). Only these change as bytes come; a look at all connections, twice a second, finds the one that stays in one place
for too long. So a request costs no timer and reads no clock.
"""

import asyncio
import enum
import socket
import struct
from collections.abc import Callable
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from broker.config import HttpLimits
from broker.doors.http.openai import error_of
from broker.doors.http.problems import retry_headers
from broker.doors.room import Room
from schemas.api import Problem

_DISCARDED_BYTES = 64 * 1024 * 1024
"""What may still come of a body that was answered before its end, so that a client that first sends all sees the answer."""
_PROGRESS_BYTES = 1024 * 1024
"""What must come of an upload within the time that another body may take altogether."""
_FRAMES_A_BYTE = 8
"""The most bytes that come for each byte of a body in chunks: a chunk of one byte is six."""
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_LINGER_S = 2.0
"""How long a connection whose bytes nobody reads any more stays, so that its client can read why."""
_UNNEEDED = frozenset({b"upgrade", b"connection", b"http2-settings"})


_AT_ONCE = struct.pack("ii", 1, 0)
"""Linger for no second, says a socket with this."""


class Receiving(enum.Enum):
    """What a connection receives."""

    IDLE = enum.auto()
    HEAD = enum.auto()
    BODY = enum.auto()
    NOTHING = enum.auto()
    """It was refused: what still comes is dropped."""


_UNREADABLE = Problem("bad_request", "this is no HTTP/1.1 request")
_TUNNEL = Problem("wrong_method", "CONNECT is not served")
_TOO_SLOW = Problem("slow_request", "the request did not arrive in time")
_NO_MEMORY = Problem("busy", "too many large requests arrive at once: try again later")
_TOO_MANY = Problem("too_many_connections", "there are too many connections: try again later")


class _Refused(Exception):
    """Raised in a callback of the parser, which hands it on as the context of its own error."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class _Nowhere(list[tuple[bytes, bytes]]):
    """Takes the trailers of a body in chunks, and forgets them: else they would be added to the headers of the request."""

    def append(self, _: tuple[bytes, bytes]) -> None:
        pass


_NOWHERE = _Nowhere()


async def too_many(_scope: Any, _receive: Any, send: Any) -> None:
    """Answer, in place of the application, that there is no room for the connection."""
    status, body, headers = _last_words(_TOO_MANY)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _last_words(problem: Problem) -> tuple[int, bytes, list[tuple[bytes, bytes]]]:
    """Return status, body and headers of an error. In OpenAI's shape: nobody knows yet which dialect is spoken."""
    status, body = error_of(problem)
    length = (b"content-length", b"%d" % len(body))
    named = [(b"content-type", b"application/json"), length, (b"connection", b"close")]
    return status, body, [*named, *retry_headers(problem)]


class Answering:
    """What an answer is written to. Its head leaves together with the first of its body, as ASGI demands.

    uvicorn writes the head alone, and uvloop passes each write to the system at once, which costs as much as all that the
    server does for a request besides.
    """

    __slots__ = ("_close", "_head", "_transport", "is_closing")

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None], *, has_body: bool) -> None:
        self._transport = transport
        self._close = close
        self._head = b"" if has_body else None
        """Empty until it comes; None once it has left."""
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        if self._head is None or data == _CONTINUE:
            self._transport.write(data)
        elif self._head:
            head, self._head = self._head, None
            self._transport.write(head + data)
        else:
            self._head = data

    def close(self) -> None:
        if self._head:
            self._transport.write(self._head)
        self._close()


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limits: HttpLimits,
        room: Room,
        cut: Callable[[str], None],
        uploads: frozenset[str] = frozenset(),
    ) -> None:
        """`cut` counts each connection that is cut, by its reason. `uploads` are the paths whose application keeps no body
        in memory: it may be of any size, and take any time as long as it comes.
        """
        super().__init__(config, server_state, app_state, _loop)
        self._limits = limits
        self._room = room
        self._cut = cut
        self._uploads = uploads
        self._is_upload = False
        self._upload_steps = 0
        self.entered = False
        """Whether the room counts it already."""
        self._receiving = Receiving.IDLE
        self._step = 0
        """Another number whenever something has begun: `looked_at` compares it with what it saw before."""
        self._seen = (-1, 0.0)
        """The step that was seen last, and when it was seen first."""
        self._chunk = 0
        """The size of what is being read."""
        self._head_bytes = 0
        self._frame_bytes = 0
        self._body_bytes = 0
        self._closes = False
        """Whether the connection ends when the request has come: it is answered already."""
        self._held_bytes = 0
        """What the room counts of the body that is being received."""
        self._running: RequestResponseCycle | None = None
        """The request that is being answered, or was last. `cycle` is the one that came last."""
        self._plain_head: bytes | None = None
        """The head of a request that asks for another protocol, as one that does not."""
        self._unsent = (0, 0.0)
        """The bytes that were waiting to be sent when they were last seen to become fewer, and when that was."""
        self._has_written = False

    # A connection's life

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if not self.entered and not self._room.enter(self.client):
            self._drop("no_room")
            return
        self.entered = True
        if not self._room.admits(self.client):
            self._cut("too_many")
            self.app = too_many
        self._room.idle[self] = None

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._room.idle.pop(self, None)
        self._let_go_of_body()
        running = self._running
        if running is not None and not running.response_complete:  # uvicorn tells only the request that came last
            running.disconnected = True
            running.message_event.set()
        if self.entered:
            self.entered = False
            self._room.leave(self.client)

    def evict(self) -> None:
        """Make room for another."""
        self._cut("evicted")
        self.transport.close()

    def looked_at(self, now: float) -> None:
        """End what lasts too long."""
        if self._is_stuck(now):
            self._drop("unread")
            return
        step, since = self._seen
        if step != self._step:
            self._seen = (self._step, now)
            return
        lasted = now - since
        match self._receiving:
            case Receiving.IDLE if not self._is_answering and lasted > self._limits.idle_s:
                self.transport.close()
            case Receiving.HEAD if not self._is_answering and lasted > self._limits.head_s:
                self._refuse(_TOO_SLOW, "slow_head")
            case Receiving.BODY if self.flow.read_paused:
                self._seen = (step, now)  # it would send more if it might
            case Receiving.BODY if not self.pipeline and lasted > self._limits.body_s:
                self._refuse(_TOO_SLOW, "slow_body")
            case Receiving.NOTHING if lasted > _LINGER_S:
                self.transport.abort()
            case _:
                pass

    @property
    def _may_answer(self) -> bool:
        """Whether the next answer that the client waits for is that to what it sends now."""
        if self._receiving is Receiving.BODY:
            return not self.cycle.response_started and not self.pipeline
        return not self._is_answering

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete  # type: ignore[redundant-expr]

    def _is_stuck(self, now: float) -> bool:
        """Whether its client has read nothing of what waits to be sent for too long."""
        size, since = self._unsent
        waiting = self.transport.get_write_buffer_size()
        if not waiting or waiting < size or self._has_written:
            since = now
        self._unsent, self._has_written = (waiting, since), False
        return now - since > self._limits.unread_s

    def resume_writing(self) -> None:
        self._has_written = True
        super().resume_writing()

    def _drop(self, why: str) -> None:
        """End it at once, with all that waits to be sent: else the system would keep that for minutes."""
        self._cut(why)
        sock = self.transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self.transport.abort()

    def _refuse(self, problem: Problem, why: str) -> None:
        """Say why, unless an answer is under way, and hear nothing more."""
        self._cut(why)
        if self.transport.is_closing() or not self._may_answer:
            self.transport.abort()
            return
        status, body, headers = _last_words(problem)
        head = b"".join(b"%b: %b\r\n" % header for header in headers)
        self.transport.write(STATUS_LINE[status] + head + b"\r\n" + body)
        self._receiving = Receiving.NOTHING
        self._step += 1
        self._let_go_of_body()
        self._room.idle.pop(self, None)
        if self._is_answering:  # its application waits for the rest of a body
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.transport.can_write_eof():
            self.transport.write_eof()

    # What comes

    def data_received(self, data: bytes) -> None:
        if self._receiving is Receiving.NOTHING:
            return
        began_elsewhere = self._receiving is not Receiving.BODY
        self._chunk = len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            refused = error.__context__
            self._refuse(refused.problem if isinstance(refused, _Refused) else _UNREADABLE, "unreadable")
            return
        if self._receiving is Receiving.HEAD:
            self._head_bytes += self._chunk if began_elsewhere else 0
            if self._head_bytes > self._limits.head_bytes:
                self._refuse(self._too_large(), "large_head")
        elif self._receiving is Receiving.BODY:
            self._within_body(0 if began_elsewhere else self._chunk)

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._stay_plain(data[upgrade.args[0] :])

    def _stay_plain(self, rest: bytes) -> None:
        """Read on as if no other protocol had been asked for: a server need not change it (RFC 9110, 7.8).

        llhttp leaves the body to the other protocol, so it is given the request once more. Java's client asks for HTTP/2
        in this way with each first request.
        """
        head, self._plain_head = self._plain_head, None
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        if head is not None:
            self._feed(head + rest)

    def _within_body(self, more: int) -> None:
        self._frame_bytes += more
        if self._is_upload:
            self._moves_on()
        elif not self._has_memory():
            self._refuse(_NO_MEMORY, "bodies")
            return
        cycle = self.cycle
        if cycle.response_complete and self._frame_bytes > _DISCARDED_BYTES:
            self._drop("large_body")
        elif self._frame_bytes > _FRAMES_A_BYTE * self._body_bytes + self._limits.head_bytes:
            self._drop("large_frames")

    def _has_memory(self) -> bool:
        grown, self._held_bytes = self._body_bytes - self._held_bytes, self._body_bytes
        return self._room.holds(grown)

    def _moves_on(self) -> None:
        """Give an upload more time each time that enough of it has come."""
        steps = self._body_bytes // _PROGRESS_BYTES
        self._step += steps - self._upload_steps
        self._upload_steps = steps

    def _let_go_of_body(self) -> None:
        self._room.held_bytes -= self._held_bytes
        self._held_bytes = 0

    def _close(self) -> None:
        """Close once the request has come or is late: what is closed with unread bytes may take the answer with it."""
        if self._receiving is Receiving.BODY:
            self._closes = True
            self.flow.resume_reading()
        else:
            self.transport.close()

    def _too_large(self) -> Problem:
        limits = self._limits
        message = f"the request line and headers may have {limits.head_bytes} bytes and {limits.headers} headers"
        return Problem("headers_too_large", message)

    # What the parser finds

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = 0
        self._receiving = Receiving.HEAD
        self._step += 1
        self._room.idle.pop(self, None)

    def on_headers_complete(self) -> None:
        limits = self._limits
        may_be_large = self._head_bytes + self._chunk > limits.head_bytes
        if len(self.headers) > limits.headers or (may_be_large and self._is_large()):
            raise _Refused(self._too_large())
        if self.parser.should_upgrade():
            self._plain_head = self._without_upgrade()
            return
        if len(self.pipeline) >= self._limits.pipelined:
            raise _Refused(_UNREADABLE)
        super().on_headers_complete()
        if 0 < len(self.pipeline) < limits.pipelined:
            self.flow.resume_reading()  # who does not read does not see either that a client leaves
        self._is_upload = self.scope["path"] in self._uploads
        has_body = self.scope["method"] != "HEAD"
        self.cycle.transport = Answering(self.transport, self._close, has_body=has_body)  # type: ignore[assignment]
        self.headers = _NOWHERE
        self._receiving = Receiving.BODY
        self._frame_bytes = self._body_bytes = self._upload_steps = 0
        self._step += 1

    def _is_large(self) -> bool:
        size = len(self.url) + sum(len(name) + len(value) + len(b": \r\n") for name, value in self.headers)
        return size > self._limits.head_bytes

    def _without_upgrade(self) -> bytes:
        method = self.parser.get_method()
        if method == b"CONNECT":
            raise _Refused(_TUNNEL)
        line = b"%b %b HTTP/%b\r\n" % (method, self.url, self.parser.get_http_version().encode())
        kept = [b"%b: %b\r\n" % header for header in self.headers if header[0] not in _UNNEEDED]
        return b"".join([line, *kept, b"\r\n"])

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._plain_head is not None:
            return
        self._receiving = Receiving.IDLE
        self._step += 1
        if self._held_bytes:
            self._let_go_of_body()
        super().on_message_complete()
        if self._closes:
            self.transport.close()
        elif self.cycle.response_complete:
            self._room.idle[self] = None

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """Go on with the next request, as uvicorn does, without its timer for each wait."""
        self.server_state.total_requests += 1
        if self.transport.is_closing() or self._closes:
            return
        self.flow.resume_reading()
        self._step += 1
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        elif self._receiving is Receiving.IDLE:
            self._room.idle[self] = None
