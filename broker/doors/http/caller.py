"""A caller of the relay that is answered over HTTP, whole or as a stream of server-sent events."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final
from uuid import UUID

from broker.core.relay import Answered, Erred, Streamed
from broker.doors.http.dialect import Answer, Dialect
from broker.doors.http.problems import retry_headers
from broker.ports import Clock
from broker.service.refusal import problem_of
from schemas.api import Problem
from schemas.units import Ms

log = logging.getLogger(__name__)
Send = Callable[[Any], Awaitable[None]]
KEEP_ALIVE: Final = b": keep-alive\n\n"
"""A comment, which every reader of events leaves out."""
PATIENCE_MS = Ms(15_000)
"""How long a stream may be without its status. Then it begins, since proxies cut connections that are silent."""
_EVENTS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would gather the events
]


class HttpCaller:
    """Writes what the relay says. After the end it writes nothing more."""

    def __init__(
        self,
        send: Send,
        *,
        dialect: Dialect,
        answer: Answer,
        request: UUID,
        streamed: bool,
        clock: Clock,
        ended: Callable[[Answered | Erred], object],
    ) -> None:
        """`request` is what the request is called. `ended` is called once, with the end."""
        self._send = send
        self._dialect = dialect
        self._answer = answer
        self._request = request
        self._streamed = streamed
        self._clock = clock
        self._ended = ended
        self._asked_ms = clock()
        self._pieces = 0
        self._is_broken = False
        """A piece was lost, so the stream cannot be right."""
        self._has_begun = False
        self.is_over = False
        """Its end has come, and is written."""
        self.status = 0
        """What was answered; 0 until then."""

    def __repr__(self) -> str:
        return f"HttpCaller({self._request}, status={self.status})"

    async def start(self) -> None:
        """Send nothing: the first piece brings the status along."""

    async def piece(self, piece: Streamed) -> None:
        if not self._streamed or self.is_over:
            return
        self._pieces += 1
        self._is_broken |= piece.sequence != str(self._pieces)
        events = self._answer.piece(piece.data)
        await self._stream(events)

    async def alive(self) -> None:
        if not self._streamed or self.is_over:
            return
        if self._has_begun or self._clock() - self._asked_ms >= PATIENCE_MS:
            await self._stream(KEEP_ALIVE)

    async def end(self, end: Answered | Erred) -> None:
        if self.is_over:
            return
        self.is_over = True
        self._ended(end)
        try:
            await self._end(end)
        except Exception as error:  # noqa: BLE001 - `problem_of` logs it; without an end the client would wait for ever
            await self._fail(problem_of(error))

    async def _end(self, end: Answered | Erred) -> None:
        match end:
            case Erred(problem):
                await self._fail(problem)
            case Answered(body) if not self._streamed:
                await self._respond(200, self._answer.whole(body), [])
            case Answered(_, sequence) if self._is_broken or self._lacks_last(sequence):
                await self._fail(Problem("stream_broken", "a piece of the stream was lost: ask again"))
            case Answered(body):
                await self._stream(self._answer.end(body, pieces=self._pieces), more=False)

    def _lacks_last(self, sequence: str | None) -> bool:
        """Tell whether pieces came, but not the last before this end. Where none came, the whole answer is sent instead."""
        return self._pieces > 0 and sequence is not None and sequence != str(self._pieces + 1)

    async def _fail(self, problem: Problem) -> None:
        if self._has_begun:
            await self._stream(self._answer.error(problem), more=False)
        else:
            status, content = self._dialect.error(problem, self._request)
            await self._respond(status, content, retry_headers(problem))

    async def _stream(self, events: bytes, *, more: bool = True) -> None:
        if not self._has_begun:
            self._has_begun = True
            await self._begin(200, _EVENTS)
            events = self._answer.begin() + events
        if events or not more:
            await self._write({"type": "http.response.body", "body": events, "more_body": more})

    async def _respond(self, status: int, content: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        length = (b"content-length", b"%d" % len(content))
        await self._begin(status, [(b"content-type", b"application/json"), length, *headers])
        await self._write({"type": "http.response.body", "body": content})

    async def _begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.status = status
        request = str(self._request).encode()
        named = [*((name, request) for name in self._dialect.names), *headers]
        await self._write({"type": "http.response.start", "status": status, "headers": named})

    async def _write(self, message: dict[str, Any]) -> None:
        try:
            await self._send(message)
        except OSError as error:  # the client is gone, which the door hears too
            log.debug("answer not sent request=%s error=%s", self._request, error)
