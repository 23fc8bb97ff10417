"""What the gateway decides: where an interactive request goes, and whom it may answer."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

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


@dataclass(frozen=True, slots=True)
class Capped:
    """Every deployment of the model has spent what it may today."""


def choose(
    model: str,
    *,
    catalog: Catalog,
    beats: Sequence[WorkerBeat],
    outstanding: Mapping[str, int],
    unit: float,
    peak: Mapping[str, int] | None = None,
    tried: Collection[str] = (),
    capped: Callable[[str], bool] = lambda _: False,
) -> str | Full | Absent | Capped:
    """A deployment with room that is not `tried`, by the route's weights, else the first spare; `unit` is uniform in
    [0, 1).

    The reserve is one for all brokers' gateways. What this one has `outstanding` counts, and what the beats say to be
    live beyond the most that it had out since they were said, its `peak`: that is the others', a second late.
    """
    room = _room(beats)
    taken = _taken(beats, outstanding, outstanding if peak is None else peak)
    alive = [r for r in catalog.models[model].route if r.deployment in room and r.deployment not in tried]
    if not alive:
        return Absent()
    allowed = [route for route in alive if not capped(route.deployment)]
    if not allowed:
        return Capped()
    free = [route for route in allowed if taken[route.deployment] < room[route.deployment]]
    if not free:
        return Full()
    mark = unit * sum(route.weight for route in free)
    for route in free:
        mark -= route.weight
        if mark < 0:
            return route.deployment
    return free[0].deployment


def _room(beats: Sequence[WorkerBeat]) -> dict[str, int]:
    room: dict[str, int] = {}
    for beat in beats:
        if not beat.draining:
            room[beat.deployment] = room.get(beat.deployment, 0) + beat.reserve
    return room


def _taken(beats: Sequence[WorkerBeat], outstanding: Mapping[str, int], peak: Mapping[str, int]) -> dict[str, int]:
    live: Counter[str] = Counter()
    for beat in beats:
        if not beat.draining:
            live[beat.deployment] += beat.live
    return {name: outstanding.get(name, 0) + max(0, said - peak.get(name, 0)) for name, said in live.items()}


def has_another(model: str, *, catalog: Catalog, beats: Sequence[WorkerBeat], tried: Collection[str]) -> bool:
    """Whether a deployment is left to fall back to."""
    room = _room(beats)
    return any(r.deployment in room and r.deployment not in tried for r in catalog.models[model].route)


def may_answer(reply_to: str, tenant: str) -> bool:
    """Only under the tenant's own inbox prefix: NATS does not check permissions on reply subjects."""
    return reply_to.startswith(f"{inbox_prefix(tenant)}.") and not any(c in reply_to for c in "*> ")


def problem_of(why: Full | Absent | Capped | Refused, model: str) -> Problem:
    match why:
        case Full():
            return Problem("busy", f"every worker of {model} is full: try again in a moment, or submit the job")
        case Absent():
            return Problem("no_worker", f"no worker serves {model} now: try again, or submit the job")
        case Capped():
            return Problem("daily_cap", f"{model} has spent what it may today: try tomorrow, or raise its cap")
        case Refused(code, message, field, limit):
            return Problem(code, message, field, limit)


def in_use(job: UUID) -> Problem:
    return Problem("id_in_use", f"a request with the id {job} is being answered: make another id", "id")


def is_lost(problem: Problem) -> bool:
    """Whether the worker will not report any more, and another may be tried."""
    return problem.code in {"no_worker", "worker_lost"}


def overdue(*, began: Ms, started: Ms, heard: Ms | None, deadline: Ms, now: Ms) -> Problem | None:
    """Why a request is given up on, or its present attempt, which was `started` later than the request `began`."""
    if now >= deadline:
        return Problem("timed_out", f"no answer within {deadline - began} ms")
    if heard is None and now - started >= FIRST_WORD_MS:
        return Problem("no_worker", f"no worker took the request within {FIRST_WORD_MS} ms: try again")
    if heard is not None and now - heard >= SILENCE_MS:
        return Problem("worker_lost", "the worker went silent: try again")
    return None
