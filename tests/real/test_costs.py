"""What executions cost, wherever it is added up: the job, its batch, its result, the deployment's day."""

import asyncio
from collections.abc import Coroutine
from typing import Any
from uuid import UUID

import pytest

from broker.core.records import Final, Ignore
from broker.errors import Unavailable
from broker.ports import Ledger
from schemas.api import State
from schemas.outcome import EngineFault
from tests.builders import an_attempt, an_entry, now
from tests.contract.ledger.test_costs import BOTH, FIRST, SECOND, again, failed, shown, succeeded
from tests.holding import Hand, a_hand
from tests.settling import a_batch, a_verdict, running, settled
from tests.system import until

pytestmark = pytest.mark.real


async def ended_or_waiting(act: "asyncio.Task[Any]", hand: Hand) -> bool:
    return act.done() or len(await hand.waiting()) == 2


async def test_an_attempt_that_is_recorded_while_the_next_one_ends_its_request_costs_too(
    ledger: Ledger, ledger_url: str
) -> None:
    """By two brokers: neither has seen what the other records."""
    other, first = an_attempt(reply_to="x", key="k"), an_attempt(reply_to="x", key="k")
    second = an_attempt(job=first.job, number=2, admitted_ms=first.admitted_ms, reply_to="x", key="k")
    await settled(ledger, a_verdict(other, succeeded(FIRST), interactive=other))
    async with a_hand(ledger_url) as hand:
        await hand.hold("select from infermq.spend where deployment = 'd' for update")
        slow = asyncio.create_task(settled(ledger, a_verdict(first, failed(FIRST), interactive=first)))
        await hand.until_waiting(1)

        ends = a_verdict(second, succeeded(SECOND), interactive=second, deployment="e")
        quick = asyncio.create_task(settled(ledger, ends))
        await until(lambda: ended_or_waiting(quick, hand), "the second has ended or waits")
        await hand.let_go()
        await asyncio.gather(slow, quick)

    job = await shown(ledger, first)
    assert (job.usage, job.cost_nano_usd) == (BOTH, 67)


async def cut_off(url: str, act: Coroutine[Any, Any, object], batch: UUID) -> None:
    """End its connection to Postgres while it waits for the batch, which it counts last."""
    async with a_hand(url) as hand:
        await hand.hold("select from infermq.batches where id = $1 for update", batch)
        acting = asyncio.create_task(act)
        await hand.until_waiting(1)
        await hand.cut_off()
        with pytest.raises(Unavailable):
            await acting


@pytest.mark.parametrize("key", [None, "k"])
async def test_of_an_admission_that_is_cut_off_nothing_stays(
    ledger: Ledger, ledger_url: str, key: str | None
) -> None:
    batch = await a_batch(ledger)
    entry = an_entry(batch=batch.id, idempotency_key=key)

    await cut_off(ledger_url, ledger.intake.admit([entry]), batch.id)

    assert await ledger.jobs.find(entry.id, "default") is None
    assert not await ledger.backlog.heads()
    admitted = await ledger.intake.admit([entry])
    assert [place.job for _, place in admitted.waiting] == [entry.id]


@pytest.mark.parametrize("is_known", [False, True])
async def test_of_a_settlement_that_is_cut_off_nothing_stays(
    ledger: Ledger,
    ledger_url: str,
    is_known: bool,  # noqa: FBT001
) -> None:
    """Known: its execution is recorded already, which shows in the middle of the group."""
    batch = await a_batch(ledger)
    attempt = await running(ledger, batch=batch.id)
    verdict = a_verdict(attempt, failed(FIRST), transition=Final(State.DEAD, None, EngineFault("x")))
    if is_known:
        await ledger.settlement.settle([a_verdict(attempt, failed(FIRST), transition=Ignore())], now=now())
    before = await shown(ledger, attempt), (await ledger.spend.read(now())).today, await ledger.attempts.running()

    await cut_off(ledger_url, ledger.settlement.settle([verdict], now=now()), batch.id)

    assert (
        await shown(ledger, attempt),
        (await ledger.spend.read(now())).today,
        await ledger.attempts.running(),
    ) == before
    assert await settled(ledger, verdict) == [(attempt.job, State.DEAD)]


async def test_a_job_that_is_ended_while_it_is_put_back_does_not_wait_again(ledger: Ledger, ledger_url: str) -> None:
    attempt = await running(ledger)
    async with a_hand(ledger_url) as hand:
        await hand.hold("select from infermq.running where job = $1 for update", attempt.job)
        ending = asyncio.create_task(settled(ledger, a_verdict(attempt, succeeded(FIRST))))
        await hand.until_waiting(1)
        back = asyncio.create_task(ledger.settlement.settle([again(attempt, FIRST, delivery=2)], now=now()))
        await hand.until_waiting(2)

        await hand.let_go()
        done = await asyncio.gather(ending, back)

    assert done[0] == [(attempt.job, State.SUCCEEDED)]
    assert not done[1].requeued
    assert not await ledger.backlog.heads()
