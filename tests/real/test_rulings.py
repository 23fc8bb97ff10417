"""Rulings among workers' reports, in OUTCOME and in the ledger."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from nats.aio.client import Client as Nats

from broker.bus.runs import publish_rulings
from broker.bus.streams import declare_streams
from broker.leases import Leases
from broker.ledger import PgLedger
from broker.metrics import Metrics
from broker.settle import Settle
from schemas import subjects
from schemas.api import State
from schemas.catalog import Catalog, Revision
from schemas.codec import bundled, packed
from schemas.job import Attempt
from schemas.ruling import Expire, PutBack
from schemas.units import Ms
from tests.builders import a_report, now
from tests.real.test_ledger import running, state_of
from tests.system import until

pytestmark = pytest.mark.real


@asynccontextmanager
async def a_settle(nc: Nats, ledger: PgLedger) -> AsyncIterator[Metrics]:
    await declare_streams(nc)
    metrics = Metrics()
    settle = Settle(
        nc=nc,
        ledger=ledger,
        revision=lambda: Revision(1, Ms(0), Catalog()),
        alive=list,
        clock=now,
        leases=Leases(nc, beats=list),
        unit=lambda: 0.5,
        metrics=metrics,
    )
    serving = asyncio.create_task(settle.serve())
    try:
        yield metrics
        assert not serving.done()
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def buried(metrics: Metrics, count: int) -> None:
    async def are() -> bool:
        return metrics.registry.get_sample_value("infermq_dead_letters_total") == count

    await until(are, f"{count} messages are dead letters")


async def ended(ledger: PgLedger, attempt: Attempt, state: State) -> None:
    async def has() -> bool:
        return await state_of(ledger, attempt.job) is state

    await until(has, f"the job is {state}")


async def test_rulings_are_settled_among_reports(nc: Nats, ledger: PgLedger) -> None:
    late, left, done = [await running(ledger) for _ in range(3)]

    async with a_settle(nc, ledger):
        await publish_rulings(nc, [Expire(late.job), PutBack(left.job, 1), PutBack(done.job, 2)])
        await nc.jetstream().publish(subjects.outcome("d"), bundled([packed(a_report(job=done.job))]))

        await ended(ledger, late, State.EXPIRED)
        await ended(ledger, left, State.QUEUED)
        await ended(ledger, done, State.SUCCEEDED)


async def test_a_ruling_that_comes_as_a_workers_outcome_is_none(nc: Nats, ledger: PgLedger) -> None:
    attempt = await running(ledger)

    async with a_settle(nc, ledger) as metrics:
        await nc.jetstream().publish(subjects.outcome("d"), bundled([packed(Expire(attempt.job))]))

        await buried(metrics, 1)
        assert await state_of(ledger, attempt.job) is State.RUNNING
