"""Steps of what holds jobs back: pauses, parked jobs, suspects."""

from uuid import UUID

from broker.core.records import Audited
from broker.core.suspects import Turn, WaitingSuspect
from broker.errors import Deposed
from schemas.control import Pause, PauseAnswer, PauseKind
from schemas.job import Attempt
from tests.builders import a_worker
from tests.transitions.jobs import pick
from tests.transitions.standing import Standing
from tests.transitions.world import Step, World


def _named(world: World, a: int, b: int) -> tuple[PauseKind, str]:
    """Something that an open job is of, a suspect's mostly; or any deployment."""
    kind = pick((PauseKind.BATCH, *PauseKind), a)
    jobs = sorted(world.open_jobs("suspect")) if b % 2 else []
    jobs = jobs or sorted(world.open_jobs("waiting", "delayed", "parked"))
    if kind is PauseKind.DEPLOYMENT or not jobs:
        return PauseKind.DEPLOYMENT, pick(("d", "e"), b)
    known = world.jobs[pick(jobs, b)]
    if kind is PauseKind.BATCH and known.batch is not None:
        return kind, str(known.batch)
    names = {PauseKind.MODEL: known.model, PauseKind.LANE: str(known.lane)}
    return (kind, names[kind]) if kind in names else (PauseKind.TENANT, known.tenant)


def audited(world: World) -> Audited:
    return Audited(world.new_id(), world.now, "ops", "k")


async def pause(world: World, a: int, b: int, _: int) -> Step | None:
    named = _named(world, a, b)
    kind, name = named

    async def learn(answer: PauseAnswer) -> None:
        assert answer.pause is not None or world.is_racing
        assert world.is_racing or answer.changed == (named not in world.pauses)
        world.changes += answer.changed

    wanted = Pause(kind=kind, name=name, paused_ms=world.now, tenant="ops", key="k")
    return Step(
        says=f"pause {kind} {name}",
        call=lambda: world.ledger.controls.pause(wanted, audited(world)),
        learn=learn,
        moves_fence=True,
    )


async def resume(world: World, a: int, b: int, c: int) -> Step | None:
    named = pick(sorted(world.pauses), b) if world.pauses and c % 8 else _named(world, a, b)
    kind, name = named

    async def learn(answer: PauseAnswer) -> None:
        assert world.is_racing or answer.changed == (named in world.pauses)
        world.changes += answer.changed

    return Step(
        says=f"resume {kind} {name}",
        call=lambda: world.ledger.controls.resume(kind, name, audited(world)),
        learn=learn,
        moves_fence=True,
    )


async def park(world: World, a: int, b: int, _: int) -> Step | None:
    paused = [UUID(name) for kind, name in sorted(world.pauses) if kind is PauseKind.BATCH]
    if not paused:
        return None
    batch, limit = pick(paused, a), 1000 if b % 2 else 1 + b % 5

    def effect(job: UUID, before: Standing) -> set[Standing]:
        known = world.jobs[job]
        if known.batch != batch or before.place != "waiting" or known.deadline_ms <= world.now:
            return {before}
        parked = Standing("parked", before.attempt)
        return {parked} if limit == 1000 and not world.is_racing else {before, parked}

    return Step(
        says=f"park up to {limit} of batch {batch}",
        call=lambda: world.ledger.controls.park(batch, now=world.now, limit=limit),
        effect=effect,
    )


async def unpark(world: World, a: int, b: int, _: int) -> Step | None:
    limit = 1000 if b % 2 else 1 + a % 5

    def effect(job: UUID, before: Standing) -> set[Standing]:
        is_paused = (PauseKind.BATCH, str(world.jobs[job].batch)) in world.pauses
        if before.place != "parked" or (is_paused and not world.is_racing):
            return {before}
        back = Standing("waiting", before.attempt)
        return {back} if limit == 1000 and not world.is_racing else {before, back}

    return Step(says=f"unpark up to {limit}", call=lambda: world.ledger.controls.unpark(limit=limit), effect=effect)


async def run_apart(world: World, a: int, _b: int, _c: int) -> Step | None:
    """Hand a group of suspects to a worker, also one that is held back: that must do nothing."""
    leader = max(world.leaders, key=lambda one: one.term) if a % 4 else pick(world.leaders, a)
    rows = await world.reader.connection.fetch(
        "select job, suspicion->>'group' as suspected from infermq.delayed where suspicion is not null order by job"
    )
    if not rows:
        return None
    group = pick(rows, a)["suspected"]
    jobs = tuple([row["job"] for row in rows if row["suspected"] == group])
    turn = Turn(a_worker(), "d", UUID(group), jobs)
    told = {suspect.job for suspect in await world.ledger.suspects.waiting()}
    term = leader.term

    def effect(job: UUID, before: Standing) -> set[Standing]:
        is_over = term != world.fences[0] or world.jobs[job].deadline_ms <= world.now
        if job not in jobs or before.place != "suspect" or is_over:
            return {before}
        started = Standing("running", before.attempt + 1)
        if world.is_racing:
            return {before, started}
        return {before} if world.is_held(job) else {started}

    async def learn(attempts: list[Attempt]) -> None:
        world.attempts += attempts

    assert told == {row["job"] for row in rows if not world.is_held(row["job"])}
    return Step(
        says=f"{leader.name} runs {', '.join(map(world.name, jobs))} apart in term {term}",
        call=lambda: world.ledger.suspects.dispatch(turn, term=term, now=world.now),
        effect=effect,
        raises=(Deposed,),
        learn=learn,
        is_fenced=True,
    )


async def clear(world: World, a: int, _b: int, _c: int) -> Step | None:
    waiting: list[WaitingSuspect] = await world.ledger.suspects.waiting()
    if not waiting:
        return None
    group = pick(waiting, a).suspicion.group
    held = await world.reader.connection.fetch(
        "select job from infermq.delayed where (suspicion->>'group')::uuid = $1", group
    )
    jobs = {row["job"] for row in held}

    def effect(job: UUID, before: Standing) -> set[Standing]:
        return {Standing("delayed", before.attempt) if job in jobs and before.place == "suspect" else before}

    return Step(
        says=f"clear {', '.join(map(world.name, sorted(jobs)))}",
        call=lambda: world.ledger.suspects.clear([group]),
        effect=effect,
    )
