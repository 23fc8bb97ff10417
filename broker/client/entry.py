"""Ends the calls of a key that is let in no more, instead of leaving them to wait for answers that will not come."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec

from broker.client.errors import RequestRefused
from schemas.api import ErrorBody, Problem
from schemas.codec import ERROR, KIND, UNREADABLE
from schemas.jetstream import Message, is_refusal

_body = msgspec.json.Decoder(ErrorBody)


class Entry:
    """Knows whether the key of a connection is let in."""

    def __init__(self, refused: Problem, *, within_s: float) -> None:
        """`refused` is what calls end with while servers refuse the key for so long, and nobody has said why."""
        self._refused = refused
        self._within_s = within_s
        self._since_s: float | None = None
        self._scopes: set[asyncio.Timeout] = set()
        self._problem: Problem | None = None
        self.ended: Callable[[], object] = lambda: None
        """Called when a broker has said that the key has ended: nothing will let it in again."""

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Run the block while the key is let in. Raises: RequestRefused, as soon as it is not."""
        if self._problem is not None:
            raise self._refusal()
        scope = asyncio.timeout(None)
        try:
            async with scope:
                self._scopes.add(scope)
                yield
        except TimeoutError as error:
            if not scope.expired():
                raise
            raise self._refusal() from error
        finally:
            self._scopes.discard(scope)

    async def on_error(self, error: Exception) -> None:
        """Note what is wrong with the connection. Other errors are raised where they matter."""
        if not is_refusal(error):
            return
        now_s = asyncio.get_running_loop().time()
        self._since_s = now_s if self._since_s is None else self._since_s
        if now_s - self._since_s >= self._within_s:
            self._end(self._refused)

    async def on_back(self) -> None:
        """Note that the connection was let in again."""
        self._since_s = self._problem = None

    async def on_notice(self, message: Message) -> None:
        """Take a broker's word that the key has ended. Whatever else comes here is somebody else's trick."""
        if (message.headers or {}).get(KIND) != ERROR:
            return
        try:
            problem = _body.decode(message.data).error
        except UNREADABLE:
            return
        self._end(problem)
        self.ended()

    def _refusal(self) -> RequestRefused:
        return RequestRefused(self._problem or self._refused)

    def _end(self, problem: Problem) -> None:
        self._problem = problem
        now_s = asyncio.get_running_loop().time()
        for scope in self._scopes:
            if not scope.expired():
                scope.reschedule(now_s)
