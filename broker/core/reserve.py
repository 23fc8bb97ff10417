"""Decides which deployment takes an interactive request, in any slot that is free; or that it may wait for one."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from broker.core import route
from broker.core.pools import Pool, all_full
from schemas.api import Hold, HoldCode, Problem
from schemas.catalog import Catalog
from schemas.outcome import Refused
from schemas.subjects import WorkerId
from schemas.units import Ms
from schemas.worker import WorkerBeat


@dataclass(frozen=True, slots=True)
class Placement:
    """A deployment takes the next attempt of a request; the token names this attempt to its relay."""

    deployment: str
    token: str
    worker: WorkerId | None = None
    """The worker that it goes to alone, since that offered a slot or runs it apart. None: any of the deployment."""
    is_apart: bool = False
    """Whether the worker runs it apart from all others."""
    started_ms: Ms | None = None
    """When that worker started, by its own clock: another process of its name is another. None: it was not heard yet."""


@dataclass(frozen=True, slots=True)
class NoRoom:
    """None of the deployments that are left to try takes a request now."""

    holds: Sequence[Hold]
    """What holds each of them, in the order of the route. Empty: none is left to try."""
    full: tuple[str, ...] = ()
    """Those that would take it if they had a free slot, so that it may wait for one of theirs."""


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
    workers = [beat for beat in beats if not beat.draining and beat.slots + beat.reserve > 0 and beat.id not in wards]
    for entry in candidates:
        here = [beat for beat in workers if beat.deployment == entry.deployment]
        if here:
            return min(here, key=lambda beat: (beat.running, beat.id))
    return NoRoom([SUSPECTED])


SUSPECTED = Hold(HoldCode.SUSPECTED, "a request like this one was with a worker that died, and waits for a run apart")


def choose_deployment(
    model: str,
    *,
    catalog: Catalog,
    pools: Mapping[str, Pool],
    unit: float,
    tried: Collection[str] = (),
    full: Collection[str] = (),
    offered: str | None = None,
) -> str | NotPlaced:
    """Choose a candidate with room, at random by the route's weights; of spares, the first. `unit` is uniform in [0, 1).

    Those that are `full` have none, whatever the beats say: others wait for their slots, or they turned a request back just
    now. One that has `offered` a slot has room.
    """
    if not route.entries(model, catalog):
        return ModelGone()
    able = {name for name, pool in pools.items() if pool.stop is None}
    candidates = route.candidates(model, catalog=catalog, alive=able, tried=tried)
    free = [
        entry
        for entry in candidates
        if entry.deployment == offered
        or (entry.deployment not in full and pools[entry.deployment].request_hold is None)
    ]
    if not free:
        left = route.untried(model, catalog=catalog, tried=tried)
        holds = {name: hold for entry in left if (hold := _hold(pools[name := entry.deployment], full)) is not None}
        waited_for = {entry.deployment for entry in candidates}
        busy = [name for name, hold in holds.items() if name in waited_for and hold.code is HoldCode.BUSY]
        return NoRoom(list(holds.values()), tuple(busy))
    mark = unit * sum(entry.weight for entry in free)
    for entry in free:
        mark -= entry.weight
        if mark < 0:
            return entry.deployment
    return free[0].deployment


def _hold(pool: Pool, full: Collection[str]) -> Hold | None:
    return pool.request_hold or (all_full(pool.deployment) if pool.deployment in full else None)


def problem_of(why: NotPlaced | Refused, model: str, *, now: Ms | None = None) -> Problem:
    """Say in an API error why a request is not placed; with `now`, also when to come back if that is known."""
    match why:
        case NoRoom(holds):
            return _no_room(holds, model, now)
        case Poison(deaths):
            message = f"the worker died each of the {deaths} times that a request like this one ran alone: change it"
            return Problem("poison", message, "body")
        case ModelGone():
            return Problem("unknown_model", f"{model} was taken out of the catalog while its request ran", "model")
        case Refused(code, message, field, limit):
            return Problem(code, message, field, limit)


def no_more_wait(model: str, *, waiting: int, retry_after_ms: Ms) -> Problem:
    """Refuse a request, since as many wait for the model as may."""
    seconds = -(-retry_after_ms // 1000)
    message = (
        f"{model} takes no requests now (every slot is taken, and {waiting} requests wait for one): "
        f"try again in {seconds} s, or submit the job"
    )
    return Problem(HoldCode.BUSY, message, retry_after_ms=retry_after_ms)


_CODES = list(HoldCode)


def _no_room(holds: Sequence[Hold], model: str, now: Ms | None) -> Problem:
    """Name everything that holds the route, under the code of the hold that may end first."""
    if not holds:
        return Problem(HoldCode.NO_WORKER, f"no deployment of {model} is left to try")
    code = min((hold.code for hold in holds), key=_CODES.index)
    soon = (
        "try again in a moment, or submit the job" if code is HoldCode.BUSY else "try again later, or submit the job"
    )
    message = f"{model} takes no requests now ({'; '.join(hold.message for hold in holds)}): {soon}"
    ends = [hold.until_ms for hold in holds if hold.until_ms is not None]
    after = None if now is None or not ends else Ms(max(0, min(ends) - now))
    return Problem(code, message, retry_after_ms=after)


def in_use(job: UUID) -> Problem:
    return Problem("id_in_use", f"a request with the id {job} is being answered: make another id", "id")
