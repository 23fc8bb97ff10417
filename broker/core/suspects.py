"""Decides who is suspected when a worker dies, who is tried next and where, and who is convicted.

A worker's death says that one of the jobs it held may have ended it, or none: a kill from outside, or by the kernel for
want of memory, looks the same. So a death makes suspects, not culprits:

    a worker dies ──► all that it held is one group of suspects
    a group runs apart, on a worker that runs nothing else ──► whoever's run ends is cleared
        the worker dies again ──► those that still ran are halved into two groups
        the worker dies with a single suspect ──► one death alone; DEATHS_ALONE of them convict

A run that outlives the age at which the job's worker died before speaks against that death: a job that ends its worker
does so at about the same age each time. Such a death is forgotten.

How long it takes. Of k culprits among g suspects each is in at most ⌈log2 g⌉ groups that are halved, and dies alone
twice, so workers die at most k (⌈log2 g⌉ + 2) times more, whatever else runs. Every other group runs once to its end.

How often an innocent job is convicted. It must be alone when kills from outside hit DEATHS_ALONE of its runs one after
the other. With N kills an hour of each worker and a run time of T seconds that is at most (1 - exp(-N T / 3600))² for a
job that is alone at all: 0.001 % for N = 1 and T = 10 s, 0.1 % for N = 12.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from uuid import UUID

import msgspec

from broker.core import route
from schemas.catalog import Catalog
from schemas.ruling import Suspicion
from schemas.subjects import WorkerId
from schemas.units import Ms

DEATHS_ALONE = 2
"""How many deaths convict a job that ran alone: with one, a single kill from outside would convict an innocent job."""
_OUTLIVED = 2
_OUTLIVED_MS = 3000
"""A run outlives a former death if it lasts so many times as long, and so much longer. Ages are known to a second."""
_APART_SHARE = 2
"""Of so many workers of a deployment one at most runs suspects; the only worker of a deployment does, too."""


class Involved(msgspec.Struct, frozen=True):
    """An attempt that ran apart, or waited for that, on a worker that died."""

    job: UUID
    attempt: int
    suspicion: Suspicion
    has_begun: bool = True
    """Whether it had begun, or was about to: a worker says so before it begins."""
    ran_ms: Ms = Ms(0)
    """How long it had run, as far as beats tell."""


class Blamed(msgspec.Struct, frozen=True):
    """What a death means for one attempt: its job is suspected, or it is convicted."""

    job: UUID
    attempt: int
    suspicion: Suspicion
    is_convicted: bool = False


def judge(
    dead: Iterable[Sequence[Involved]], unheld: Sequence[tuple[UUID, int]], new_group: Callable[[], UUID]
) -> tuple[list[Blamed], Sequence[tuple[UUID, int]]]:
    """Say what the deaths of workers of one deployment mean, by what each ran apart; and which attempts go on as they are.

    `unheld` is what was delivered and no living worker holds. Unless all of the dead ran suspects apart, and so nothing
    else, these are the suspects, whether a beat named them or not: a job can end its worker before the next beat.
    """
    blamed: list[Blamed] = []
    all_ran_apart = True
    for involved in dead:
        begun = [one for one in involved if one.has_begun]
        blamed += blame(begun, new_group)
        blamed += [Blamed(one.job, one.attempt, one.suspicion) for one in involved if not one.has_begun]
        all_ran_apart = all_ran_apart and bool(begun)
    if all_ran_apart or not unheld:
        return blamed, unheld
    group = new_group()
    return [*blamed, *(Blamed(job, attempt, Suspicion(group)) for job, attempt in unheld)], ()


def blame(group: Sequence[Involved], new_group: Callable[[], UUID]) -> list[Blamed]:
    """Say what the death of their worker means for those that ran apart together: they are halved, or one was alone."""
    if len(group) == 1:
        return [_after_death_alone(group[0])]
    return _halved(group, new_group)


def _halved(involved: Sequence[Involved], new_group: Callable[[], UUID]) -> list[Blamed]:
    ordered = sorted(involved, key=lambda one: one.job.int)
    middle = len(ordered) // 2
    blamed = []
    for half in (ordered[:middle], ordered[middle:]):
        group = new_group() if half else None
        blamed += [Blamed(one.job, one.attempt, Suspicion(group)) for one in half if group is not None]
    return blamed


def _after_death_alone(one: Involved) -> Blamed:
    """Count a death alone. Those before it count no more if this run lasted longer by far: they were not the job's doing."""
    suspicion = one.suspicion
    is_outlived = one.ran_ms > _OUTLIVED * suspicion.ran_ms + _OUTLIVED_MS
    deaths = 1 if is_outlived else suspicion.deaths_alone + 1
    counted = Suspicion(suspicion.group, deaths, one.ran_ms)
    return Blamed(one.job, one.attempt, counted, is_convicted=deaths >= DEATHS_ALONE)


class WaitingSuspect(msgspec.Struct, frozen=True):
    """A suspected job that waits for its run apart."""

    job: UUID
    model: str
    tried: tuple[str, ...]
    suspicion: Suspicion


class RunningApart(msgspec.Struct, frozen=True):
    """An attempt that was handed to a worker to run apart, and is not settled."""

    job: UUID
    attempt: int
    worker: WorkerId
    suspicion: Suspicion


class FreeWorker(msgspec.Struct, frozen=True):
    """A worker that takes jobs, and has had a rest since it last ran suspects."""

    worker: WorkerId
    deployment: str
    slots: int
    running: int


class Turn(msgspec.Struct, frozen=True):
    """A group, or as much of it as fits, that runs next, on this worker alone."""

    worker: WorkerId
    deployment: str
    group: UUID
    jobs: tuple[UUID, ...]


def turns(
    waiting: Iterable[WaitingSuspect],
    free: Sequence[FreeWorker],
    *,
    workers: Counter[str],
    apart: Counter[str],
    catalog: Catalog,
) -> list[Turn]:
    """Choose which groups run next, the oldest first, each on the worker of its route that runs the least.

    `workers` counts the workers of each deployment, and `apart` those of them that run suspects now. No more than half of
    them do at once, so that suspects never stop a deployment; but a deployment's only worker takes its turns, too.
    """
    groups: dict[UUID, list[WaitingSuspect]] = {}
    for one in waiting:
        groups.setdefault(one.suspicion.group, []).append(one)
    left, taken, chosen = list(free), Counter(apart), []
    for group in sorted(groups, key=lambda one: one.int):
        open_now = [one for one in left if taken[one.deployment] < max(1, workers[one.deployment] // _APART_SHARE)]
        alive = {one.deployment for one in open_now}
        places = {one.job: _deployments(one, catalog=catalog, alive=alive) for one in groups[group]}
        where = next((names[0] for names in places.values() if names), None)
        if where is None:
            continue
        worker = min((one for one in open_now if one.deployment == where), key=lambda one: (one.running, one.worker))
        jobs = [job for job, names in places.items() if where in names][: worker.slots]
        chosen.append(Turn(worker.worker, where, group, tuple(jobs)))
        left.remove(worker)
        taken[where] += 1
    return chosen


def _deployments(one: WaitingSuspect, *, catalog: Catalog, alive: Collection[str]) -> list[str]:
    found = route.candidates(one.model, catalog=catalog, alive=alive, tried=one.tried)
    return [entry.deployment for entry in found or route.candidates(one.model, catalog=catalog, alive=alive)]
