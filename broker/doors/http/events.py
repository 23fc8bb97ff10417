"""Answers with server-sent events for as long as a key is let in."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any, Final

from starlette.responses import StreamingResponse

from broker.doors.http.caller import Send
from broker.doors.http.openai import error_of
from broker.doors.http.reading import Receive
from broker.doors.http.turns import until_gone
from broker.service.refusal import problem_of

log = logging.getLogger(__name__)
GOODBYE_S: Final = 5.0
"""How long a client may take to read why its stream ends."""
_HEADERS: Final = {"cache-control": "no-cache", "x-accel-buffering": "no"}


class EventStream(StreamingResponse):
    """Sends events as they are made, until they end or the client leaves.

    No more is made until the client has read what was: a slow one costs what is made at once. An error, which is also that
    its key is let in no more, is told by a last event.
    """

    def __init__(self, events: AsyncGenerator[bytes], kept: AbstractAsyncContextManager[None]) -> None:
        """`kept` runs its block while the key is let in, and raises if that ends."""
        super().__init__(events, headers=_HEADERS, media_type="text/event-stream")
        self._events = events
        self._kept = kept

    async def __call__(self, _: Any, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self._send(send))
        gone = asyncio.ensure_future(until_gone(receive))
        try:
            await asyncio.wait((sending, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            sending.cancel()
            gone.cancel()
            await asyncio.gather(sending, gone, return_exceptions=True)

    async def _send(self, send: Send) -> None:
        last = b""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async with aclosing(self._events), self._kept:
                async for events in self._events:
                    try:
                        await send({"type": "http.response.body", "body": events, "more_body": True})
                    except OSError as error:  # the client is gone, which is heard too
                        log.debug("events not sent error=%s", error)
                        return
        except Exception as error:  # noqa: BLE001 - `problem_of` logs what nobody raises on purpose
            last = event(error_of(problem_of(error))[1], name="error")
        async with asyncio.timeout(GOODBYE_S):
            await send({"type": "http.response.body", "body": last, "more_body": False})


def event(data: bytes, *, name: str, place: str | None = None) -> bytes:
    """Write an event whose data is one line. `place` is what a client names to go on after it."""
    at = b"" if place is None else b"id: %b\n" % place.encode()
    return b"%bevent: %b\ndata: %b\n\n" % (at, name.encode(), data)
