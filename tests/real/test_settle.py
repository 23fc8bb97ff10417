"""The settle role: reports and rulings, from OUTCOME into the ledger."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

import msgspec
import pytest

from broker.bus.runs import Rulings
from broker.bus.streams import declare_streams
from broker.core.settle import decide
from broker.ledger import open_ledger
from broker.metrics import BrokerMetrics
from broker.ports import Ledger
from broker.retrying import until_available
from schemas import subjects
from schemas.api import State
from schemas.codec import bundled, packed
from schemas.jetstream.client import NatsClient as Nats
from schemas.job import Attempt
from schemas.outcome import (
    BadRequest,
    Cancelled,
    Charge,
    EngineFault,
    Expired,
    Failed,
    Outcome,
    Released,
    Report,
    Usage,
)
from schemas.ruling import EndRequest, Expire, PutBack, Ruling
from schemas.units import NanoUsd
from tests.builders import a_batch_id, a_report, a_success, an_attempt, an_entry, now
from tests.real.test_ledger import PRICES, a_batch, dispatched, running, state_of
from tests.reporting import a_settle, report
from tests.system import until

pytestmark = pytest.mark.real


@asynccontextmanager
async def settling(nc: Nats, ledger: Ledger) -> AsyncIterator[BrokerMetrics]:
    """The role at work, which nothing may end."""
    await declare_streams(nc)
    settle = a_settle(nc, ledger)
    serving = asyncio.create_task(settle.serve())
    try:
        yield settle.metrics
        assert not serving.done()
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def buried(metrics: BrokerMetrics, count: int) -> None:
    async def are() -> bool:
        return metrics.registry.get_sample_value("infermq_dead_letters_total") == count

    await until(are, f"{count} messages are dead letters")


async def ended(ledger: Ledger, attempt: Attempt, state: State) -> None:
    async def has() -> bool:
        return await state_of(ledger, attempt.job) is state

    await until(has, f"the job is {state}")


async def test_rulings_are_settled_among_reports(nc: Nats, ledger: Ledger) -> None:
    late, left, done = [await running(ledger) for _ in range(3)]

    async with settling(nc, ledger):
        await Rulings(nc, a_batch_id).publish([Expire(late.job), PutBack(left.job, 1), PutBack(done.job, 2)])
        await report(nc, a_report(job=done.job))

        await ended(ledger, late, State.EXPIRED)
        await ended(ledger, left, State.QUEUED)
        await ended(ledger, done, State.SUCCEEDED)


async def test_a_ruling_that_comes_as_a_workers_outcome_is_none(nc: Nats, ledger: Ledger) -> None:
    attempt = await running(ledger)

    async with settling(nc, ledger) as metrics:
        await nc.jetstream().publish(subjects.outcome("d"), bundled([packed(Expire(attempt.job))]))

        await buried(metrics, 1)
        assert await state_of(ledger, attempt.job) is State.RUNNING


async def test_a_report_that_comes_twice_at_once_costs_once(nc: Nats, ledger: Ledger) -> None:
    attempt = await running(ledger)
    twice = a_report(a_success(charge=Charge(NanoUsd(7), "provider")), job=attempt.job)
    await declare_streams(nc)
    await report(nc, twice, twice)

    async with settling(nc, ledger):
        await ended(ledger, attempt, State.SUCCEEDED)

    shown = await ledger.jobs.find(attempt.job, "default")
    assert shown is not None
    assert shown.cost_nano_usd == 7
    assert (await ledger.spend.read(now())).today["d"].cost_nano_usd == 7


def newer(attempt: Attempt, outcome: dict[str, object], *, interactive: Attempt | None = None) -> bytes:
    """The report of a newer worker."""
    fields = msgspec.to_builtins(a_report(job=attempt.job, interactive=interactive), builtin_types=(UUID, bytes))
    return packed({**fields, "outcome": outcome})


SPENT = {"usage": {"input_tokens": 5, "output_tokens": 2}, "charge": {"nano_usd": 9, "source": "provider"}}


@pytest.mark.parametrize(
    "outcome", [{"type": "failed", "failure": {"type": "preempted"}, **SPENT}, {"type": "preempted", **SPENT}]
)
async def test_what_only_a_newer_worker_knows_is_a_failure_that_costs_and_ends_nobody_else(
    nc: Nats, ledger: Ledger, outcome: dict[str, object]
) -> None:
    unknown, known = [await running(ledger) for _ in range(2)]

    async with settling(nc, ledger) as metrics:
        both = bundled([newer(unknown, outcome), packed(a_report(job=known.job))])
        await nc.jetstream().publish(subjects.outcome("d"), both)

        await ended(ledger, unknown, State.QUEUED)
        await ended(ledger, known, State.SUCCEEDED)
        await buried(metrics, 1)

    shown = await ledger.jobs.find(unknown.job, "default")
    assert shown is not None
    [execution] = shown.executions
    assert (execution.failure, execution.cost_nano_usd) == ("engine_fault", 9)
    assert execution.usage == Usage(5, 2)


async def test_a_request_that_ended_as_only_a_newer_worker_knows_is_recorded_as_its_relay_ruled(
    nc: Nats, ledger: Ledger
) -> None:
    request = an_attempt(reply_to="x", key="k")

    async with settling(nc, ledger) as metrics:
        said = bundled([newer(request, {"type": "preempted"}, interactive=request)])
        await nc.jetstream().publish(subjects.outcome("d"), said)

        await buried(metrics, 1)
        await Rulings(nc, a_batch_id).publish([EndRequest(request, Failed(EngineFault("x")))])

        async def is_recorded() -> bool:
            return await ledger.jobs.find(request.job, request.tenant) is not None

        await until(is_recorded, "the request is recorded")
        job = await ledger.jobs.find(request.job, request.tenant)
        assert job is not None
        assert (job.state, job.failure, len(job.executions)) == (State.FAILED, EngineFault("x"), 1)


@pytest.mark.parametrize("nonsense", [b"\xff", b"\x91\x80", b"\x90", bundled([packed({"job": 1, "outcome": {}})])])
async def test_what_is_no_report_ends_nothing(nc: Nats, ledger: Ledger, nonsense: bytes) -> None:
    attempt = await running(ledger)

    async with settling(nc, ledger):
        await nc.jetstream().publish(subjects.outcome("d"), nonsense)
        await nc.jetstream().publish(subjects.RULING, nonsense)
        await report(nc, a_report(job=attempt.job))

        await ended(ledger, attempt, State.SUCCEEDED)


OUTCOMES: Sequence[Outcome] = (
    a_success(),
    Failed(EngineFault("x"), Usage(3, 1)),
    Failed(BadRequest("x"), Usage(2, 0)),
    Expired(Usage(1, 1)),
    Cancelled(Usage(1, 2)),
    Released(Usage(4, 0)),
)


def a_word(order: random.Random, attempt: Attempt) -> Report | Ruling:
    """Something that is said of a job, at random."""
    match order.randrange(8):
        case 0:
            return Expire(attempt.job)
        case 1:
            return PutBack(attempt.job, attempt.number)
        case _:
            return a_report(
                order.choice(OUTCOMES), job=attempt.job, attempt=attempt.number, delivery=order.randint(1, 2)
            )


async def test_any_reports_and_rulings_in_any_order_end_a_job_once(ledger: Ledger, ledger_url: str) -> None:
    """Two brokers settle them, in groups that come twice and in another order. What the ledger holds in the end agrees
    with itself: that is checked after each test.
    """
    order = random.Random(7)  # noqa: S311 - to be repeated
    batch = await a_batch(ledger)
    told: set[tuple[UUID, int, int]] = set()

    async def settle(broker: Ledger, items: Sequence[Report | Ruling]) -> None:
        jobs = await broker.settlement.open_jobs({item.job for item in items})
        verdicts = decide(items, jobs, prices=PRICES, alive=("d",), now=now(), unit=0.0)
        await until_available(lambda: broker.settlement.settle(verdicts, now=now()))

    async with open_ledger(ledger_url, clock=now, connections=2) as other:
        for _ in range(25):
            entries = [an_entry(batch=order.choice([None, batch.id])) for _ in range(5)]
            await ledger.intake.admit(entries)
            for _ in range(3):
                attempts = await dispatched(ledger, *entries)
                items = [a_word(order, one) for one in attempts for _ in range(order.randint(0, 3))]
                told |= {(one.job, one.attempt, one.delivery) for one in items if isinstance(one, Report)}
                await asyncio.gather(
                    *(settle(broker, order.sample(items, len(items))) for broker in (ledger, other) if items)
                )

    shown = [await ledger.jobs.find(job, "default") for job in {job for job, _, _ in told}]
    executions = {(one.id, run.attempt, run.delivery) for one in shown if one is not None for run in one.executions}
    assert executions == told
