"""The settle role: reports and rulings, from OUTCOME into the ledger."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

import msgspec
import pytest

from broker.bus.runs import Rulings
from broker.ledger import open_ledger
from broker.metrics import BrokerMetrics
from broker.ports import Ledger
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
from schemas.ruling import EndRequest, Expire, Lost, PutBack, Ruling
from schemas.units import NanoUsd
from tests.builders import SEAL_KEY, a_batch_id, a_report, a_success, an_attempt, an_entry, an_id, now
from tests.contract.ledger.test_executions import settle as settle_group
from tests.contract.ledger.test_executions import what_was_lost
from tests.declared import declare_streams
from tests.reporting import a_settle, report
from tests.settling import a_batch, dispatched, running, state_of
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
        await Rulings(nc, a_batch_id, lambda: SEAL_KEY).publish(
            [Expire(late.job), PutBack(left.job, 1), PutBack(done.job, 2)]
        )
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
        await Rulings(nc, a_batch_id, lambda: SEAL_KEY).publish([EndRequest(request, Failed(EngineFault("x")))])

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


def words_on(order: random.Random, attempt: Attempt) -> list[Report | Ruling]:
    """What is said of an attempt, at random: some of it twice, and some executions are thought lost."""
    items: list[Report | Ruling] = []
    for _ in range(order.randint(0, 3)):
        said = a_report(order.choice(OUTCOMES), job=attempt.job, attempt=attempt.number, execution=an_id())
        items += [said] * order.choice([0, 1, 1, 1, 2])
        items += [what_was_lost(said)] * order.choice([0, 0, 1, 2])
    items += order.choices([Expire(attempt.job), PutBack(attempt.job, attempt.number)], k=order.choice([0, 0, 1]))
    return items


def groups_of(order: random.Random, items: Sequence[Report | Ruling]) -> list[list[Report | Ruling]]:
    """The items, in groups of any size and in any order; some come in two of them."""
    mixed = order.sample(items, len(items)) + order.sample(items, len(items) // 3)
    ends = sorted(order.sample(range(len(mixed) + 1), min(3, len(mixed) + 1)))
    return [group for low, high in itertools.pairwise([0, *ends, len(mixed)]) if (group := mixed[low:high])]


async def test_any_reports_and_rulings_in_any_order_end_a_job_once(ledger: Ledger, ledger_url: str) -> None:
    """Two brokers settle them, in groups that come twice and in another order, and never wait for each other. Each
    execution is recorded once, as its report says if one came. What the ledger holds in the end agrees with itself: that
    is checked after each test.
    """
    order = random.Random(7)  # noqa: S311 - to be repeated
    batch = await a_batch(ledger)
    outcomes: dict[UUID, str] = {}
    jobs: set[UUID] = set()

    async with open_ledger(ledger_url, clock=now, connections=2) as other:
        for _ in range(40):
            entries = [an_entry(batch=order.choice([None, batch.id])) for _ in range(5)]
            jobs |= {entry.id for entry in entries}
            await ledger.intake.admit(entries)
            late: list[Report | Ruling] = []
            for _ in range(3):
                attempts = await dispatched(ledger, *entries)
                items = late + [item for one in attempts for item in words_on(order, one)]
                late = [item for item in items if order.random() < 0.2]
                outcomes |= {one.execution: "lost" for one in items if isinstance(one, Lost)} | outcomes
                outcomes |= {one.execution: tag_of(one.outcome) for one in items if isinstance(one, Report)}
                groups = groups_of(order, items)
                for ours, theirs in itertools.zip_longest(groups[::2], groups[1::2], fillvalue=()):
                    await asyncio.gather(settle_group(ledger, *ours), settle_group(other, *theirs))

    shown = [job for one in jobs if (job := await ledger.jobs.find(one, "default")) is not None]
    assert {run.id: run.outcome for job in shown for run in job.executions} == outcomes
    assert len({run.id for job in shown for run in job.executions}) == sum(len(job.executions) for job in shown)


def tag_of(outcome: Outcome) -> str:
    return str(outcome.__struct_config__.tag)
