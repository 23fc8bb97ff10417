"""Decides how long a job waits before it is tried again."""

from schemas.catalog import Retry
from schemas.outcome import EngineLost, Failure, Throttled
from schemas.units import Ms

DEATH_MS = Ms(8_000)
"""The least base for jobs that were in an engine when it died. One of them may have killed it. Spread out widely, it meets
other jobs the next time, so that the same ones do not run out of attempts along with it."""
LONGEST_RETRY_AFTER_MS = Ms(3_600_000)
"""The longest Retry-After of a provider that is honoured."""


def backoff_ms(attempt: int, *, unit: float, base_ms: Ms, cap_ms: Ms) -> Ms:
    """Return the wait before `attempt + 1`: exponential, with full jitter. `unit` is uniform in [0, 1)."""
    return Ms(int(unit * min(cap_ms, base_ms * 2 ** min(attempt - 1, 32))))


def wait_ms(failure: Failure, attempt: int, *, policy: Retry, unit: float) -> Ms:
    """Return how long to wait after this failure: what the engine asks for, plus the back-off of the model's policy."""
    asked = failure.retry_after_ms if isinstance(failure, Throttled) else None
    base, cap = Ms(int(policy.backoff_base_s * 1000)), Ms(int(policy.backoff_cap_s * 1000))
    if isinstance(failure, EngineLost) and failure.sent:
        base = max(base, DEATH_MS)
    return Ms(min(asked or 0, LONGEST_RETRY_AFTER_MS) + backoff_ms(attempt, unit=unit, base_ms=base, cap_ms=cap))
