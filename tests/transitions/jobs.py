"""Steps in the life of a job: submitted, dispatched, reported, ruled on, expired. Numbers choose what each is about."""

from collections.abc import Sequence
from functools import partial
from typing import TypeVar
from uuid import UUID

from msgspec.structs import replace

from broker.core import route
from broker.core.admit import AdmissionContext, admit
from broker.core.controls import Controls
from broker.core.lost import lost_executions
from broker.core.price import Prices
from broker.core.principal import Principal
from broker.core.records import Admitted, Entry, Final, Flow, Ignore, Pick, Place, Requeue, Settled, Verdict
from broker.core.settle import decide, needs_job
from broker.errors import ControlsChanged, Deposed
from schemas.accounts import Role
from schemas.api import Batch, BatchCreate, State
from schemas.ids import uuid7
from schemas.job import Attempt, Job, Lane
from schemas.outcome import (
    BadRequest,
    Cancelled,
    EngineFault,
    Expired,
    Failed,
    Outcome,
    Released,
    Report,
    Succeeded,
    Throttled,
    Usage,
)
from schemas.ruling import Convict, Expire, Lost, PutBack, Ruling, Suspect, Suspicion
from schemas.units import Ms
from tests.builders import BODIES, CHAT, a_report, an_execution_id
from tests.transitions.standing import ABSENT, Standing
from tests.transitions.world import CATALOG, HOUR_MS, MODELS, TENANTS, Known, Leader, Step, World, only

T = TypeVar("T")
LANES = tuple(Lane)
PRICES = Prices(catalog=CATALOG, source="catalog:1")
_DEADLINES_MS = (HOUR_MS, 24 * HOUR_MS, 60_000, 5_000, 1_000)


def pick(things: Sequence[T], number: int) -> T:
    return things[number % len(things)]


async def create_batch(world: World, a: int, b: int, c: int) -> Step | None:
    tenant, lane = pick(TENANTS, a), pick(LANES, b)
    deadline = None if c % 3 else Ms(world.now + pick(_DEADLINES_MS, c))
    ask = BatchCreate(id=world.new_id(), lane=lane, deadline_ms=deadline)
    if len(world.batches) >= 6:
        ask = replace(ask, id=pick(sorted(world.batches), a))
        tenant, lane = world.batches[ask.id]

    async def learn(answer: Batch) -> None:
        assert answer.id == ask.id
        assert answer.lane is lane
        world.batches[ask.id] = (tenant, lane)

    return Step(
        says=f"create batch {ask.id} of {tenant} in {lane}",
        call=lambda: world.ledger.batches.create(ask, tenant, world.now),
        learn=learn,
    )


async def seal_batch(world: World, a: int, b: int, _: int) -> Step | None:
    """With the jobs it has, fewer or more."""
    if not world.batches:
        return None
    batch = pick(sorted(world.batches), a)
    tenant = world.batches[batch][0]
    jobs = max(0, sum(known.batch == batch for known in world.jobs.values()) + b % 4 - 1)

    async def learn(answer: Batch | None) -> None:
        assert answer is not None
        assert answer.sealed_ms is not None

    return Step(
        says=f"seal batch {batch} with {jobs}",
        call=lambda: world.ledger.batches.seal(batch, tenant, jobs, world.now),
        learn=learn,
    )


async def submit(world: World, a: int, b: int, c: int) -> Step | None:
    """A message of up to five jobs: alone, or in a batch."""
    batch, tenant, lane = _where(world, a, b)
    jobs = [
        Job(
            id=world.new_id(),
            endpoint=CHAT,
            body=BODIES[CHAT],
            batch=batch,
            line=n + 1,
            custom_id=f"{c}-{n}",
            deadline_ms=Ms(world.now + pick(_DEADLINES_MS, c + n)),
            priority=pick((0, 0, 7, -7), c + n),
            max_attempts=1 + (b + n) % 3,
            metadata={"n": str(n)},
        )
        for n in range(1 + c % 5)
    ]
    return await _submission(
        world, jobs, tenant=tenant, lane=lane, model="none" if c == 7 else pick(tuple(MODELS), c)
    )


