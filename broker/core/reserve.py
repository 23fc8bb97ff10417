"""Where an interactive request goes: into the reserve that its model's deployments keep for requests."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from broker.core import route
from schemas.api import Problem
from schemas.catalog import Catalog
from schemas.outcome import Refused
from schemas.worker import WorkerBeat


@dataclass(frozen=True, slots=True)
class Placed:
    """The deployment that gets the next attempt, and the token that names this attempt to its relay."""

    deployment: str
    token: str


@dataclass(frozen=True, slots=True)
class Full:
    """Every deployment of the model has as much as it can take."""


@dataclass(frozen=True, slots=True)
class Absent:
    """No worker serves the model."""


@dataclass(frozen=True, slots=True)
class Capped:
    """Every deployment of the model has spent what it may today."""


@dataclass(frozen=True, slots=True)
class Gone:
    """The active catalog has no such model any more."""


Unplaced = Full | Absent | Capped | Gone


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
) -> str | Unplaced:
    """A deployment with room among the candidates, by the route's weights; of spares the first. `unit` is uniform in
    [0, 1).

    All brokers share the reserve. What this one has `outstanding` counts, and what the beats say to be
    live beyond the most that it had out since they were said, its `peak`: that is the others', a second late.
    """
    room = _room(beats)
    taken = _taken(beats, outstanding, outstanding if peak is None else peak)
    if not route.entries(model, catalog):
        return Gone()
    there = [e.deployment for e in route.untried(model, catalog=catalog, tried=tried) if e.deployment in room]
    if not there:
        return Absent()
    allowed = {name for name in there if not capped(name)}
    if not allowed:
        return Capped()
    # A deployment without any reserve takes no requests: it is away for them, not full.
    takes = {name for name in allowed if room[name]}
    candidates = route.candidates(model, catalog=catalog, alive=takes, tried=tried)
    free = [entry for entry in candidates if taken[entry.deployment] < room[entry.deployment]]
    if not free:
        return Full()
    mark = unit * sum(entry.weight for entry in free)
    for entry in free:
        mark -= entry.weight
        if mark < 0:
            return entry.deployment
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


def problem_of(why: Unplaced | Refused, model: str) -> Problem:
    match why:
        case Full():
            return Problem("busy", f"every worker of {model} is full: try again in a moment, or submit the job")
        case Absent():
            return Problem("no_worker", f"no worker serves {model} now: try again, or submit the job")
        case Capped():
            return Problem("daily_cap", f"{model} has spent what it may today: try tomorrow, or raise its cap")
        case Gone():
            return Problem("unknown_model", f"{model} was taken out of the catalog while its request ran", "model")
        case Refused(code, message, field, limit):
            return Problem(code, message, field, limit)


def in_use(job: UUID) -> Problem:
    return Problem("id_in_use", f"a request with the id {job} is being answered: make another id", "id")
