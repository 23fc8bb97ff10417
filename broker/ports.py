"""What roles need from outside: time and chance, which only the composition root knows, and whoever calls."""

from collections.abc import Callable
from typing import Protocol

from broker.core.relay import Answered, Erred, Streamed
from schemas.units import Ms

Clock = Callable[[], Ms]
"""Milliseconds since the epoch."""

Entropy = Callable[[], int]
"""At least 74 uniformly random bits, for ids."""


class Caller(Protocol):
    """Who asked, as the relay sees it. The calls come one after the other; none of them raises.

    A door that notices that its caller left tells the relay, and lets a call that waits for the caller return.
    """

    async def start(self) -> None:
        """A piece follows. An error that comes without it can still choose how the answer begins."""

    async def piece(self, piece: Streamed) -> None:
        """Returns when the caller can take the next. Pieces wait in a bounded buffer meanwhile."""

    async def alive(self) -> None:
        """A worker is at work on the request, though there is nothing to show for it."""

    async def end(self, end: Answered | Erred) -> None:
        """The last word, and the first too if the request is refused."""
