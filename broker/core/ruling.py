"""Decides which attempts a broker puts back, and what a ruling does to its job.

A broker rules when no worker will report. A ruling records no execution and no cost. It may arrive late: the job's row
is guarded, so a job that has ended stays as it is, in whatever order reports and rulings arrive.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import assert_never
from uuid import UUID

from broker.core import route
from broker.core.records import Final, Ignore, OpenJob, Requeue, Running
from schemas.api import State
from schemas.catalog import Catalog
from schemas.outcome import Cancelled, Expired, Failed, WorkerLost
from schemas.ruling import Cancel, Convict, EndRequest, Expire, Lost, PutBack, Ruling, Suspect, Suspicion
from schemas.units import Ms


def stranded(
    running: Iterable[Running],
    models: Mapping[UUID, str],
    *,
    catalog: Catalog,
    alive: Collection[str],
    silent: Collection[str],
) -> list[Running]:
    """Choose the attempts to put back, by their jobs' `models`.

    These are attempts on `silent` deployments, which have had no worker for long, if another deployment could run the job
    now or the model's route has dropped this one.
    """
    found = []
    for one in running:
        if one.deployment in silent and one.job in models:
            model = models[one.job]
            is_dropped = all(entry.deployment != one.deployment for entry in route.entries(model, catalog))
            if is_dropped or route.candidates(model, catalog=catalog, alive=alive):
                found.append(one)
    return found


def ruling_transition(ruling: Ruling, job: OpenJob | None, *, now: Ms) -> Final | Requeue | Ignore:
    """Return the transition that a ruling asks for. All but Expire, Cancel and EndRequest depend on the job's row."""
    match ruling:
        case Expire():
            return Final(State.EXPIRED, None, None)
        case PutBack(_, attempt):
            return put_back(attempt, job, now=now)
        case Suspect(_, attempt, suspicion):
            return put_back(attempt, job, now=now, suspicion=suspicion)
        case Convict(_, attempt, deaths):
            is_current = job is not None and job.state is State.RUNNING and job.attempt == attempt
            return Final(State.DEAD, None, WorkerLost(deaths)) if is_current else Ignore()
        case Cancel():
            return Final(State.CANCELLED, None, None)
        case EndRequest(_, outcome):
            return _ended(outcome)
        case Lost():
            return Ignore()
        case _:
            assert_never(ruling)


def _ended(outcome: Failed | Expired | Cancelled) -> Final:
    match outcome:
        case Failed(failure):
            return Final(State.FAILED, None, failure)
        case Expired():
            return Final(State.EXPIRED, None, None)
        case Cancelled(body=body):
            return Final(State.CANCELLED, body, None)
        case _:
            assert_never(outcome)


def put_back(attempt: int, job: OpenJob | None, *, now: Ms, suspicion: Suspicion | None = None) -> Requeue | Ignore:
    """Requeue the job at once, without counting the attempt, if this is the attempt that runs.

    If it is suspected, now or before, it waits for a run apart.
    """
    if job is None or job.state is not State.RUNNING or job.attempt != attempt:
        return Ignore()
    return Requeue(now, counted=False, tried=job.tried, suspicion=suspicion or job.suspicion)
