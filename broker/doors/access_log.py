"""Logs one line for each answer over HTTP: no body, no query, no key, no prompt."""

import asyncio
import logging
from typing import Any

from broker.doors.health import App, Receive, Send
from broker.doors.http.reading import headers_of, key_text
from schemas.api_keys import BadKey, parse_key

log = logging.getLogger(__name__)
_LEFT = 499
"""What is logged of a client that left before its answer began: nginx's word for it."""
_LONGEST_PATH = 200


def logged(app: App) -> App:
    """Return an application that answers as this one does, and logs it."""

    async def logging_app(scope: Any, receive: Receive, send: Send) -> None:
        answer = _Answer(send)
        now_s = asyncio.get_running_loop().time
        began_s = now_s()
        try:
            await app(scope, receive, answer.send)
        finally:
            log.info(
                "answered method=%s path=%s status=%d ms=%d bytes=%d key=%s request=%s",
                scope["method"],
                scope["raw_path"][:_LONGEST_PATH].decode("ascii", "replace"),
                answer.status,
                (now_s() - began_s) * 1000,
                answer.size,
                _key_id(key_text(headers_of(scope))),
                answer.request,
            )

    return logging_app


class _Answer:
    """Passes an answer on, and sees what it is."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = _LEFT
        self.size = 0
        self.request = "-"

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.request = dict(message.get("headers", ())).get(b"x-request-id", b"-").decode()
        else:
            self.size += len(message.get("body", b""))
        await self._send(message)


def _key_id(text: str | None) -> str:
    """Return the id that a key names itself by, whether or not it is let in."""
    try:
        return "-" if text is None else parse_key(text).id
    except BadKey:
        return "unreadable"