async def submit_keyed(world: World, a: int, b: int, c: int) -> Step | None:
    """With a key that another job may have already, of the same body or another."""
    batch, tenant, lane = _where(world, a, b)
    body = BODIES[CHAT] if c % 3 else b'{"messages":[{"role":"user","content":"Another."}]}'
    job = Job(id=world.new_id(), endpoint=CHAT, body=body, batch=batch, idempotency_key=f"k{c % 4}")
    return await _submission(world, [job], tenant=tenant, lane=lane, model="m")


async def submit_again(world: World, a: int, b: int, _: int) -> Step | None:
    """A message that came before; or one with its ids, and other bodies."""
    if not world.messages:
        return None
    entries = pick(world.messages, a)
    if b % 3 == 0:
        entries = [replace(entry, body=b"{}", body_hash=b"another body!!!!") for entry in entries]
    return _admission(world, entries, says=f"again{' with other bodies' if b % 3 == 0 else ''} ")


def _where(world: World, a: int, b: int) -> tuple[UUID | None, str, Lane]:
    batches = sorted(world.batches.keys() - world.retried)
    if batches and a % 3:
        batch = pick(batches, b)
        return batch, *world.batches[batch]
    return None, pick(TENANTS, a), pick(LANES, b)


async def _submission(world: World, jobs: Sequence[Job], *, tenant: str, lane: Lane, model: str) -> Step:
    batches = await world.ledger.intake.batches_of({job.batch for job in jobs if job.batch is not None})
    context = AdmissionContext(
        principal=Principal(tenant=tenant, key="k", role=Role.PRODUCER),
        lane=lane,
        model=model,
        catalog=CATALOG,
        now=world.now,
        new_id=lambda _: world.new_id(),
        batches=batches,
    )
    entries = [admit(job, context) for job in jobs]
    world.messages.append(entries)
    return _admission(world, entries)


def _admission(world: World, entries: Sequence[Entry], *, says: str = "") -> Step:
    for entry in entries:
        known = Known(len(world.jobs), entry.tenant, entry.model, entry.lane, entry.batch, entry.deadline_ms)
        world.jobs.setdefault(entry.id, known)

    async def learn(_: Admitted) -> None:
        for entry in entries:
            if entry.idempotency_key is not None:
                await _learn_owner(world, entry.tenant, entry.idempotency_key)

    names = ", ".join(f"{world.name(one.id)} {one.model}{' refused' if one.refused else ''}" for one in entries)
    key = f" with the key {entries[0].idempotency_key}" if entries[0].idempotency_key else ""
    where = f"{entries[0].lane} of {entries[0].tenant}, batch {entries[0].batch}{key}"
    return Step(
        says=f"submit {says}{names} in {where}",
        call=lambda: world.ledger.intake.admit(entries),
        effect=only({entry.id: partial(_of_entry, world, entry) for entry in entries}),
        learn=learn,
    )


async def _learn_owner(world: World, tenant: str, key: str) -> None:
    """The job that a key stands for is the first one's for ever."""
    owner = await world.reader.owner_of(tenant, key)
    if owner is not None:
        assert world.keys.setdefault((tenant, key), owner) == owner


def _of_entry(world: World, entry: Entry, _: UUID, before: Standing) -> set[Standing]:
    """A new job waits, unless it is refused, its batch is cancelled, or its key is another job's."""
    if before != ABSENT:
        return {before}
    refused, waits, cancelled = Standing("failed"), Standing("waiting"), Standing("cancelled")
    if entry.refused is not None:
        return {refused}
    owner = world.keys.get((entry.tenant, entry.idempotency_key or ""), entry.id)
    if owner != entry.id and owner in world.seen:
        first = next(one for message in world.messages for one in message if one.id == owner)
        is_same = (first.model, first.body_hash) == (entry.model, entry.body_hash)
        return {ABSENT if entry.batch is None and is_same else refused}
    may = {waits}
    if world.is_racing and entry.idempotency_key is not None:
        may |= {ABSENT, refused}
    if entry.batch is None:
        return may
    if world.is_racing:
        return may | {cancelled, refused}
    return {cancelled} if world.seen_batches[entry.batch].cancel_ms is not None else may


