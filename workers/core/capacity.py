"""Decides how many slots an engine has now, by the figures of its scheduler."""

from dataclasses import dataclass

_FULL = 0.9
"""Above this share of the KV cache, a request that waits in the engine waits for memory, not for the next step."""


@dataclass(frozen=True, slots=True)
class Load:
    """The figures of an engine's scheduler after a step."""

    running: int
    waiting: int
    kv_usage: float
    """0 to 1."""


def slots(now: int, *, most: int, load: Load) -> int:
    """Adjust the slots once a second: a tenth fewer while requests in the engine wait for memory, else an eighth more.

    A request that waits inside the engine can no longer be reordered or withdrawn, so the backlog belongs outside.
    """
    if load.waiting and load.kv_usage >= _FULL:
        return max(1, min(now, load.running) * 9 // 10)
    return min(most, now + max(1, now // 8))


def deferrable_outcomes(slots: int) -> int:
    """Return how many outcomes can be held back with all slots kept busy: half as many as the broker dispatches ahead."""
    return slots // 4
