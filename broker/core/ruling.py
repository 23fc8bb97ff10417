"""What a broker's ruling does to its job.

A ruling decides where no worker will: nothing ran, so it makes no execution and costs nothing. It may come late. The
row of the job is guarded, so what has ended stays as it ended, whatever the order in which reports and rulings come.
"""

from typing import assert_never

from broker.core.records import Final, Ignore, OpenJob, Requeue
from schemas.api import State
from schemas.ruling import Expire, Fail, PutBack, Ruling
from schemas.units import Ms


def ruled(ruling: Ruling, job: OpenJob | None, *, now: Ms) -> Final | Requeue | Ignore:
    """The transition that a ruling asks for. Only PutBack depends on the job's row."""
    match ruling:
        case Expire():
            return Final(State.EXPIRED, None, None)
        case PutBack(_, attempt):
            return put_back(attempt, job, now=now)
        case Fail(_, failure):
            return Final(State.FAILED, None, failure)
        case _:
            assert_never(ruling)


def put_back(attempt: int, job: OpenJob | None, *, now: Ms) -> Requeue | Ignore:
    """Let the job wait again, at once and uncounted, if it runs this attempt."""
    if job is None or job.state is not State.RUNNING or job.attempt != attempt:
        return Ignore()
    return Requeue(now, counted=False, tried=job.tried)
