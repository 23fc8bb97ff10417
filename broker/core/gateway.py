"""What the gateway decides: where an interactive request goes, and whom it may answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from schemas.api import Problem
from schemas.catalog import Catalog
from schemas.outcome import Refused
from schemas.subjects import inbox_prefix
from schemas.units import Ms
from schemas.worker import WorkerBeat

FIRST_WORD_MS = Ms(10_000)
"""How long a worker may take to be heard of: its keepalive comes each second once it has the request."""
SILENCE_MS = Ms(5_000)
"""Several keepalives missed: the worker is gone."""


@dataclass(frozen=True, slots=True)
class Full:
    """Every deployment of the model has as much as it can take."""


@dataclass(frozen=True, slots=True)
class Absent:
    """No worker serves the model."""


def choose(
    model: str, *, catalog: Catalog, beats: Sequence[WorkerBeat], outstanding: Mapping[str, int], unit: float
) -> str | Full | Absent:
    """A deployment with room, by the route's weights; `unit` is uniform in [0, 1).

    The reserve of all brokers' gateways is one; each sees what the others took a second later, in the beats.
    """
    room: dict[str, int] = {}
    for beat in beats:
        if not beat.draining:
            room[beat.deployment] = room.get(beat.deployment, 0) + beat.reserve
    routes = [route for route in catalog.models[model].route if route.weight and route.deployment in room]
    if not routes:
        return Absent()
    free = [route for route in routes if outstanding.get(route.deployment, 0) < room[route.deployment]]
    if not free:
        return Full()
    mark = unit * sum(route.weight for route in free)
    for route in free:
        mark -= route.weight
        if mark < 0:
            return route.deployment
    return free[-1].deployment


def may_answer(reply_to: str, tenant: str) -> bool:
    """Only under the tenant's own inbox prefix: NATS does not check permissions on reply subjects."""
    return reply_to.startswith(f"{inbox_prefix(tenant)}.") and not any(c in reply_to for c in "*> ")


def problem_of(why: Full | Absent | Refused, model: str) -> Problem:
    match why:
        case Full():
            return Problem("busy", f"every worker of {model} is full: try again in a moment, or submit the job")
        case Absent():
            return Problem("no_worker", f"no worker serves {model} now: try again, or submit the job")
        case Refused(code, message, field, limit):
            return Problem(code, message, field, limit)


def overdue(*, started: Ms, heard: Ms | None, deadline: Ms, now: Ms) -> Problem | None:
    """Why a request is given up on, or None."""
    if now >= deadline:
        return Problem("timed_out", f"no answer within {deadline - started} ms")
    if heard is None and now - started >= FIRST_WORD_MS:
        return Problem("no_worker", f"no worker took the request within {FIRST_WORD_MS} ms: try again")
    if heard is not None and now - heard >= SILENCE_MS:
        return Problem("worker_lost", "the worker went silent: try again")
    return None
