"""Decides whether a failed job may be tried again, by the policy of its model (`schemas.catalog.Retry`).

How long it waits then is decided in `core.backoff`, and where it goes in `core.route`.
"""

from schemas.api import State
from schemas.catalog import Catalog, Retry
from schemas.outcome import ON_REQUEST, EngineLost, Failure, counts, failure_kind, retryable

DEFAULT = Retry()
"""The policy of a model that the catalog has no longer."""


def policy_of(model: str, catalog: Catalog) -> Retry:
    found = catalog.models.get(model) or catalog.model(model)
    return DEFAULT if found is None else found.retry


def may_help(failure: Failure, policy: Retry) -> bool:
    """Say whether a failure of this class is tried again at all.

    A failure that says of itself that a repetition gives nothing else, or must not be, is final whatever the policy says.
    An engine that was lost before it had the request has not run it, so no policy keeps it from another attempt.
    """
    attempts = policy.attempts.get(failure_kind(failure))
    if attempts is None:
        return retryable(failure)
    if attempts == 1:
        return isinstance(failure, EngineLost) and not failure.sent
    return retryable(failure) or failure_kind(failure) in ON_REQUEST


def end_after(failure: Failure, policy: Retry, *, spent: int, max_attempts: int) -> State | None:
    """Return how the job ends by this failure; None: it may be tried again.

    `spent` are the attempts that counted, this one among them. `max_attempts` is the job's own.
    """
    if not may_help(failure, policy):
        return State.FAILED
    most = min(max_attempts, policy.attempts.get(failure_kind(failure), max_attempts))
    return State.DEAD if counts(failure) and spent >= most else None
