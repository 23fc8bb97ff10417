"""All that is recorded of jobs, results and workers is shown, and in order."""

from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from msgspec import Raw
from msgspec.structs import replace

from broker.core.records import Entry, Final, Requeue, Verdict
from broker.ports import Ledger
from schemas.api import Execution, JobShow, Result, State, Waiting
from schemas.jetstream.client import NatsClient as Nats
from schemas.job import Attempt, Lane
from schemas.outcome import BadRequest, EngineFault, Failed, Outcome, Timings, Usage
from schemas.units import Ms, NanoUsd
from tests.builders import a_success, an_entry, an_execution_id, now
from tests.real.test_broker import Running, a_broker
from tests.real.test_dispatch import a_beat
from tests.settling import a_batch, a_verdict, dispatched
from tests.system import until
from workers.beat import publish_beat

pytestmark = pytest.mark.real
TIMES = Timings(started_ms=Ms(1_000), queue_ms=Ms(5), run_ms=Ms(50), ttft_ms=Ms(10))


async def a_full_entry(ledger: Ledger) -> Entry:
    """With all that a job can have."""
    return an_entry(
        batch=(await a_batch(ledger)).id,
        lane=Lane.BULK,
        line=7,
        custom_id="c",
        metadata={"k": "v"},
        max_attempts=5,
        admitted_ms=Ms(now() - 60_000),
    )


def as_it_waits(entry: Entry) -> JobShow:
    return JobShow(
        id=entry.id,
        state=State.QUEUED,
        lane=entry.lane,
        model=entry.model,
        endpoint=entry.endpoint,
        batch=entry.batch,
        line=entry.line,
        custom_id=entry.custom_id,
        attempt=0,
        max_attempts=entry.max_attempts,
        admitted_ms=entry.admitted_ms,
        deadline_ms=entry.deadline_ms,
        dispatched_ms=None,
        settled_ms=None,
        not_before_ms=None,
        failure=None,
        usage=Usage(),
        cost_nano_usd=NanoUsd(0),
        metadata=entry.metadata or {},
        executions=(),
        body=Raw(b"null"),
        waiting=Waiting(ahead=0),
    )


def an_execution(job: UUID, attempt: int, outcome: str, usage: Usage, cost: int, **changes: object) -> Execution:
    execution = Execution(
        id=an_execution_id(job, attempt, 1),
        attempt=attempt,
        delivery=1,
        deployment="d",
        worker="w",
        outcome=outcome,
        failure=None,
        waste=False,
        usage=usage,
        cost_nano_usd=NanoUsd(cost),
        cost_source="catalog:1",
        started_ms=TIMES.started_ms,
        queue_ms=TIMES.queue_ms,
        ttft_ms=TIMES.ttft_ms,
        run_ms=TIMES.run_ms,
    )
    return replace(execution, **changes)


def on(attempt: Attempt, outcome: Outcome, transition: Requeue | None = None) -> Verdict:
    verdict = a_verdict(attempt, outcome, transition=transition, timings=TIMES)
    assert verdict.executed is not None
    return replace(verdict, executed=replace(verdict.executed, started_ms=TIMES.started_ms))


async def test_a_job_is_shown_as_it_waits_runs_is_put_back_and_ends(ledger: Ledger) -> None:
    entry = await a_full_entry(ledger)
    seen = []

    async def look() -> None:
        seen.append(await ledger.jobs.find(entry.id, "default"))

    await ledger.intake.admit([entry])
    await look()
    [first] = await dispatched(ledger, entry)
    await look()
    later = Ms(now() + 5_000)
    failed = Failed(EngineFault("x"), Usage(1, 2, 1))
    await ledger.settlement.settle([on(first, failed, Requeue(later, counted=True))], now=now())
    await look()
    await ledger.backlog.move_due(later, limit=1)
    [second] = await dispatched(ledger, entry)
    ended_ms = Ms(now() + 1)
    await ledger.settlement.settle([on(second, a_success(body=b'"said"', usage=Usage(10, 20, 5)))], now=ended_ms)
    await look()

    waits = as_it_waits(entry)
    runs = replace(waits, waiting=None, state=State.RUNNING, attempt=1, dispatched_ms=first.dispatched_ms)
    again = replace(
        waits,
        attempt=1,
        not_before_ms=later,
        usage=Usage(1, 2, 1),
        cost_nano_usd=NanoUsd(5_000),
        executions=(an_execution(entry.id, 1, "failed", Usage(1, 2, 1), 5_000, failure="engine_fault", waste=True),),
    )
    ended = replace(
        waits,
        waiting=None,
        state=State.SUCCEEDED,
        attempt=2,
        settled_ms=ended_ms,
        usage=Usage(11, 22, 6),
        cost_nano_usd=NanoUsd(55_000),
        executions=(*again.executions, an_execution(entry.id, 2, "succeeded", Usage(10, 20, 5), 50_000)),
        body=Raw(b'"said"'),
    )
    assert seen == [waits, runs, again, ended]


