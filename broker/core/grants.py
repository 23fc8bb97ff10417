"""Decides what a new key may do: no more than the one that makes it."""

from collections.abc import Collection, Iterable
from typing import TypeVar

import msgspec

from broker.core.authorise import may_grant
from broker.core.keys import KeyRecord, hash_of
from broker.core.principal import Principal
from schemas.accounts import ALL, Key, KeyCreate, Role
from schemas.api import Problem
from schemas.api_keys import ApiKey
from schemas.endpoints import ENDPOINTS
from schemas.job import Lane
from schemas.units import Ms

T = TypeVar("T", bound=str)
_SHOWN = 5
LONGEST_MS = Ms(20 * 366 * 24 * 3_600_000)
"""How far ahead the end of a key may be: what is longer is probably in another unit."""


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """What a key may do, and until when."""

    role: Role
    models: frozenset[str] | None = None
    endpoints: frozenset[str] | None = None
    lanes: frozenset[Lane] | None = None
    deployments: frozenset[str] | None = None
    expires_ms: Ms | None = None
    label: str | None = None

    def record(self, key: ApiKey, now: Ms) -> KeyRecord:
        """Return what is recorded of a key that has this grant."""
        return KeyRecord(
            id=key.id,
            tenant=key.tenant,
            role=self.role,
            hash=hash_of(key.secret),
            models=self.models,
            endpoints=self.endpoints,
            lanes=self.lanes,
            deployments=self.deployments,
            created_ms=now,
            expires_ms=self.expires_ms,
            label=self.label,
        )


def granted(principal: Principal, ask: KeyCreate, now: Ms) -> Grant | Problem:
    """Return the grant of a new key. What is not restricted is as for the principal's own key."""
    problem = may_grant(principal, ask.role) or _misfit(ask) or _bad_end(ask, now)
    if problem is not None:
        return problem
    deployments = None if ask.deployments is None or ALL in ask.deployments else frozenset(ask.deployments)
    wanted = Grant(
        role=ask.role,
        models=_set(ask.models),
        endpoints=_set(ask.endpoints),
        lanes=None if ask.lanes is None else frozenset(ask.lanes),
        deployments=deployments,
        expires_ms=_end(ask, now),
        label=ask.label,
    )
    return _within(principal, wanted)


def granted_again(principal: Principal, key: Key, now: Ms) -> Grant | Problem:
    """Return the grant of a key that replaces another: the same rights. They must be the principal's to give."""
    if (problem := may_grant(principal, key.role)) is not None:
        return problem
    if key.expires_ms is not None and key.expires_ms <= now:
        return Problem("key_expired", f"the key {key.id} has expired: make a new one", "id")
    same = Grant(
        role=key.role,
        models=_set(key.models),
        endpoints=_set(key.endpoints),
        lanes=None if key.lanes is None else frozenset(key.lanes),
        deployments=_set(key.deployments),
        expires_ms=_renewed(key, now),
        label=key.label,
    )
    within = _within(principal, same)
    if isinstance(within, Grant) and within != msgspec.structs.replace(same, expires_ms=within.expires_ms):
        return Problem("forbidden", f"the key {key.id} may do more than yours: only such a key can replace it", "id")
    return within


def _renewed(key: Key, now: Ms) -> Ms | None:
    """Return when a key ends that replaces another: it lives as long as that was made for."""
    return None if key.expires_ms is None else Ms(now + key.expires_ms - key.created_ms)


def _within(principal: Principal, wanted: Grant) -> Grant | Problem:
    """Return the grant with the principal's own restrictions where it has none; or what goes beyond them."""
    lanes = None if principal.lanes >= frozenset(Lane) else principal.lanes
    pairs: Iterable[tuple[str, Collection[str] | None, Collection[str] | None]] = (
        ("models", wanted.models, principal.models),
        ("endpoints", wanted.endpoints, principal.endpoints),
        ("lanes", wanted.lanes, lanes),
        ("deployments", wanted.deployments, principal.deployments),
    )
    for field, some, own in pairs:
        if some is not None and own is not None and (beyond := sorted(set(some) - set(own))):
            names = ", ".join(beyond[:_SHOWN]) + (", …" if len(beyond) > _SHOWN else "")
            return Problem("forbidden", f"your own key may not use the {field} {names[:500]}", field)
    if (
        wanted.expires_ms is not None
        and principal.expires_ms is not None
        and wanted.expires_ms > principal.expires_ms
    ):
        return Problem("forbidden", "the key would live longer than your own", "expires_ms", principal.expires_ms)
    return Grant(
        role=wanted.role,
        models=_inherited(wanted.models, principal.models),
        endpoints=_inherited(wanted.endpoints, principal.endpoints),
        lanes=_inherited(wanted.lanes, lanes),
        deployments=_inherited(wanted.deployments, principal.deployments),
        expires_ms=principal.expires_ms if wanted.expires_ms is None else wanted.expires_ms,
        label=wanted.label,
    )


def _inherited(wanted: frozenset[T] | None, own: frozenset[T] | None) -> frozenset[T] | None:
    return own if wanted is None else wanted


def _misfit(ask: KeyCreate) -> Problem | None:
    """Say what is asked for that a key of this role has no use for, or lacks."""
    if ask.role is Role.WORKER and ask.deployments is None:
        return Problem("bad_request", f"say which deployments the worker may serve ({ALL}: all)", "deployments")
    if ask.role is not Role.WORKER and ask.deployments is not None:
        return Problem("bad_request", "only the key of a worker has deployments", "deployments")
    if ask.role is Role.WORKER and ask.models is not None:
        return Problem("bad_request", "the key of a worker has deployments, not models", "models")
    if ask.role in {Role.WORKER, Role.DEPLOYER}:
        for field, given in (("endpoints", ask.endpoints), ("lanes", ask.lanes)):
            if given is not None:
                return Problem(
                    "bad_request", f"a key of the role {ask.role} submits no jobs: it has no {field}", field
                )
    if unknown := sorted(set(ask.endpoints or ()) - ENDPOINTS.keys()):
        known = ", ".join(ENDPOINTS)
        return Problem("bad_request", f"there is no endpoint {unknown[0][:200]!r}; there are: {known}", "endpoints")
    return None


def _end(ask: KeyCreate, now: Ms) -> Ms | None:
    return Ms(now + ask.expires_in_ms) if ask.expires_in_ms is not None else ask.expires_ms


def _bad_end(ask: KeyCreate, now: Ms) -> Problem | None:
    if ask.expires_ms is not None and ask.expires_in_ms is not None:
        return Problem("bad_request", "send expires_ms or expires_in_ms, not both", "expires_in_ms")
    field = "expires_ms" if ask.expires_in_ms is None else "expires_in_ms"
    end = _end(ask, now)
    if end is not None and end <= now:
        return Problem("bad_request", "the key would have expired already", field)
    if end is not None and end > now + LONGEST_MS:
        return Problem("bad_request", "that is more than twenty years ahead", field, Ms(now + LONGEST_MS))
    return None


def _set(names: Iterable[str] | None) -> frozenset[str] | None:
    return None if names is None else frozenset(names)
