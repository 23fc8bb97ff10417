"""Steps of cancels: of jobs that wait or run, of jobs that are not there yet, and the rulings that follow."""

from uuid import UUID

from broker.core.records import JobCancels, Marked
from schemas.api import State
from schemas.ruling import Cancel
from tests.transitions.controls import audited
from tests.transitions.jobs import pick, settlement, verdicts_on
from tests.transitions.standing import Standing
from tests.transitions.world import Step, World


def _cancelled(_: UUID, before: Standing) -> set[Standing]:
    """What waits ends, what runs is marked, and what has ended stays as it is."""
    if before.waits:
        return {Standing("cancelled", before.attempt)}
    return {before._replace(is_marked=before.is_marked or before.place == "running")}


async def cancel_jobs(world: World, a: int, b: int, c: int) -> Step | None:
    """Some jobs of a tenant, open ones mostly, and one of another tenant."""
    jobs = sorted(world.open_jobs("waiting", "delayed", "suspect", "parked", "running") if c % 8 else world.seen)
    if not jobs:
        return None
    chosen = {pick(jobs, a + n) for n in range(1 + b % 3)}
    return cancel_these(world, chosen, world.jobs[pick(jobs, a)].tenant)


def cancel_these(world: World, chosen: set[UUID], tenant: str) -> Step:
    own = {job for job in chosen if world.jobs[job].tenant == tenant}

    async def learn(answer: JobCancels) -> None:
        """The answer says who won: it agrees with the record."""
        assert answer.states.keys() == own
        assert {one.job for one in answer.ended} | {one.job for one in answer.marked} <= own
        read = (await world.reader.read()).jobs
        for job in own:
            standing, said = read[job].standing, answer.states[job]
            if not world.is_racing:
                assert said == (None if standing.is_open else State(standing.place)), f"{world.name(job)}: {said}"
        for ended in answer.ended:
            assert read[ended.job].standing.place == "cancelled"

    return Step(
        says=f"cancel {', '.join(map(world.name, sorted(chosen)))} of {tenant}",
        call=lambda: world.ledger.cancels.cancel_jobs(chosen, tenant, world.now),
        effect=lambda job, before: _cancelled(job, before) if job in own else {before},
        learn=learn,
    )


async def rule_cancelled(world: World, a: int, b: int, _: int) -> Step | None:
    """What was marked, and nobody has reported."""
    marked: list[Marked] = await world.ledger.cancels.marked()
    if not marked:
        return None
    chosen = {pick(marked, a + n).job: pick(marked, a + n) for n in range(1 + b % 2)}
    return settlement(world, await verdicts_on(world, [Cancel(one.job, one.attempt) for one in chosen.values()]))


async def cancel_batch(world: World, a: int, b: int, _: int) -> Step | None:
    """Of a batch that is open, sealed, cancelled or complete."""
    if not world.batches:
        return None
    batch = pick(sorted(world.batches), a)
    tenant = world.batches[batch][0] if b % 8 else "nobody"
    was = world.seen_batches.get(batch)
    is_open = was is not None and was.completed_ms is None and was.cancel_ms is None and tenant != "nobody"

    async def learn(is_done: bool) -> None:  # noqa: FBT001 - the answer
        assert world.is_racing or is_done == is_open
        world.changes += is_done

    return Step(
        says=f"cancel batch {batch} of {tenant}",
        call=lambda: world.ledger.cancels.cancel_batch(batch, tenant, audited(world)),
        learn=learn,
        moves_fence=True,
    )


async def mark_batch(world: World, a: int, _b: int, _c: int) -> Step | None:
    batch = _cancelling(world, a)
    if batch is None:
        return None

    def effect(job: UUID, before: Standing) -> set[Standing]:
        if world.jobs[job].batch != batch or before.place != "running":
            return {before}
        marked = before._replace(is_marked=True)
        return {before, marked} if world.is_racing else {marked}

    return Step(
        says=f"mark what runs of batch {batch}",
        call=lambda: world.ledger.cancels.mark_batch(batch, world.now),
        effect=effect,
    )


async def end_page(world: World, a: int, b: int, _: int) -> Step | None:
    """A page of what waits of a cancelled batch: it ends, and nothing else."""
    batch, limit = _cancelling(world, a), 1000 if b % 2 else 1 + b % 4
    if batch is None:
        return None

    def effect(job: UUID, before: Standing) -> set[Standing]:
        if world.jobs[job].batch != batch or not before.waits:
            return {before}
        ended = Standing("cancelled", before.attempt)
        return {ended} if limit == 1000 and not world.is_racing else {before, ended}

    return Step(
        says=f"end up to {limit} of batch {batch}",
        call=lambda: world.ledger.cancels.end_page(batch, world.now, limit=limit),
        effect=effect,
    )


def _cancelling(world: World, a: int) -> UUID | None:
    found = [batch for batch, seen in world.seen_batches.items() if seen.cancel_ms and not seen.completed_ms]
    return pick(sorted(found), a) if found else None
