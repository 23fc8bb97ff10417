"""Where an interactive request goes: into the reserve that its model's deployments keep for requests."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from broker.core import route
from broker.core.pools import Pool
from schemas.api import Hold, HoldCode, Problem
from schemas.catalog import Catalog
from schemas.outcome import Refused


@dataclass(frozen=True, slots=True)
class Placed:
    """The deployment that gets the next attempt, and the token that names this attempt to its relay."""

    deployment: str
    token: str


@dataclass(frozen=True, slots=True)
class Held:
    """No deployment that is left takes a request now."""

    holds: Sequence[Hold]
    """Why, in the order of the route. Empty: none is left to try."""


@dataclass(frozen=True, slots=True)
class Gone:
    """The active catalog has no such model any more."""


Unplaced = Held | Gone


def choose(
    model: str, *, catalog: Catalog, pools: Mapping[str, Pool], unit: float, tried: Collection[str] = ()
) -> str | Unplaced:
    """A deployment with room among the candidates, by the route's weights; of spares the first. `unit` is uniform in
    [0, 1).

    A deployment without any reserve takes no requests: it is away for them, not full.
    """
    if not route.entries(model, catalog):
        return Gone()
    able = {name for name, pool in pools.items() if pool.stop is None and pool.reserve}
    candidates = route.candidates(model, catalog=catalog, alive=able, tried=tried)
    free = [entry for entry in candidates if pools[entry.deployment].request_hold is None]
    if not free:
        left = route.untried(model, catalog=catalog, tried=tried)
        return Held([hold for entry in left if (hold := pools[entry.deployment].request_hold) is not None])
    mark = unit * sum(entry.weight for entry in free)
    for entry in free:
        mark -= entry.weight
        if mark < 0:
            return entry.deployment
    return free[0].deployment


def problem_of(why: Unplaced | Refused, model: str) -> Problem:
    match why:
        case Held(holds):
            return _refusal(holds, model)
        case Gone():
            return Problem("unknown_model", f"{model} was taken out of the catalog while its request ran", "model")
        case Refused(code, message, field, limit):
            return Problem(code, message, field, limit)


_CODES = list(HoldCode)


def _refusal(holds: Sequence[Hold], model: str) -> Problem:
    """Says all that holds the route, and bears the code of what may pass first."""
    if not holds:
        return Problem(HoldCode.NO_WORKER, f"no deployment of {model} is left to try")
    code = min((hold.code for hold in holds), key=_CODES.index)
    soon = (
        "try again in a moment, or submit the job" if code is HoldCode.BUSY else "try again later, or submit the job"
    )
    return Problem(code, f"{model} takes no requests now ({'; '.join(hold.message for hold in holds)}): {soon}")


def in_use(job: UUID) -> Problem:
    return Problem("id_in_use", f"a request with the id {job} is being answered: make another id", "id")
