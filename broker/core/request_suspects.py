"""Keeps in mind which interactive requests are suspected of ending their workers.

Clients send a failed request again under a new id, so a request is known by its tenant and the hash of its body. What was
with a worker that died is suspected: it runs apart from then on, one of its kind at a time. If the worker dies again each
of DEATHS_ALONE times, the request is refused, until nothing has been heard of it for LIFETIME_MS.
"""

import hashlib
from collections.abc import Collection, Iterable

from broker.core.presence import QUIET_MS, Departed, Heard
from broker.core.relay import Assignment
from schemas.subjects import WorkerId
from schemas.units import Ms
from schemas.worker import NOT_BEGUN, held_in

LIFETIME_MS = Ms(600_000)
"""How long a suspicion lasts: the time after which a client that repeats a request has probably given up. A guess."""


def request_key(tenant: str, body_hash: bytes) -> str:
    """Name a request by its tenant and body."""
    return hashlib.blake2b(body_hash, digest_size=16, key=tenant.encode()[:64]).hexdigest()


class RequestSuspects:
    """What this broker knows of suspected requests, and which of them it runs apart."""

    def __init__(self) -> None:
        self._deaths: dict[str, tuple[int, Ms]] = {}
        """How often the worker died while the request ran alone, and when that was heard last."""
        self._apart: dict[str, tuple[str, WorkerId]] = {}
        """The request and the worker of each attempt that runs apart, by its token."""

    def __repr__(self) -> str:
        return f"RequestSuspects({len(self._deaths)}, apart={len(self._apart)})"

    def __len__(self) -> int:
        return len(self._deaths)

    def suspected(self, key: str, deaths_alone: int, now: Ms) -> None:
        """Note a suspicion. Of two counts the higher counts, since each broker counts for itself."""
        known = self.deaths_alone(key, now) or 0
        self._deaths[key] = max(known, deaths_alone), now
        self._deaths = {one: found for one, found in self._deaths.items() if now - found[1] < LIFETIME_MS}

    def cleared(self, key: str) -> None:
        self._deaths.pop(key, None)

    def deaths_alone(self, key: str, now: Ms) -> int | None:
        """Return how often a suspected request's worker died while it ran alone. None: it is not suspected."""
        found = self._deaths.get(key)
        return None if found is None or now - found[1] >= LIFETIME_MS else found[0]

    def runs_apart(self, token: str, key: str, worker: WorkerId) -> None:
        self._apart[token] = key, worker

    def is_over(self, token: str) -> None:
        self._apart.pop(token, None)

    def is_apart(self, key: str) -> bool:
        return any(key == one for one, _ in self._apart.values())

    @property
    def wards(self) -> Collection[WorkerId]:
        """The workers that have a suspect of this broker."""
        return {worker for _, worker in self._apart.values()}


def was_with(assignment: Assignment, gone: Departed, here: Iterable[Heard], now: Ms) -> bool:
    """Tell whether a worker that died may have had this attempt."""
    attempt = assignment.attempt
    if attempt.deployment != gone.beat.deployment:
        return False
    if assignment.worker is not None:
        return assignment.worker == gone.beat.id and assignment.started_ms in (None, gone.beat.started_ms)
    key = (attempt.job, attempt.number)
    if key in {(held.job, held.attempt) for held in held_in(gone.beat.held)}:
        return True
    others = [one.beat for one in here if one.beat.deployment == attempt.deployment]
    elsewhere = any(key == (held.job, held.attempt) for beat in others for held in held_in(beat.held))
    return not elsewhere and now - assignment.assigned_ms >= QUIET_MS


def had_begun(assignment: Assignment, gone: Departed) -> bool:
    """Tell whether an attempt that was to run apart had begun on the worker that died."""
    attempt = assignment.attempt
    return any(
        (held.job, held.attempt) == (attempt.job, attempt.number) and held.execution != NOT_BEGUN
        for held in held_in(gone.beat.held)
    )
