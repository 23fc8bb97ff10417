"""Decides when a job is tried again."""

from schemas.outcome import EngineLost, Failure, Throttled
from schemas.units import Ms

BASE_MS = Ms(500)
DEATH_MS = Ms(8_000)
"""The base for jobs that were in an engine when it died. One of them may have killed it. Spread out widely, it meets other
jobs the next time, so that the same ones do not run out of attempts along with it."""
CAP_MS = Ms(60_000)
"""These are guesses: a restarted engine is back within a minute, and a provider that needs longer says so."""
LONGEST_RETRY_AFTER_MS = Ms(3_600_000)
"""The longest Retry-After of a provider that is honoured."""


def backoff_ms(attempt: int, *, unit: float, base_ms: Ms = BASE_MS) -> Ms:
    """Return the wait before `attempt + 1`: exponential, with full jitter. `unit` is uniform in [0, 1)."""
    return Ms(int(unit * min(CAP_MS, base_ms * 2 ** min(attempt - 1, 32))))


def wait_ms(failure: Failure, attempt: int, *, unit: float) -> Ms:
    """Return how long to wait after this failure: what the engine asks for, plus the back-off."""
    asked = failure.retry_after_ms if isinstance(failure, Throttled) else None
    base = DEATH_MS if isinstance(failure, EngineLost) and failure.sent else BASE_MS
    return Ms(min(asked or 0, LONGEST_RETRY_AFTER_MS) + backoff_ms(attempt, unit=unit, base_ms=base))
