"""When a job is tried again."""

from schemas.outcome import EngineLost, Failure, Throttled
from schemas.units import Ms

BASE_MS = Ms(500)
DEATH_MS = Ms(8_000)
"""Of all that an engine had when it died. One of them may have killed it: spread out, it meets others the next time, and
they do not run out of attempts with it."""
CAP_MS = Ms(60_000)
"""Guesses: a restarted engine is back within a minute; a provider that wants longer says so."""
LONGEST_RETRY_AFTER_MS = Ms(3_600_000)
"""The most that a provider's Retry-After is believed."""


def backoff_ms(attempt: int, *, unit: float, base_ms: Ms = BASE_MS) -> Ms:
    """Full-jitter backoff before `attempt + 1`; `unit` is uniform in [0, 1)."""
    return Ms(int(unit * min(CAP_MS, base_ms * 2 ** min(attempt - 1, 32))))


def wait_ms(failure: Failure, attempt: int, *, unit: float) -> Ms:
    """How long to wait after this failure: what the engine asks for, and some jitter on top."""
    asked = failure.retry_after_ms if isinstance(failure, Throttled) else None
    base = DEATH_MS if isinstance(failure, EngineLost) and failure.sent else BASE_MS
    return Ms(min(asked or 0, LONGEST_RETRY_AFTER_MS) + backoff_ms(attempt, unit=unit, base_ms=base))
