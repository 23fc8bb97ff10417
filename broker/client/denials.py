"""Notices what NATS does not let a key publish. The server says so apart from the request, which would wait in vain."""

import asyncio
import re
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")
_SUBJECT = re.compile(r'permissions violation for publish to "([^"]+)"', re.IGNORECASE)


class Denied(Exception):
    """The key may not publish on the subject."""


class Denials:
    """The requests under way on a connection, by their subjects."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}

    async def heard(self, error: Exception) -> None:
        """Take an error of the connection. Others than denials are raised to the caller elsewhere."""
        found = _SUBJECT.search(str(error))
        for denied in self._waiting.get(found[1], ()) if found else ():
            if not denied.done():
                denied.set_result(None)

    async def unless_denied(self, subject: str, request: Awaitable[T]) -> T:
        """Return the answer of a request on this subject. Raises: Denied; what the request raises."""
        denied = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(subject, []).append(denied)
        asking = asyncio.ensure_future(request)
        try:
            await asyncio.wait([asking, denied], return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                raise Denied(subject)
            return await asking
        finally:
            asking.cancel()
            self._waiting[subject].remove(denied)
            if not self._waiting[subject]:
                del self._waiting[subject]
