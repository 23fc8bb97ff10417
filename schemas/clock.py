"""Reads the clock of this machine. Only adapters and commands read it; code that decides gets the time as an argument."""

import time

from schemas.units import Ms


def wall_clock() -> Ms:
    """Return the milliseconds since the Unix epoch."""
    return Ms(time.time_ns() // 1_000_000)
