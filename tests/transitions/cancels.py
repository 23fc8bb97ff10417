"""Steps of cancels: of jobs that wait or run, of jobs that are not there yet, and the rulings that follow."""

from uuid import UUID

from broker.core.records import JobCancels, Marked
from schemas.api import State
from schemas.ruling import Cancel
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
    tenant = world.jobs[pick(jobs, a)].tenant
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
