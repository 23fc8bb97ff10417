"""What is paused does not start, from the next dispatch on; when it is resumed, it goes on where it was."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from broker.core.records import Entry, Pick, Requeue, Verdict
from broker.core.suspects import Turn
from broker.ports import Ledger
from broker.roles.controls_watch import ControlsWatch
from broker.roles.parking import Parking
from broker.service import Services
from schemas.accounts import Role
from schemas.api import BatchCreate, BatchList, BatchRef, JobRef, State
from schemas.control import AuditList, PauseAsk, PauseKind, ResumeAsk
from schemas.jetstream.client import NatsClient as Nats
from schemas.job import Lane
from schemas.ruling import Suspicion
from schemas.subjects import Verb
from schemas.units import Ms
from tests.builders import a_worker, an_entry, an_id, now
from tests.contract.ledger.test_pauses import BEATS, CATALOG, a_pause, somebody
from tests.holding import a_hand
from tests.real.test_dispatch import a_leader, committed
from tests.real.test_services import a_principal, by_service, services  # noqa: F401 - a fixture
from tests.system import until

pytestmark = pytest.mark.real


async def a_batch(ledger: Ledger) -> str:
    return str((await ledger.batches.create(BatchCreate(id=an_id()), "default", now())).id)


async def starts(ledger: Ledger, *entries: Entry) -> None:
    async def they_run() -> bool:
        return {entry.id for entry in entries} <= {one.job for one in await ledger.attempts.running()}

    await until(they_run, "the jobs start")


@pytest.mark.parametrize("kind", list(PauseKind))
async def test_what_is_paused_waits_while_others_start_and_starts_when_it_is_resumed(
    nc: Nats, ledger: Ledger, kind: PauseKind
) -> None:
    batch = await a_batch(ledger)
    names = {
        PauseKind.MODEL: "m",
        PauseKind.LANE: "bulk",
        PauseKind.TENANT: "t",
        PauseKind.DEPLOYMENT: "d",
        PauseKind.BATCH: batch,
    }
    held = an_entry(tenant="t", lane=Lane.BULK, model="m", batch=None)
    if kind is PauseKind.BATCH:
        held = an_entry(batch=(await ledger.batches.page("default", BatchList(1)))[0].id)
    free = an_entry(lane=Lane.STANDARD, model="n")
    await ledger.controls.pause(a_pause(kind, names[kind]), somebody())
    await ledger.intake.admit([held])

    async with a_leader(nc, ledger, CATALOG, *BEATS):
        await ledger.intake.admit([free])
        await starts(ledger, free)
        assert held.id not in {one.job for one in await ledger.attempts.running()}

        await ledger.controls.resume(kind, names[kind], somebody())
        await ControlsWatch(nc, ledger.controls).announce()
        await starts(ledger, held)


@pytest.mark.parametrize("is_apart", [False, True])
async def test_a_pause_waits_for_the_starts_that_were_chosen_before_it(
    ledger: Ledger, ledger_url: str, *, is_apart: bool
) -> None:
    term = await ledger.leadership.lead("me", lease_ms=60_000)
    assert term is not None
    entry = an_entry()
    dispatch, table = await a_dispatch(ledger, entry, term, is_apart=is_apart)

    async with a_hand(ledger_url) as hand:
        await hand.hold(f"select from infermq.{table} where job = $1 for update", entry.id)
        starting = asyncio.create_task(dispatch())
        await hand.until_waiting(1)
        pausing = asyncio.create_task(ledger.controls.pause(a_pause(PauseKind.MODEL, "m"), somebody()))
        await hand.until_waiting(2)
        await hand.let_go()
        await pausing
        started = len(await ledger.attempts.running())
        await starting

    assert len(await ledger.attempts.running()) == started == 1


async def a_dispatch(
    ledger: Ledger, entry: Entry, term: int, *, is_apart: bool
) -> tuple[Callable[[], Coroutine[Any, Any, object]], str]:
    """A start of the job that is chosen and not made, and the table in which the job waits."""
    version = (await ledger.controls.read()).version
    if not is_apart:
        await ledger.intake.admit([entry])
        picks = [Pick(entry.flow, entry.place, "d")]
        return lambda: ledger.attempts.dispatch(picks, term=term, controls=version, now=now()), "waiting"
    await committed(ledger, entry, "d")
    suspicion = Suspicion(an_id())
    back = Requeue(now(), counted=False, suspicion=suspicion)
    await ledger.settlement.settle([Verdict(job=entry.id, attempt=1, transition=back, executed=None)], now=now())
    turn = Turn(a_worker(), "d", suspicion.group, (entry.id,))
    return lambda: ledger.suspects.dispatch(turn, term=term, now=now()), "delayed"


async def a_parking(nc: Nats, ledger: Ledger, *, page: int = 2000) -> Parking:
    controls = await ledger.controls.read()
    return Parking(nc=nc, ledger=ledger.controls, controls=lambda: controls, clock=now, page=page)


async def test_jobs_of_a_paused_batch_leave_the_backlog_and_come_back(nc: Nats, ledger: Ledger) -> None:
    batch = (await ledger.batches.create(BatchCreate(id=an_id()), "default", now())).id
    parked = [an_entry(batch=batch, deadline_ms=Ms(now() + 60_000 + n)) for n in range(25)]
    behind = an_entry(deadline_ms=Ms(now() + 3_600_000))
    await ledger.intake.admit([*parked, behind])
    flow = behind.flow
    await ledger.controls.pause(a_pause(PauseKind.BATCH, str(batch)), somebody())

    parking = await a_parking(nc, ledger, page=10)
    while not await parking.look():
        pass
    left = [job.place for job in await ledger.backlog.page(flow, after=None, limit=100)]
    await ledger.controls.resume(PauseKind.BATCH, str(batch), somebody())
    parking = await a_parking(nc, ledger, page=10)
    while not await parking.look():
        pass
    back = [job.place for job in await ledger.backlog.page(flow, after=None, limit=100)]

    assert left == [behind.place]
    assert back == [entry.place for entry in (*parked, behind)]


async def test_a_job_of_a_paused_batch_expires_at_its_deadline(nc: Nats, ledger: Ledger) -> None:
    batch = (await ledger.batches.create(BatchCreate(id=an_id()), "default", now())).id
    entry = an_entry(batch=batch, deadline_ms=Ms(now() + 1500))
    await ledger.intake.admit([entry])
    await ledger.controls.pause(a_pause(PauseKind.BATCH, str(batch)), somebody())
    assert await (await a_parking(nc, ledger)).look()

    async with a_leader(nc, ledger, CATALOG, *BEATS):

        async def has_expired() -> bool:
            job = await ledger.jobs.find(entry.id, "default")
            return job is not None and job.state is State.EXPIRED

        await until(has_expired, "the job expires")


async def test_a_job_that_comes_back_from_a_retry_into_a_paused_batch_is_parked(nc: Nats, ledger: Ledger) -> None:
    batch = (await ledger.batches.create(BatchCreate(id=an_id()), "default", now())).id
    await committed(ledger, an_entry(batch=batch), "d")
    [running] = await ledger.attempts.running()
    await ledger.controls.pause(a_pause(PauseKind.BATCH, str(batch)), somebody())
    parking = await a_parking(nc, ledger)

    back = Verdict(job=running.job, attempt=1, transition=Requeue(now(), counted=False), executed=None)
    await ledger.settlement.settle([back], now=now())
    await parking.look()

    assert await ledger.backlog.page(running.flow, after=None, limit=10) == []


async def test_each_change_is_recorded_once_with_who_made_it(services: Services, ledger: Ledger) -> None:  # noqa: F811
    batch = await a_batch(ledger)
    principal = a_principal(Role.TENANT_ADMIN, tenant="default", key="k7")

    answers = [
        await services.controls.pause(principal, PauseAsk(PauseKind.BATCH, batch, reason))
        for reason in ("too dear", "again")
    ]
    first = await services.controls.pauses(principal)
    resumed = [await services.controls.resume(principal, ResumeAsk(PauseKind.BATCH, batch)) for _ in range(2)]
    page = await services.controls.changes(principal, AuditList())

    assert [answer.changed for answer in (*answers, *resumed)] == [True, False, True, False]
    assert [pause.reason for pause in first.pauses] == ["too dear"]
    assert [(entry.action, entry.tenant, entry.key) for entry in page.entries] == [
        ("resume", "default", "k7"),
        ("pause", "default", "k7"),
    ]
    assert bytes(page.entries[1].target) == b'{"kind": "batch", "name": "%s"}' % batch.encode()
    assert (
        await services.controls.changes(a_principal(Role.TENANT_ADMIN, tenant="other"), AuditList())
    ).entries == ()


@pytest.mark.parametrize(
    ("role", "ask", "code"),
    [
        (Role.PRODUCER, PauseAsk(PauseKind.MODEL, "m"), "forbidden"),
        (Role.PRODUCER, PauseAsk(PauseKind.TENANT, "another"), "forbidden"),
        (Role.PRODUCER, PauseAsk(PauseKind.TENANT, "t"), None),
        (Role.PRODUCER, PauseAsk(PauseKind.BATCH, "of another tenant"), "unknown_batch"),
        (Role.PRODUCER, PauseAsk(PauseKind.BATCH, "no id"), "bad_id"),
        (Role.OPERATOR, PauseAsk(PauseKind.MODEL, "no such model"), "unknown_model"),
        (Role.OPERATOR, PauseAsk(PauseKind.DEPLOYMENT, "none"), "unknown_deployment"),
        (Role.OPERATOR, PauseAsk(PauseKind.LANE, "slow"), "unknown_lane"),
        (Role.OPERATOR, PauseAsk(PauseKind.LANE, "bulk"), None),
        (Role.OPERATOR, PauseAsk(PauseKind.TENANT, "another"), None),
    ],
)
async def test_who_may_pause_what(
    services: Services,  # noqa: F811
    ledger: Ledger,
    role: Role,
    ask: PauseAsk,
    code: str | None,
) -> None:
    if ask.name == "of another tenant":
        ask = PauseAsk(ask.kind, await a_batch(ledger))

    problem = await by_service(services, Verb.PAUSE, a_principal(role), ask)

    assert (problem and problem.code) == code


async def test_a_job_says_that_it_is_paused_by_whom_and_why(services: Services, ledger: Ledger) -> None:  # noqa: F811
    entry = an_entry(tenant="t")
    await ledger.intake.admit([entry])
    operator = a_principal(Role.OPERATOR)

    await services.controls.pause(operator, PauseAsk(PauseKind.LANE, "bulk", "a sale"))
    job, status = await services.jobs.show(operator, JobRef(entry.id)), await services.status.show(operator)
    batch = await services.batches.create(operator, BatchCreate(id=an_id()))
    shown = await services.batches.show(operator, BatchRef(batch.id))

    assert job.waiting is not None
    assert job.waiting.holds[0].message == "the lane bulk is paused by t/k: a sale"
    assert [pause.name for pause in status.pauses] == ["bulk"]
    assert shown.holds == job.waiting.holds[:1]
