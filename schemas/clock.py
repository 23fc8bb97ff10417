"""Reads the clock of this machine. Only adapters and commands read it; code that decides gets the time as an argument."""

import time
from collections.abc import Callable

from schemas.units import Ms


def wall_clock() -> Ms:
    """Return the milliseconds since the Unix epoch."""
    return Ms(time.time_ns() // 1_000_000)


def steady_clock() -> Callable[[], Ms]:
    """Make a clock that shows the wall clock's time of this moment, and from then on goes evenly, whatever that does.

    Differences of its instants are durations; an instant of it is compared with no other machine's.
    """
    offset_ns = time.time_ns() - time.monotonic_ns()
    return lambda: Ms((offset_ns + time.monotonic_ns()) // 1_000_000)
