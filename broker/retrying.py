"""Retries while Postgres or NATS is away, and bisects a group that one bad row spoils.

Roles wait here. Use-cases do not: they refuse with the problem `unavailable`.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from broker.errors import BadData, Conflict, NoConnection, Unavailable

log = logging.getLogger(__name__)
T = TypeVar("T")
R = TypeVar("R")
_FIRST_S = 0.2
_LONGEST_S = 3.0


async def until_available(act: Callable[[], Awaitable[R]]) -> R:
    """Call `act` until it no longer raises Unavailable, waiting longer each time. It must be safe to repeat."""
    wait = _FIRST_S
    while True:
        try:
            return await act()
        except Unavailable as error:
            log.log(level_of(error), "waiting what=%s error=%s next_s=%.1f", error.what, error, wait)
        await asyncio.sleep(wait)
        wait = min(_LONGEST_S, wait * 2)


def level_of(error: Exception) -> int:
    """Return how loudly to log that something waits. That a connection is lost has a line of its own."""
    return logging.DEBUG if isinstance(error, NoConnection) else logging.WARNING


async def bisected(
    items: Sequence[T], act: Callable[[Sequence[T]], Awaitable[R]]
) -> tuple[list[R], list[tuple[T, BadData | Conflict]]]:
    """Call `act` on the whole group, or on halves of it down to the items that Postgres refuses.

    Returns the answers, and the refused items with the error of each.
    """
    try:
        return [await until_available(lambda: act(items))], []
    except (BadData, Conflict) as error:
        if len(items) == 1:
            return [], [(items[0], error)]
    half = len(items) // 2
    first, first_bad = await bisected(items[:half], act)
    second, second_bad = await bisected(items[half:], act)
    return first + second, first_bad + second_bad
