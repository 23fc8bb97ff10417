"""The clock of this machine, for those that touch the world; whatever decides is given the time."""

import time

from schemas.units import Ms


def wall_clock() -> Ms:
    """Since the Unix epoch."""
    return Ms(time.time_ns() // 1_000_000)
