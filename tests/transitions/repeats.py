"""Steps of retries and replays, and of the pages in which instructions are carried out."""

from msgspec.structs import replace

from broker.core.instructions import Carried
from broker.core.records import RequeuedJobs
from schemas.api import ResultPage, State
from schemas.listing import JobFilter
from schemas.repeats import FAILED_STATES, BatchRetry, Given, Replay
from tests.transitions.controls import audited
from tests.transitions.jobs import LANES, pick
from tests.transitions.world import MODELS, Step, World


async def retry(world: World, a: int, b: int, c: int) -> Step | None:
    """Of a batch, or of a retry; sometimes one that was given before."""
    if not world.batches:
        return None
    states = (*FAILED_STATES, State.CANCELLED) if b % 2 else FAILED_STATES[: 1 + b % 3]
    ask = BatchRetry(id=world.new_id(), batch=pick(sorted(world.batches), a), states=states)
    tenant = world.batches[ask.batch][0]
    if c % 8 == 0 and world.retries:
        ask, tenant = pick(world.retries, a)
    elif c % 3 == 0:
        ask = replace(ask, model=pick(("m", "n", "none"), b))

    async def learn(given: Given | None) -> None:
        assert given is not None
        assert given.is_begun
        if ask.id not in world.batches:
            world.changes += 1
            world.retries.append((ask, tenant))
            world.batches[ask.id] = (tenant, world.batches[ask.batch][1])

    return Step(
        says=f"retry {', '.join(states)} of batch {ask.batch} as {ask.id}",
        call=lambda: world.ledger.retries.give(ask, tenant, audited(world)),
        learn=learn,
    )


async def replay(world: World, a: int, b: int, c: int) -> Step | None:
    """Of a batch or a model, two jobs a second or all at once; sometimes one that was given before."""
    if not world.batches:
        return None
    batch = pick(sorted(world.batches), a)
    tenant = world.batches[batch][0]
    wanted = JobFilter(batch=batch) if b % 2 else JobFilter(model=pick(tuple(MODELS), b), lane=pick(LANES, a))
    model, deployment = pick(((None, None), ("n", None), (None, "e"), ("none", None)), c)
    ask = Replay(
        id=world.new_id(), filter=wanted, model=model, deployment=deployment, rate_per_s=2.0 if c % 3 else None
    )
    if c % 8 == 0 and world.replays:
        ask, tenant = pick(world.replays, a)

    async def learn(given: Given) -> None:
        assert given.instruction.id == ask.id
        if ask.id not in world.batches:
            world.changes += 1
            world.replays.append((ask, tenant))
            world.batches[ask.id] = (tenant, ask.lane)

    return Step(
        says=f"replay {wanted} of {tenant} as {ask.id}",
        call=lambda: world.ledger.replays.give(ask, tenant, audited(world)),
        learn=learn,
    )


async def carry_on(world: World, _a: int, _b: int, _c: int) -> Step | None:
    """A page of the instruction that has waited longest."""
    if await world.ledger.instructions.next_ms() is None:
        return None

    async def learn(carried: Carried | None) -> None:
        assert carried is None or carried.failure in (None, "its batch was sealed or cancelled meanwhile")

    return Step(
        says="carry on with an instruction",
        call=lambda: world.ledger.instructions.carry_on(world.now),
        makes_jobs=True,
        learn=learn,
        moves_fence=True,
        moves=lambda job: world.jobs[job].batch is not None,
    )


async def read_results(world: World, a: int, b: int, _: int) -> Step | None:
    """Page by page, each line once, with the success of its retries if there is one."""
    if not world.batches:
        return None
    batch = pick(sorted(world.batches), a)
    tenant = world.batches[batch][0]

    async def call() -> list[str]:
        names: list[str] = []
        cursor, more = None, True
        while more:
            page: ResultPage | None = await world.ledger.batches.results(batch, tenant, cursor, 1 + b % 3)
            assert page is not None
            names += [f"{one.line} {one.custom_id}" for one in page.results]
            cursor, more = page.cursor, page.more
        return names

    async def learn(names: list[str]) -> None:
        assert world.is_racing or len(names) == world.seen_batches[batch].ended, f"{names}"

    return Step(says=f"read the results of batch {batch}", call=call, learn=learn)


async def requeue(world: World, a: int, b: int, _: int) -> Step | None:
    """Dead jobs, some of which may have been requeued before."""
    dead = sorted(world.open_jobs("dead"))
    if not dead:
        return None
    jobs = {pick(dead, a + n) for n in range(1 + b % 4)}
    tenant = world.jobs[pick(dead, a)].tenant
    ask = RequeuedJobs(id=world.new_id(), tenant=tenant, jobs=tuple(sorted(jobs)), max_tokens=4 if b % 3 else None)

    async def learn(_: None) -> None:
        world.changes += 1
        world.batches[ask.id] = (tenant, ask.lane)
        world.requeued.add(ask.id)

    return Step(
        says=f"requeue {', '.join(map(world.name, ask.jobs))} of {tenant} as {ask.id}",
        call=lambda: world.ledger.dead_letters.requeue_jobs(ask, audited(world), {}),
        learn=learn,
    )