@pytest.mark.parametrize(
    "outcome",
    [a_success(body=b'"said"', usage=Usage(10, 20, 5)), Failed(BadRequest("no"), Usage(10, 20, 5))],
    ids=["succeeded", "failed"],
)
async def test_a_result_says_all_that_is_recorded_of_its_job(ledger: Ledger, outcome: Outcome) -> None:
    entry = await a_full_entry(ledger)
    assert entry.batch is not None
    await ledger.intake.admit([entry])
    [first] = await dispatched(ledger, entry)
    back = a_verdict(first, Failed(EngineFault("x"), Usage(1, 0)), transition=Requeue(now(), counted=True))
    await ledger.settlement.settle([back], now=now())
    [second] = await dispatched(ledger, entry)
    ends = Final(State.FAILED, None, outcome.failure) if isinstance(outcome, Failed) else None
    await ledger.settlement.settle([a_verdict(second, outcome, transition=ends)], now=Ms(entry.admitted_ms + 90_000))

    page = await ledger.batches.results(entry.batch, "default", None, 10)

    assert page is not None
    assert page.results == (
        Result(
            job=entry.id,
            custom_id="c",
            line=7,
            state=State.FAILED if isinstance(outcome, Failed) else State.SUCCEEDED,
            model=entry.model,
            body=Raw(b"null") if isinstance(outcome, Failed) else Raw(b'"said"'),
            failure=outcome.failure if isinstance(outcome, Failed) else None,
            usage=Usage(11, 20, 5),
            cost_nano_usd=NanoUsd(51_000),
            attempts=2,
            total_ms=Ms(90_000),
        ),
    )


@pytest.fixture
async def system(nats_url: str, ledger_url: str, nc: Nats) -> AsyncIterator[Running]:
    async with a_broker(nats_url, ledger_url, nc) as broker:
        yield broker


async def test_the_workers_are_shown_by_deployment_and_name(system: Running, nc: Nats) -> None:
    names = [("e", "w2"), ("d", "w3"), ("e", "w1"), ("d", "w4")]
    for deployment, worker in names:
        await publish_beat(nc, replace(a_beat(deployment), worker=worker))

    async def all_heard() -> bool:
        return len((await system.client.status()).workers) == len(names)

    await until(all_heard, "all are heard of")
    shown = [(worker.deployment, worker.worker) for worker in (await system.client.status()).workers]
    assert shown == sorted(names)


async def test_a_job_that_waits_among_others_is_shown_as_it_waits_itself(ledger: Ledger) -> None:
    deadline = Ms(now() + 3_600_000)
    entries = [an_entry(deadline_ms=deadline) for _ in range(3)]
    await ledger.intake.admit(entries)
    [attempt] = await dispatched(ledger, entries[1])
    later = Requeue(Ms(now() + 60_000), counted=True)
    await ledger.settlement.settle([a_verdict(attempt, Failed(EngineFault("x")), transition=later)], now=now())

    shown = [await ledger.jobs.find(entry.id, "default") for entry in entries]

    assert [one and (one.id, one.attempt, one.not_before_ms) for one in shown] == [
        (entries[0].id, 0, None),
        (entries[1].id, 1, later.not_before_ms),
        (entries[2].id, 0, None),
    ]
