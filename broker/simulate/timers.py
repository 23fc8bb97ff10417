"""What the servers of a simulated world need of it: its time, and calls at an instant."""

import asyncio
from collections.abc import Callable
from typing import Protocol


class Handle(Protocol):
    """A call that is to come."""

    def cancel(self) -> None:
        """Take it back."""


class Timers(Protocol):
    def now_s(self) -> float:
        """Monotonic virtual seconds."""

    def wall_ns(self) -> int:
        """The server's wall clock: nanoseconds since the epoch."""

    def call_at(self, when_s: float, call: Callable[..., None], *args: object) -> Handle:
        """Call it at an instant of `now_s`."""


class LoopTimers:
    """The time of a running asyncio loop, which began at a given instant."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, wall_ns: int) -> None:
        self._loop = loop
        self._began_ns = wall_ns - int(loop.time() * 1e9)

    def now_s(self) -> float:
        return self._loop.time()

    def wall_ns(self) -> int:
        return self._began_ns + int(self._loop.time() * 1e9)

    def call_at(self, when_s: float, call: Callable[..., None], *args: object) -> Handle:
        return self._loop.call_at(when_s, call, *args)
