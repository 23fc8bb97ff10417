"""Steps on one job, of which two come at once: most faults are where two meet."""

from collections.abc import Awaitable, Callable
from uuid import UUID

from broker.core.records import Pick, Place
from schemas.changes import Change
from schemas.job import Attempt
from schemas.outcome import EngineFault, Failed
from schemas.ruling import Cancel, Expire, PutBack, Ruling, Suspect, Suspicion
from tests.builders import a_report
from tests.transitions import cancels, changes, jobs
from tests.transitions.world import Step, World

Meet = Callable[[World, UUID], Awaitable[Step | None]]


def _newest(world: World, job: UUID) -> Attempt | None:
    return next((one for one in reversed(world.attempts) if one.job == job), None)


async def _ruled(world: World, ruling: Ruling) -> Step | None:
    verdicts = await jobs.verdicts_on(world, [ruling])
    return jobs.settlement(world, verdicts)


async def succeed(world: World, job: UUID) -> Step | None:
    attempt = _newest(world, job)
    if attempt is None:
        return None
    return jobs.settlement(world, await jobs.verdicts_on(world, [jobs.reported(world, attempt, 0)]))


async def fail(world: World, job: UUID) -> Step | None:
    """By a second execution, so that it has not said anything else before."""
    attempt = _newest(world, job)
    if attempt is None:
        return None
    named = {"job": job, "attempt": attempt.number, "deployment": attempt.deployment}
    report = a_report(Failed(EngineFault("a fault")), delivery=3, **named)
    return jobs.settlement(world, await jobs.verdicts_on(world, [report]))


async def put_back(world: World, job: UUID) -> Step | None:
    attempt = _newest(world, job)
    return None if attempt is None else await _ruled(world, PutBack(job, attempt.number))


async def suspect(world: World, job: UUID) -> Step | None:
    attempt = _newest(world, job)
    return None if attempt is None else await _ruled(world, Suspect(job, attempt.number, Suspicion(world.new_id())))


async def rule_cancelled(world: World, job: UUID) -> Step | None:
    attempt = _newest(world, job)
    return None if attempt is None else await _ruled(world, Cancel(job, attempt.number))


async def expire(world: World, job: UUID) -> Step | None:
    return await _ruled(world, Expire(job))


async def cancel(world: World, job: UUID) -> Step | None:
    return cancels.cancel_these(world, {job}, world.jobs[job].tenant)


async def change(world: World, job: UUID) -> Step | None:
    """To what it is."""
    return changes.change_this(world, job, Change(lane=world.jobs[job].lane))


async def dispatch(world: World, job: UUID) -> Step | None:
    leader = max(world.leaders, key=lambda one: one.term)
    leader.controls = await world.ledger.controls.read()
    row = await world.reader.connection.fetchrow("select rank, deadline_ms from infermq.waiting where job = $1", job)
    known = world.jobs[job]
    if row is None or world.is_held(job) or row["deadline_ms"] <= world.now:
        return None
    picks = [Pick(known.flow, Place(row["rank"], row["deadline_ms"], job), "e")]
    return jobs.dispatch_these(world, leader, picks, leader.controls.version)


MEETINGS: tuple[Meet, ...] = (
    succeed, succeed, fail, put_back, suspect, rule_cancelled, expire, cancel, cancel, change, dispatch, dispatch,
)  # fmt: skip
