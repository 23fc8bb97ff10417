"""How many slots an engine has now, from what its scheduler says of itself."""

from dataclasses import dataclass

_FULL = 0.9
"""Share of the KV cache from which a request that waits in the engine waits for memory, not for the next step."""


@dataclass(frozen=True, slots=True)
class Load:
    """A scheduler's figures at one step."""

    running: int
    waiting: int
    kv_usage: float
    """0 to 1."""


def slots(now: int, *, most: int, load: Load) -> int:
    """A second later: a tenth fewer while requests wait for memory inside the engine, one in eight more otherwise.

    What waits inside cannot be ordered or withdrawn any more, so the backlog belongs outside.
    """
    if load.waiting and load.kv_usage >= _FULL:
        return max(1, min(now, load.running) * 9 // 10)
    return min(most, now + max(1, now // 8))


def deferrable_outcomes(slots: int) -> int:
    """Outcomes that the broker need not know of to keep all slots busy: at most half of what it looks ahead to."""
    return slots // 4
