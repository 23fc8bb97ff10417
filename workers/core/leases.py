"""Decides when to extend a lease, when not to run an attempt, and when to end an attempt."""

from schemas.endpoints import ENDPOINTS
from schemas.job import Attempt, Lane
from schemas.outcome import BadRequest, Expired, Failed, Outcome, TimedOut
from schemas.units import Ms

PRIORITY = {Lane.INTERACTIVE: 0, Lane.STANDARD: 1, Lane.BULK: 2}
"""What an engine is told of each lane. A lower number runs sooner."""


def extend_every_ms(lease_ms: Ms) -> Ms:
    """Return how often to extend a lease: three times in its length, so that two extensions may be lost.

    JetStream restarts ack_wait at each in-progress ack (docs.nats.io, "Delivery and acknowledgment").
    """
    return Ms(max(1, lease_ms // 3))


def before_run(attempt: Attempt) -> Outcome | None:
    """Return the outcome of an attempt that must not run; None if it may."""
    if attempt.left_ms <= 0:
        return Expired()
    if attempt.endpoint not in ENDPOINTS:
        return Failed(BadRequest(f"this worker does not know the endpoint {attempt.endpoint[:200]!r}"))
    return None


def while_running(
    attempt: Attempt, *, started: Ms, progressed: Ms, attempt_timeout: Ms, progress_timeout: Ms, now: Ms
) -> Outcome | None:
    """Return the outcome of an attempt that must end now; None if it may go on."""
    if now - started >= attempt.left_ms:
        return Expired()
    if now - started >= attempt_timeout:
        return Failed(TimedOut(Ms(now - started), "attempt"))
    if now - progressed >= progress_timeout:
        return Failed(TimedOut(Ms(now - progressed), "progress"))
    return None
