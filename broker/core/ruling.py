"""When a broker puts an attempt back, and what its rulings do to their jobs.

A ruling decides where no worker will: nothing ran, so it makes no execution and costs nothing. It may come late. The
row of the job is guarded, so what has ended stays as it ended, whatever the order in which reports and rulings come.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import assert_never
from uuid import UUID

from broker.core import route
from broker.core.records import Final, Ignore, OpenJob, Requeue, Running
from schemas.api import State
from schemas.catalog import Catalog
from schemas.outcome import Cancelled, Expired, Failed
from schemas.ruling import EndRequest, Expire, PutBack, Ruling
from schemas.units import Ms


def stranded(
    running: Iterable[Running],
    models: Mapping[UUID, str],
    *,
    catalog: Catalog,
    alive: Collection[str],
    silent: Collection[str],
) -> list[Running]:
    """Choose the attempts to put back: those on `silent` deployments, which have had no worker for long, if another
    deployment could run the job now, or if its model's route has dropped this one. `models` are the jobs' models.
    """
    found = []
    for one in running:
        if one.deployment in silent and one.job in models:
            model = models[one.job]
            is_dropped = all(entry.deployment != one.deployment for entry in route.entries(model, catalog))
            if is_dropped or route.candidates(model, catalog=catalog, alive=alive):
                found.append(one)
    return found


def ruled(ruling: Ruling, job: OpenJob | None, *, now: Ms) -> Final | Requeue | Ignore:
    """The transition that a ruling asks for. Only PutBack depends on the job's row."""
    match ruling:
        case Expire():
            return Final(State.EXPIRED, None, None)
        case PutBack(_, attempt):
            return put_back(attempt, job, now=now)
        case EndRequest(_, outcome):
            return _ended(outcome)
        case _:
            assert_never(ruling)


def _ended(outcome: Failed | Expired | Cancelled) -> Final:
    match outcome:
        case Failed(failure):
            return Final(State.FAILED, None, failure)
        case Expired():
            return Final(State.EXPIRED, None, None)
        case Cancelled():
            return Final(State.CANCELLED, None, None)
        case _:
            assert_never(outcome)


def put_back(attempt: int, job: OpenJob | None, *, now: Ms) -> Requeue | Ignore:
    """Let the job wait again, at once and uncounted, if it runs this attempt."""
    if job is None or job.state is not State.RUNNING or job.attempt != attempt:
        return Ignore()
    return Requeue(now, counted=False, tried=job.tried)
