"""Says which HTTP status an error has, and whether a client should send the same request again.

Official clients try again by themselves after 408, 409, 429 and every 5xx, unless `x-should-retry` says otherwise.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from schemas.api import Problem

NOT_READY: Final = Problem("unavailable", "this broker is starting or stopping: try again in a moment")


class Kind(msgspec.Struct, frozen=True):
    """What HTTP says of an error."""

    status: int
    again: bool = False
    """Whether the same request may do better in a moment."""
    after_s: int = 1
    """When to try again, if the error does not say it."""


_KEY = Kind(401)
_MAY_NOT = Kind(403)
_UNKNOWN = Kind(404)
_TAKEN = Kind(409)
_TOO_LARGE = Kind(413)
_LATER = Kind(503, again=True)
_AWAY = Kind(503, again=True, after_s=5)
_TOO_MANY = Kind(429, again=True)
_UPSTREAM = Kind(502)
_BAD = Kind(400)
_MINUTE = 60

KINDS: Final[Mapping[str, Kind]] = {
    "no_key": _KEY,
    "bad_key": _KEY,
    "unauthorized": _KEY,
    "key_expired": _KEY,
    "key_revoked": _KEY,
    "unknown_key": _KEY,
    "tenant_disabled": _MAY_NOT,
    "forbidden": _MAY_NOT,
    "unknown_model": _UNKNOWN,
    "unknown_job": _UNKNOWN,
    "unknown_batch": _UNKNOWN,
    "unknown_dead_letter": _UNKNOWN,
    "unknown_deployment": _UNKNOWN,
    "unknown_instruction": _UNKNOWN,
    "unknown_file": _UNKNOWN,
    "unknown_webhook": _UNKNOWN,
    "bad_range": Kind(416),
    "unknown_tenant": _UNKNOWN,
    "unknown_route": _UNKNOWN,
    "no_catalog": _UNKNOWN,
    "wrong_method": Kind(405),
    "slow_request": Kind(408),
    "bad_state": _TAKEN,
    "batch_completed": _TAKEN,
    "webhook_disabled": _TAKEN,
    "too_many_webhooks": _TAKEN,
    "batch_sealed": _TAKEN,
    "cancelled": _TAKEN,
    "conflict": _TAKEN,
    "duplicate_key": _TAKEN,
    "id_in_use": _TAKEN,
    "key_conflict": _TAKEN,
    "last_operator": _TAKEN,
    "not_retried": _TAKEN,
    "nothing_to_retry": _TAKEN,
    "not_waiting": _TAKEN,
    "tenant_exists": _TAKEN,
    "body_too_large": _TOO_LARGE,
    "too_large": _TOO_LARGE,
    "bad_offset": _TAKEN,
    "headers_too_large": Kind(431),
    "throttled": _TOO_MANY,
    "daily_cap": Kind(429, after_s=_MINUTE),
    "backlog_full": _LATER,
    "busy": _LATER,
    "too_many_connections": _LATER,
    "upstream_down": _AWAY,
    "no_slots": _AWAY,
    "spend_unknown": _AWAY,
    "paused": _AWAY,
    "draining": _AWAY,
    "no_worker": _AWAY,
    "suspected": _AWAY,
    "unavailable": _AWAY,
    "broker_stopped": _LATER,
    "worker_lost": _LATER,
    "relay_lost": _LATER,
    "worker_stopped": _LATER,
    "engine_lost": _LATER,
    "denied": _UPSTREAM,
    "engine_fault": _UPSTREAM,
    "constraint_violated": _UPSTREAM,
    "response_too_large": _UPSTREAM,
    "stream_broken": _UPSTREAM,
    "expired": Kind(504),
    "timed_out": Kind(504),
    "unanswered": Kind(504),
    "internal": Kind(500),
}
"""The kind of each error that is not simply a bad request, which is what all others are."""


def kind_of(problem: Problem) -> Kind:
    return KINDS.get(problem.code, _BAD)


def retry_headers(problem: Problem) -> list[tuple[bytes, bytes]]:
    """Return the headers that say whether and when to send the request again."""
    kind = kind_of(problem)
    if problem.retry_after_ms is None and not kind.again and kind.status < 500 and kind.status not in (409, 429):
        return []
    headers = [(b"x-should-retry", b"true" if kind.again else b"false")]
    if problem.retry_after_ms is not None:
        ms = problem.retry_after_ms
        headers += [(b"retry-after", b"%d" % max(1, -(-ms // 1000))), (b"retry-after-ms", b"%d" % ms)]
    elif kind.again or kind.status == 429:
        headers.append((b"retry-after", b"%d" % kind.after_s))
    return headers