async def lead(world: World, a: int, b: int, _: int) -> Step | None:
    """Take or renew the lease, or lose it first."""
    leader = pick(world.leaders, a)
    if b % 3 == 0:
        await world.reader.connection.execute("update infermq.leader set until = now() - interval '1 s'")

    async def learn(term: int | None) -> None:
        if term is not None:
            leader.term = term

    return Step(
        says=f"{leader.name} leads{', since the lease ran out' if b % 3 == 0 else ''}",
        call=lambda: world.ledger.leadership.lead(leader.name, lease_ms=60_000),
        learn=learn,
        moves_fence=True,
    )


async def read_controls(world: World, a: int, _b: int, _c: int) -> Step | None:
    """They are what was made of them."""
    leader = pick(world.leaders, a)

    async def learn(controls: Controls) -> None:
        leader.controls = controls
        paused = {(pause.kind, pause.name) for pause in controls.pauses}
        assert world.is_racing or paused == world.pauses, f"{paused} are read, {world.pauses} were made"

    return Step(says=f"{leader.name} reads the controls", call=world.ledger.controls.read, learn=learn)


async def choose(world: World, a: int, b: int, c: int) -> Step | None:
    """A leader chooses by what it knows, and dispatches later."""
    leader = _likely(world, a)
    if b % 4:
        leader.controls = await world.ledger.controls.read()
    leader.picks, leader.chosen_by = await _choice(world, leader, b, c), leader.controls.version
    return None


async def dispatch(world: World, a: int, b: int, c: int) -> Step | None:
    """What a leader has chosen; else it reads the controls and chooses now, as it does when nothing has changed."""
    leader = next((one for one in world.leaders if one.picks), _likely(world, a))
    picks, version, leader.picks = leader.picks, leader.chosen_by, []
    if not picks:
        if b % 4:
            leader.controls = await world.ledger.controls.read()
        picks, version = await _choice(world, leader, b, c), leader.controls.version
    return dispatch_these(world, leader, picks, version) if picks else None


def dispatch_these(world: World, leader: Leader, picks: Sequence[Pick], version: int) -> Step:
    term = leader.term

    places = {one.place.job: (one.flow, one.place) for one in picks}

    def effect(job: UUID, before: Standing) -> set[Standing]:
        """It starts, unless it is elsewhere now."""
        known, is_fenced = world.jobs[job], (term, version) != world.fences
        is_there = places[job] == (known.flow, Place(known.rank, known.deadline_ms, job))
        if is_fenced or not is_there or before.place != "waiting":
            return {before}
        return {Standing("running", before.attempt + 1)}

    async def learn(attempts: list[Attempt]) -> None:
        world.attempts += attempts

    names = ", ".join(f"{world.name(one.place.job)} to {one.deployment}" for one in picks)
    return Step(
        says=f"{leader.name} dispatches {names} in term {term} by the controls {version}",
        call=lambda: world.ledger.attempts.dispatch(picks, term=term, controls=version, now=world.now),
        effect=only(dict.fromkeys([one.place.job for one in picks], effect)),
        raises=(Deposed, ControlsChanged),
        learn=learn,
        is_fenced=True,
    )


async def _flows(world: World) -> list[Flow]:
    return list(dict.fromkeys(head.flow for head in await world.ledger.backlog.heads()))


