"""Whatever waits says why: to `status`, to `job show` and to the metrics."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import pytest
from msgspec.structs import replace

from broker.client import RequestRefused, RequestTimedOut
from broker.ports import Ledger
from schemas.api import Hold, HoldCode, ModelStatus, PoolStatus, Problem, State, Waiting
from schemas.jetstream.client import NatsClient as Nats
from schemas.job import Lane
from schemas.units import Ms, NanoUsd
from schemas.worker import DENIED, THROTTLED, UPSTREAM_DOWN, Paused, WorkerBeat
from tests.builders import an_entry, now
from tests.real.test_broker import Running, a_broker
from tests.real.test_dispatch import a_beat, execute, spend
from tests.real.test_serving import measures
from tests.system import infermq_here, until
from workers.beat import beat

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]
TWO = """
[models.m]
[[models.m.route]]
deployment = "d"
[[models.m.route]]
deployment = "e"
weight = 0

[deployments.d]
engine = "simulated"
price = { input = 1.0, output = 1.0 }
daily_cap_usd = 2.0
[deployments.e]
engine = "simulated"
"""
DELAY = """
with moved as (delete from infermq.waiting returning *)
insert into infermq.delayed (job, not_before_ms, model, lane, tenant, rank, deadline_ms, attempt, uncounted, tried, tokens)
select job, $1, model, lane, tenant, rank, deadline_ms, 1, uncounted, array['d'], tokens from moved"""
OTHER = TWO.replace("models.m", "models.other")


@pytest.fixture
async def broker(nats_url: str, ledger_url: str, nc: Nats) -> AsyncIterator[Running]:
    async with a_broker(nats_url, ledger_url, nc, refresh_s=0.1) as running:
        await running.client.apply_catalog(TWO)
        yield running


@asynccontextmanager
async def saying(nc: Nats, *states: WorkerBeat) -> AsyncIterator[None]:
    """The beats of workers that take nothing."""
    tasks = [asyncio.create_task(beat(nc, lambda one=one: one)) for one in states]  # type: ignore[misc]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def paused(deployment: str, cause: str, detail: str) -> WorkerBeat:
    state = Paused(cause, detail, Ms(0))
    return replace(a_beat(deployment, slots=0), paused=state)


async def waits(broker: Running, job: UUID, *codes: HoldCode) -> Waiting:
    """Wait until the job is said to wait for just these reasons."""
    found: list[Waiting] = []

    async def it_does() -> bool:
        shown = await broker.shown(job)
        if shown is None or shown.state is not State.QUEUED or shown.waiting is None:
            return False
        found.append(shown.waiting)
        return [hold.code for hold in shown.waiting.holds] == list(codes)

    await until(it_does, f"the job waits for {codes}", within_s=20)
    return found[-1]


async def model_status(broker: Running) -> ModelStatus:
    [model] = [one for one in (await broker.client.status()).models if one.model == "m"]
    return model


async def pool_status(broker: Running, deployment: str) -> PoolStatus:
    [pool] = [one for one in (await broker.client.status()).pools if one.deployment == deployment]
    return pool


async def refused(broker: Running) -> Problem:
    """Why a request is not taken."""
    with pytest.raises(RequestRefused) as caught:
        await broker.client.infer("m", {"messages": [{"role": "user", "content": "hello"}]}, timeout_s=10)
    return caught.value.problem


@pytest.mark.parametrize(
    ("state", "code", "message"),
    [
        (paused("d", DENIED, "401"), HoldCode.DENIED, "denied 401 on d, being tried again"),
        (paused("d", THROTTLED, "429"), HoldCode.THROTTLED, "throttled 429 on d, being tried again"),
        (
            paused("d", UPSTREAM_DOWN, "no connection"),
            HoldCode.UPSTREAM_DOWN,
            "the upstream of d is down (no connection), being tried again",
        ),
        (a_beat("d", draining=True), HoldCode.DRAINING, "every worker of d is draining"),
    ],
    ids=["denied", "throttled", "upstream down", "draining"],
)
async def test_whatever_holds_the_workers_is_said_of_the_deployment_the_model_the_job_and_a_request(
    broker: Running, nc: Nats, state: WorkerBeat, code: HoldCode, message: str
) -> None:
    jobs = [await broker.submit("hello") for _ in range(10)]

    async with saying(nc, state):
        job = await waits(broker, jobs[-1], code, HoldCode.NO_WORKER)
        pool, model = await pool_status(broker, "d"), await model_status(broker)
        refusal = await refused(broker)
        await measures(broker, f'infermq_deployment_held{{deployment="d",reason="{code}"}} 1.0')

    assert [hold.message for hold in job.holds] == [message, "no worker serves e"]
    assert pool.hold == job.holds[0]
    assert (model.deployments, model.holds) == (("d", "e"), job.holds)
    assert model.waiting > 0
    assert refusal.code == code
    assert f"({message}; no worker serves e)" in refusal.message


async def test_where_every_worker_is_full_jobs_say_so_and_a_request_waits(broker: Running, nc: Nats) -> None:
    jobs = [await broker.submit("hello") for _ in range(10)]

    async with saying(nc, replace(a_beat("d", interactive=1), reserve=1, running=5)):
        job = await waits(broker, jobs[-1], HoldCode.BUSY, HoldCode.NO_WORKER)
        with pytest.raises(RequestTimedOut, match="every slot was taken"):
            await broker.client.infer("m", {"messages": [{"role": "user", "content": "hello"}]}, timeout_s=1)

    assert [hold.message for hold in job.holds] == ["every worker of d is full", "no worker serves e"]


async def test_a_daily_cap_that_is_spent_is_said_with_its_end(broker: Running, nc: Nats, ledger: Ledger) -> None:
    await spend(ledger, 1, each=NanoUsd(2 * 10**9))
    id_ = await broker.submit("hello")

    async with saying(nc, a_beat("d")):
        job = await waits(broker, id_, HoldCode.DAILY_CAP, HoldCode.NO_WORKER)
        pool, model = await pool_status(broker, "d"), await model_status(broker)
        refusal = await refused(broker)
        await measures(broker, 'infermq_deployment_held{deployment="d",reason="daily_cap"} 1.0')

    cap = job.holds[0]
    assert cap.message == "daily cap of 2.00 USD spent on d, resumes 00:00 UTC"
    assert cap.until_ms is not None
    assert now() < cap.until_ms <= now() + 86_400_000
    assert (pool.hold, model.holds, model.waiting) == (cap, job.holds, 1)
    assert (refusal.code, cap.message in refusal.message) == ("daily_cap", True)


async def test_without_workers_a_job_says_so_and_with_a_free_one_it_starts(broker: Running, nc: Nats) -> None:
    id_ = await broker.submit("hello")
    await waits(broker, id_, HoldCode.NO_WORKER, HoldCode.NO_WORKER)

    async with saying(nc, a_beat("e")):

        async def runs() -> bool:
            shown = await broker.shown(id_)
            return shown is not None and shown.state is State.RUNNING and shown.waiting is None

        await until(runs, "the job runs")
        assert (await model_status(broker)).holds == ()
        assert (await pool_status(broker, "e")).hold is None


async def test_a_model_that_is_gone_from_the_catalog_is_shown_while_jobs_wait_for_it(broker: Running) -> None:
    id_ = await broker.submit("hello")
    await waits(broker, id_, HoldCode.NO_WORKER, HoldCode.NO_WORKER)

    await broker.client.apply_catalog(OTHER)

    job = await waits(broker, id_, HoldCode.UNKNOWN_MODEL)
    gone = Hold(HoldCode.UNKNOWN_MODEL, "the active catalog has no model m")
    assert job.holds == (gone,)
    assert await model_status(broker) == ModelStatus(model="m", deployments=(), waiting=1, holds=(gone,))


async def test_a_job_that_failed_says_when_it_is_tried_again_and_where_it_was(
    broker: Running, ledger: Ledger, ledger_url: str
) -> None:
    entry, later = an_entry(), Ms(now() + 600_000)
    await ledger.intake.admit([entry])
    await execute(ledger_url, DELAY, later)

    job = await waits(broker, entry.id, HoldCode.BACKING_OFF, HoldCode.NO_WORKER, HoldCode.NO_WORKER)

    assert job.holds[0].until_ms == later
    assert job.tried == ("d",)


async def test_a_job_says_how_many_of_its_flow_come_first_up_to_a_thousand(ledger: Ledger) -> None:
    deadline = Ms(now() + 3_600_000)
    entries = [an_entry(deadline_ms=deadline) for _ in range(1002)]
    others = [an_entry(deadline_ms=Ms(deadline - 1), tenant="t"), an_entry(deadline_ms=Ms(deadline - 1), model="n")]
    await ledger.intake.admit([*entries, *others, an_entry(deadline_ms=Ms(deadline - 1), lane=Lane.STANDARD)])
    urgent = an_entry(deadline_ms=Ms(deadline - 1))
    before = [await ledger.jobs.find(entries[place].id, "default") for place in (0, 7)]

    await ledger.intake.admit([urgent])

    after = [await ledger.jobs.find(entries[place].id, "default") for place in (0, 7, 999, 1000)]
    assert [job and job.waiting for job in before] == [Waiting(ahead=0), Waiting(ahead=7)]
    assert [job and job.waiting for job in after] == [
        Waiting(ahead=1),
        Waiting(ahead=8),
        Waiting(ahead=1000),
        Waiting(ahead=1000, more_ahead=True),
    ]


async def test_the_commands_say_why_in_plain_words(broker: Running, nc: Nats, nats_url: str) -> None:
    first, second = await broker.submit("hello"), await broker.submit("hello")
    message = "denied 401 on d, being tried again"

    async with saying(nc, paused("d", DENIED, "401")):
        await waits(broker, first, HoldCode.DENIED, HoldCode.NO_WORKER)
        await waits(broker, second, HoldCode.DENIED, HoldCode.NO_WORKER)
        said = [
            await asyncio.to_thread(infermq_here, *words, "--nats-url", nats_url)
            for words in (("status",), ("job", "show", str(second)), ("doctor",))
        ]

    status, job, doctor = (ran.stdout for ran in said)
    assert f"d           {message}" in status
    assert f"{message}; no worker serves e" in status
    assert f"waiting   {message}; no worker serves e" in job
    assert "ahead     1 job\n" in job
    assert f"{message}; no worker serves e (2 jobs wait)" in doctor
    assert "mend the key or the account" in doctor
