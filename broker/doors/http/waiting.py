"""Ends what waits for a key that is let in no more."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from broker.core.keys import KeyName
from broker.service.refusal import Refusal
from schemas.api import Problem


class Waiting:
    """The requests that wait for something, by the key that asked."""

    def __init__(self) -> None:
        self._scopes: defaultdict[KeyName, dict[asyncio.Timeout, None]] = defaultdict(dict)
        """In the order in which they came."""
        self._why: dict[asyncio.Timeout, Problem] = {}

    @asynccontextmanager
    async def held(self, name: KeyName) -> AsyncIterator[None]:
        """Run the block while the key is let in. Raises: Refusal, as soon as it is not."""
        scope = asyncio.timeout(None)
        self._scopes[name][scope] = None
        try:
            async with scope:
                yield
        except TimeoutError as error:
            if not scope.expired():
                raise
            raise Refusal(self._why[scope]) from error
        finally:
            self._why.pop(scope, None)
            self._scopes[name].pop(scope, None)
            if not self._scopes[name]:
                del self._scopes[name]

    def end_all(self, problem: Problem) -> None:
        """End those of all keys, and say why."""
        for name in list(self._scopes):
            self.end(name, problem)

    def end(self, name: KeyName, problem: Problem) -> None:
        """End those of a key, and say why."""
        now_s = asyncio.get_running_loop().time()
        for scope in self._scopes.get(name, ()):
            self._why[scope] = problem
            if not scope.expired():
                scope.reschedule(now_s)
