"""Decides which deployment takes an interactive request: one with room in the reserve that it keeps for requests."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from broker.core import route
from broker.core.pools import Pool
from schemas.api import Hold, HoldCode, Problem
from schemas.catalog import Catalog
from schemas.outcome import Refused
from schemas.subjects import WorkerId
from schemas.worker import WorkerBeat


@dataclass(frozen=True, slots=True)
class Placement:
    """A deployment takes the next attempt of a request; the token names this attempt to its relay."""

    deployment: str
    token: str
    worker: WorkerId | None = None
    """The worker that runs the attempt apart from all others. None: any of the deployment."""


@dataclass(frozen=True, slots=True)
class NoRoom:
    """None of the deployments that are left to try takes a request now."""

    holds: Sequence[Hold]
    """What holds each of them, in the order of the route. Empty: none is left to try."""


@dataclass(frozen=True, slots=True)
class ModelGone:
    """The active catalog has dropped the model."""


@dataclass(frozen=True, slots=True)
class Poison:
    """Requests like this one end their workers."""

    deaths: int


NotPlaced = NoRoom | ModelGone | Poison


def choose_ward(
    model: str,
    beats: Iterable[WorkerBeat],
    *,
    catalog: Catalog,
    pools: Mapping[str, Pool],
    wards: Collection[WorkerId],
) -> WorkerBeat | NotPlaced:
    """Choose the worker that runs a suspected request apart: of the route's first deployment that can, the least busy.

    `wards` have one already.
    """
    if not route.entries(model, catalog):
        return ModelGone()
    open_now = [name for name, pool in pools.items() if pool.stop is None]
    candidates = route.candidates(model, catalog=catalog, alive=open_now)
    workers = [beat for beat in beats if not beat.draining and beat.reserve > 0 and beat.id not in wards]
    for entry in candidates:
        here = [beat for beat in workers if beat.deployment == entry.deployment]
        if here:
            return min(here, key=lambda beat: (beat.running, beat.id))
    return NoRoom([SUSPECTED])


SUSPECTED = Hold(HoldCode.SUSPECTED, "a request like this one was with a worker that died, and waits for a run apart")


def choose_deployment(
    model: str, *, catalog: Catalog, pools: Mapping[str, Pool], unit: float, tried: Collection[str] = ()
) -> str | NotPlaced:
    """Choose a candidate with room, at random by the route's weights; of spares, the first. `unit` is uniform in [0, 1).

    A deployment without a reserve takes no requests: for them it is away, not full.
    """
    if not route.entries(model, catalog):
        return ModelGone()
    able = {name for name, pool in pools.items() if pool.stop is None and pool.reserve}
    candidates = route.candidates(model, catalog=catalog, alive=able, tried=tried)
    free = [entry for entry in candidates if pools[entry.deployment].request_hold is None]
    if not free:
        left = route.untried(model, catalog=catalog, tried=tried)
        return NoRoom([hold for entry in left if (hold := pools[entry.deployment].request_hold) is not None])
    mark = unit * sum(entry.weight for entry in free)
    for entry in free:
        mark -= entry.weight
        if mark < 0:
            return entry.deployment
    return free[0].deployment


def problem_of(why: NotPlaced | Refused, model: str) -> Problem:
    """Say in an API error why a request is not placed."""
    match why:
        case NoRoom(holds):
            return _no_room(holds, model)
        case Poison(deaths):
            message = f"the worker died each of the {deaths} times that a request like this one ran alone: change it"
            return Problem("poison", message, "body")
        case ModelGone():
            return Problem("unknown_model", f"{model} was taken out of the catalog while its request ran", "model")
        case Refused(code, message, field, limit):
            return Problem(code, message, field, limit)


_CODES = list(HoldCode)


def _no_room(holds: Sequence[Hold], model: str) -> Problem:
    """Name everything that holds the route, under the code of the hold that may end first."""
    if not holds:
        return Problem(HoldCode.NO_WORKER, f"no deployment of {model} is left to try")
    code = min((hold.code for hold in holds), key=_CODES.index)
    soon = (
        "try again in a moment, or submit the job" if code is HoldCode.BUSY else "try again later, or submit the job"
    )
    return Problem(code, f"{model} takes no requests now ({'; '.join(hold.message for hold in holds)}): {soon}")


def in_use(job: UUID) -> Problem:
    return Problem("id_in_use", f"a request with the id {job} is being answered: make another id", "id")
