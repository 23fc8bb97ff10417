"""Steps that change lane, deadline and priority of what waits."""

from uuid import UUID

from broker.core.records import Flow, Place
from schemas.api import State
from schemas.changes import BatchChange, Change, JobChanged
from schemas.instructions import Instruction
from schemas.units import Ms
from tests.transitions.controls import audited
from tests.transitions.jobs import LANES, pick
from tests.transitions.world import HOUR_MS, Step, World


def _change(world: World, b: int, c: int) -> Change:
    """Of one thing or of several; often to what it is already."""
    return Change(
        lane=pick((None, *LANES), b),
        deadline_ms=Ms(world.now + pick((2_000, HOUR_MS), c)) if c % 3 == 0 else None,
        priority=pick((None, 0, 7, -7), c),
    )


async def change_job(world: World, a: int, b: int, c: int) -> Step | None:
    """One that waits mostly."""
    jobs = sorted(world.open_jobs("waiting", "delayed", "suspect", "parked") if c % 4 else world.seen)
    if not jobs:
        return None
    return change_this(world, pick(jobs, a), _change(world, b, c))


def change_this(world: World, job: UUID, change: Change) -> Step:
    known = world.jobs[job]

    async def learn(answer: tuple[JobChanged, tuple[tuple[Flow, Place], ...]] | State | None) -> None:
        assert answer is not None
        if isinstance(answer, tuple):
            world.changes += 1
            after = answer[0].after
            assert change.lane in (None, after.lane)
            assert change.priority in (None, after.priority)
            assert change.deadline_ms in (None, after.deadline_ms)
        assert world.is_racing or isinstance(answer, tuple) == world.standing(job).waits

    return Step(
        says=f"change {world.name(job)} to {change.lane}, {change.deadline_ms}, {change.priority}",
        call=lambda: world.ledger.changes.change_job(job, known.tenant, change, audited(world)),
        learn=learn,
        moves=lambda moved: moved == job,
    )


async def change_batch(world: World, a: int, b: int, c: int) -> Step | None:
    if not world.batches:
        return None
    batch = pick(sorted(world.batches), a)
    tenant = world.batches[batch][0]
    ask = BatchChange(world.new_id(), batch, _change(world, b, c))

    async def learn(given: Instruction | None) -> None:
        assert given is not None
        world.changes += 1
        if ask.change.lane is not None:
            world.batches[batch] = (tenant, ask.change.lane)

    return Step(
        says=f"change batch {batch} to {ask.change.lane}, {ask.change.deadline_ms}, {ask.change.priority}",
        call=lambda: world.ledger.changes.give(ask, tenant, audited(world)),
        learn=learn,
    )