def _likely(world: World, a: int) -> Leader:
    """The true leader mostly."""
    return max(world.leaders, key=lambda one: one.term) if a % 2 else pick(world.leaders, a // 2)


async def _choice(world: World, leader: Leader, b: int, c: int) -> list[Pick]:
    flows = await _flows(world)
    ready = {}
    for flow in flows:
        jobs = await world.ledger.backlog.page(flow, after=None, limit=1 + c % 6)
        ready[flow] = leader.controls.keeps(flow, jobs, world.now)
    picks = []
    for flow, kept in leader.controls.may_start(ready).items():
        names = [one.deployment for one in route.entries(flow.model, CATALOG)]
        names = [name for name in names if leader.controls.deployment(name) is None]
        if names:
            picks += [Pick(flow, job.place, pick(names, b + n)) for n, job in enumerate(kept)]
    return [one for one in picks if one.place.deadline_ms > world.now]


def _outcome(number: int) -> Outcome:
    used = Usage(10 + number % 7, 3 + number % 5)
    outcomes: tuple[Outcome, ...] = (
        Succeeded(body=b'{"choices":[%d]}' % number, usage=used),
        Failed(EngineFault("a fault"), used),
        Failed(Throttled(Ms(1000))),
        Failed(BadRequest("a body")),
        Released(used),
        Cancelled(used),
        Expired(used),
        Succeeded(body=b'{"choices":[]}', usage=used),
    )
    return pick(outcomes, number)


def reported(world: World, attempt: Attempt, number: int) -> Report:
    """Of the first delivery, or the second; the same each time, since an execution ends once."""
    delivery = 1 + number // 64
    execution = an_execution_id(attempt.job, attempt.number, delivery)
    if execution not in world.reports:
        fields = {"job": attempt.job, "attempt": attempt.number, "deployment": attempt.deployment}
        world.reports[execution] = a_report(_outcome(number), delivery=delivery, **fields)
    return world.reports[execution]


def _ruled(world: World, attempt: Attempt, number: int) -> Ruling:
    job, now = attempt.job, world.now
    deployment, n = attempt.deployment, attempt.number
    rulings: tuple[Ruling, ...] = (
        PutBack(job, n),
        Suspect(job, n, Suspicion(uuid7(now, number // 16), ran_ms=Ms(10))),
        Convict(job, n, 2),
        Lost(
            job=job, attempt=n, deployment=deployment, worker="w", started_ms=now,
            execution=an_execution_id(job, n, 1 + number // 64),
        ),
        PutBack(job, n),
    )  # fmt: skip
    return pick(rulings, number)


async def settle(world: World, a: int, b: int, c: int) -> Step | None:
    """Settle a group of reports and rulings on attempts, the newest mostly, or some older ones."""
    verdicts = await _decided(world, a, b, c)
    return settlement(world, verdicts) if verdicts else None


async def succeed(world: World, a: int, b: int, c: int) -> Step | None:
    """As most groups are: successes of attempts that run."""
    running = [one for one in world.attempts if world.standing(one.job)[:2] == ("running", one.number)]
    if not running:
        return None
    chosen = {one.job: one for n in range(1 + b % 4) for one in [pick(running, a + n)]}
    verdicts = await verdicts_on(world, [reported(world, one, 0 if c % 4 else 64) for one in chosen.values()])
    return settlement(world, verdicts)


async def suspect(world: World, a: int, b: int, _: int) -> Step | None:
    """Suspect all attempts of a deployment, whose worker died."""
    running = [one for one in world.attempts if world.standing(one.job)[:2] == ("running", one.number)]
    held = {one.job: one for one in running if one.deployment == pick(running, a).deployment}
    if not held:
        return None
    group = uuid7(world.now, b)
    rulings = [Suspect(one.job, one.number, Suspicion(group, ran_ms=Ms(10))) for one in list(held.values())[:3]]
    return settlement(world, await verdicts_on(world, rulings))


async def decide_only(world: World, a: int, b: int, c: int) -> Step | None:
    """Decide by how things stand now, and settle later."""
    if verdicts := await _decided(world, a, b, c):
        world.pending.append(verdicts)
    return None


async def settle_decided(world: World, a: int, _b: int, _c: int) -> Step | None:
    if not world.pending:
        return None
    return settlement(world, world.pending.pop(a % len(world.pending)), says="what was decided before: ")


async def settle_again(world: World, a: int, _b: int, _c: int) -> Step | None:
    """A group whose messages come again."""
    if not world.groups:
        return None
    return settlement(world, pick(world.groups[::-1], a), says="again: ")


async def _decided(world: World, a: int, b: int, c: int) -> list[Verdict]:
    recent = world.attempts[-12:] if a % 4 else world.attempts
    items: list[Report | Ruling] = []
    for n in range(1 + c % 3 if recent else 0):
        attempt = pick(recent, a + 5 * n)
        items.append(_ruled(world, attempt, b + n) if (a + n) % 3 == 0 else reported(world, attempt, b + 3 * n))
    return await verdicts_on(world, items)


async def verdicts_on(world: World, items: Sequence[Report | Ruling]) -> list[Verdict]:
    if not items:
        return []
    look = {item.job for item in items if needs_job(item)}
    lost = [item for item in items if isinstance(item, Lost)]
    requests = await world.ledger.attempts.requests_of({one.job for one in lost}) if lost else {}
    return decide(
        items,
        await world.ledger.settlement.open_jobs(look),
        prices=PRICES,
        lost=lost_executions(lost, requests=requests, recorded={}, prices=PRICES),
        alive=("d", "e") if world.now % 2 else ("d",),
        now=world.now,
        unit=0.5,
    )


def settlement(world: World, verdicts: list[Verdict], *, says: str = "") -> Step:
    effects = {verdict.job: partial(_of_verdict, world, verdict) for verdict in _deciding(verdicts)}

    async def learn(_: Settled) -> None:
        world.groups.append(verdicts)

    named = "; ".join(f"{world.name(one.job)} attempt {one.attempt}: {_said(one)}" for one in verdicts)
    return Step(
        says=f"settle {says}{named}",
        call=lambda: world.ledger.settlement.settle(verdicts, now=world.now),
        effect=only(effects),
        learn=learn,
    )


def _deciding(verdicts: Sequence[Verdict]) -> list[Verdict]:
    return [verdict for verdict in verdicts if not isinstance(verdict.transition, Ignore)]


def _said(verdict: Verdict) -> str:
    match verdict.transition:
        case Final(state):
            return str(state)
        case Requeue(not_before, counted, _, suspicion):
            kind = "suspect" if suspicion else "wait"
            return f"{kind} until {not_before}{'' if counted else ', uncounted'}"
        case _:
            return f"only the {verdict.executed.outcome if verdict.executed else 'message'}"


def _of_verdict(world: World, verdict: Verdict, _: UUID, before: Standing) -> set[Standing]:
    """A success ends an open job, another end an open job at its attempt, and a requeue is of the attempt that runs."""
    match verdict.transition:
        case Final(state) if before.is_open:
            is_meant = state is State.SUCCEEDED or verdict.attempt in (None, before.attempt)
            attempt = before.attempt if verdict.attempt is None else verdict.attempt
            return {Standing(str(state), attempt) if is_meant else before}
        case Requeue(not_before, _, _, suspicion) if before.place == "running" and before.attempt == verdict.attempt:
            if before.is_marked:
                return {Standing("cancelled", before.attempt)}
            place = "suspect" if suspicion else "delayed" if not_before > world.now else "waiting"
            return {Standing(place, before.attempt)}
        case _:
            return {before}


async def expire(world: World, a: int, b: int, _: int) -> Step | None:
    """Rule that jobs are over whose deadline has passed, as the leader does for what waits and what runs."""
    late = [job for flow in await _flows(world) for job in await _late(world, flow)]
    late += await world.ledger.attempts.overdue(world.now)
    if not late:
        return None
    chosen = {pick(late, a + n): None for n in range(1 + b % 4)}
    return settlement(world, await verdicts_on(world, [Expire(job) for job in chosen]))


async def _late(world: World, flow: Flow) -> list[UUID]:
    jobs = await world.ledger.backlog.page(flow, after=None, limit=20)
    return [job.place.job for job in jobs if job.place.deadline_ms <= world.now]


async def move_due(world: World, a: int, b: int, _: int) -> Step | None:
    limit = 1000 if a % 2 else 1 + b % 3
    due = {
        job
        for job in world.open_jobs("delayed", "suspect", "parked")
        if min(world.jobs[job].not_before_ms or world.now, world.jobs[job].deadline_ms) <= world.now
    }

    def effect(job: UUID, before: Standing) -> set[Standing]:
        if job not in due or not before.waits:
            return {before}
        moved = Standing("waiting", before.attempt)
        return {moved} if len(due) <= limit and not world.is_racing else {before, moved}

    return Step(
        says=f"move what is due, up to {limit}",
        call=lambda: world.ledger.backlog.move_due(world.now, limit=limit),
        effect=effect,
    )


async def wait(world: World, a: int, b: int, _: int) -> Step | None:
    """Let time pass."""
    longer = 24 * HOUR_MS if a == 0 else HOUR_MS if a % 8 == 1 else 61_000
    world.clock.now = Ms(world.now + pick((100, 1001, 2_000, 6_000, longer), b))
    return Step(says=f"it is {world.now}", call=world.ledger.days.keep)
