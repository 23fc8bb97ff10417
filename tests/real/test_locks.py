"""Two brokers that record the same things at the same moment, each in an order of its own."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar
from uuid import UUID

import pytest
from msgspec.structs import replace

from broker.core.records import Entry, Ignore, Requeue, Verdict
from broker.core.settle import decide
from broker.ledger import open_ledger
from broker.ports import Ledger
from schemas.api import BatchList
from schemas.ids import uuid7
from schemas.job import Attempt
from schemas.outcome import Charge, EngineFault, Failed, Usage
from schemas.ruling import Expire
from schemas.units import Ms, NanoUsd
from tests.builders import a_success, an_attempt, an_entry, an_execution_id, now
from tests.holding import Hand, a_hand
from tests.settling import PRICES, a_batch, a_verdict, dispatched

pytestmark = pytest.mark.real
T = TypeVar("T")
A_JOB = """insert into infermq.jobs (id, tenant, key, lane, model, endpoint, state, max_attempts, admitted_ms,
                                     deadline_ms, body_hash)
           values ($1, 't', 'k', 'bulk', 'm', '/', 'open', 1, 0, 0, '')"""
AN_EXECUTION = """insert into infermq.executions (job, id, attempt, delivery, deployment, worker, outcome, waste,
                      input_tokens, output_tokens, cached_tokens, cost_nano_usd, cost_source, started_ms, queue_ms, run_ms)
                  values ($1, $2, 1, 1, 'd', 'w', 'failed', true, 0, 0, 0, 0, 'none', 0, 0, 0)"""
HELD_RUNNING = "select from infermq.running where job = $1 for update"
A_KEY = "insert into infermq.idempotency (tenant, key, job) values ('default', $1, $2)"


class Brokers:
    """The ledgers of two brokers, and a third hand that holds things up."""

    def __init__(self, ours: Ledger, theirs: Ledger, hand: Hand) -> None:
        self.ours = ours
        self.theirs = theirs
        self.hand = hand

    async def meet(
        self, do: Callable[[Ledger, Sequence[T]], Awaitable[Any]], items: Sequence[T], held: str, *values: object
    ) -> None:
        """Each does it with the items, one forwards and one backwards, once both wait for what is held: where each locks
        in its own order, each then has what the other waits for. Postgres ends that, and it is raised here.
        """
        await self.hand.hold(held, *values)
        both = asyncio.gather(do(self.ours, items), do(self.theirs, items[::-1]))
        await self.hand.until_waiting(2)
        await self.hand.let_go()
        await both


@pytest.fixture
async def brokers(ledger_url: str) -> AsyncIterator[Brokers]:
    async with (
        open_ledger(ledger_url, clock=now, connections=1) as ours,
        open_ledger(ledger_url, clock=now, connections=1) as theirs,
        a_hand(ledger_url) as hand,
    ):
        yield Brokers(ours, theirs, hand)


async def admit(ledger: Ledger, entries: Sequence[Entry]) -> None:
    await ledger.intake.admit(entries)


async def settle(ledger: Ledger, verdicts: Sequence[Verdict]) -> None:
    await ledger.settlement.settle(verdicts, now=now())


async def test_brokers_that_admit_the_same_jobs_never_wait_for_each_other(brokers: Brokers) -> None:
    entries = [an_entry() for _ in range(3)]
    await brokers.ours.intake.admit([an_entry()])

    await brokers.meet(admit, entries, A_JOB, entries[1].id)

    assert len(await brokers.ours.backlog.page(entries[0].flow, after=None, limit=9)) == 4


async def test_brokers_that_admit_some_of_the_same_jobs_never_wait_for_each_other(brokers: Brokers) -> None:
    known, *entries = (an_entry(idempotency_key=f"k{n}") for n in range(4))
    await brokers.ours.intake.admit([known])

    async def admit_own(ledger: Ledger, entries: Sequence[Entry]) -> None:
        """With keys that nobody else has, so that no claim of them makes the other wait."""
        theirs = [replace(entry, idempotency_key=f"{id(ledger)}-{entry.id}") for entry in entries]
        await ledger.intake.admit([known, *theirs])

    await brokers.meet(admit_own, entries, A_JOB, entries[1].id)

    assert len(await brokers.ours.backlog.page(known.flow, after=None, limit=9)) == 4


async def test_a_job_whose_id_becomes_anothers_meanwhile_claims_no_key(brokers: Brokers) -> None:
    entry = an_entry(idempotency_key="k")

    await brokers.hand.hold(A_JOB, entry.id)
    admitting = asyncio.create_task(brokers.ours.intake.admit([entry]))
    await brokers.hand.until_waiting(1)
    await brokers.hand.keep()

    assert (await admitting).conflicts == (entry,)
    assert len((await brokers.ours.intake.admit([an_entry(idempotency_key="k")])).waiting) == 1
    await brokers.hand.do("delete from infermq.jobs where id = $1", entry.id)


async def test_brokers_that_claim_the_same_keys_never_wait_for_each_other(brokers: Brokers) -> None:
    other = an_entry()
    await brokers.ours.intake.admit([other])

    async def claim(ledger: Ledger, keys: Sequence[str]) -> None:
        await ledger.intake.admit([an_entry(idempotency_key=key) for key in keys])

    await brokers.meet(claim, ["k0", "k1", "k2"], A_KEY, "k1", other.id)

    assert len(await brokers.ours.backlog.page(other.flow, after=None, limit=9)) == 4


async def test_of_two_brokers_that_admit_other_jobs_with_one_key_at_once_one_conflicts(brokers: Brokers) -> None:
    other, first = an_entry(), an_entry(idempotency_key="k")
    second = an_entry(idempotency_key="k", body_hash=b"x" * 16)
    await brokers.ours.intake.admit([other])

    await brokers.hand.hold(A_KEY, "k", other.id)
    both = asyncio.gather(brokers.ours.intake.admit([first]), brokers.theirs.intake.admit([second]))
    await brokers.hand.until_waiting(2)
    await brokers.hand.let_go()
    answers = await both

    waiting = {place.job for answer in answers for _, place in answer.waiting}
    refused = {one.job for answer in answers for one in answer.refused}
    assert waiting | refused == {first.id, second.id}
    assert (len(waiting), len(refused)) == (1, 1)
    assert not [entry for answer in answers for entry in answer.conflicts]


async def test_brokers_that_end_the_same_jobs_never_wait_for_each_other(brokers: Brokers) -> None:
    entries = [an_entry() for _ in range(3)]
    await brokers.ours.intake.admit(entries)
    verdicts = [a_verdict(attempt, a_success()) for attempt in await dispatched(brokers.ours, *entries)]

    await brokers.meet(settle, verdicts, HELD_RUNNING, entries[1].id)

    assert not await brokers.ours.attempts.running()


async def test_brokers_that_end_jobs_of_several_days_never_wait_for_each_other(brokers: Brokers) -> None:
    entries = [an_entry(id=uuid7(Ms(now() - n * 24 * 3_600_000), n)) for n in range(3)]
    await brokers.ours.intake.admit(entries)
    verdicts = [a_verdict(attempt, a_success()) for attempt in await dispatched(brokers.ours, *entries)]

    await brokers.meet(settle, verdicts, HELD_RUNNING, entries[1].id)

    assert not await brokers.ours.attempts.running()


async def test_brokers_that_end_the_same_waiting_jobs_never_wait_for_each_other(brokers: Brokers) -> None:
    entries = [an_entry() for _ in range(3)]
    await brokers.ours.intake.admit(entries)
    verdicts = decide([Expire(entry.id) for entry in entries], {}, prices=PRICES, now=now(), unit=0.0)

    held = "select from infermq.waiting where job = $1 for update"
    await brokers.meet(settle, verdicts, held, entries[1].id)

    assert not await brokers.ours.backlog.heads()


async def test_brokers_that_put_the_same_jobs_back_never_wait_for_each_other(brokers: Brokers) -> None:
    entries = [an_entry() for _ in range(3)]
    await brokers.ours.intake.admit(entries)
    back = Requeue(now(), counted=True)
    verdicts = [
        a_verdict(attempt, Failed(EngineFault("x")), transition=back)
        for attempt in await dispatched(brokers.ours, *entries)
    ]

    await brokers.meet(settle, verdicts, HELD_RUNNING, entries[1].id)

    assert not await brokers.ours.attempts.running()


async def test_brokers_that_record_the_same_interactive_jobs_never_wait_for_each_other(brokers: Brokers) -> None:
    attempts = [an_attempt(reply_to="x", key="k") for _ in range(3)]
    verdicts = [a_verdict(attempt, a_success(), interactive=attempt) for attempt in attempts]
    await brokers.ours.intake.admit([an_entry()])

    await brokers.meet(settle, verdicts, A_JOB, attempts[1].job)

    assert (await brokers.ours.spend.read(now())).today["d"].executions == 3


async def test_brokers_that_record_the_same_late_executions_never_wait_for_each_other(brokers: Brokers) -> None:
    entries = [an_entry() for _ in range(3)]
    await brokers.ours.intake.admit(entries)
    attempts = await dispatched(brokers.ours, *entries)
    late = [a_verdict(attempt, Failed(EngineFault("x"), Usage(1, 0)), transition=Ignore()) for attempt in attempts]

    await brokers.meet(settle, late, AN_EXECUTION, entries[1].id, an_execution_id(entries[1].id, 1, 1))

    assert (await brokers.ours.spend.read(now())).today["d"].executions == 3


async def test_brokers_that_charge_the_same_jobs_never_wait_for_each_other(brokers: Brokers) -> None:
    """One many, one a few of them: Postgres makes other plans for either, which depend on the ids."""
    at = now()
    entries = [an_entry(id=uuid7(at, n)) for n in range(300, 360)]
    await brokers.ours.intake.admit(entries)
    attempts = await dispatched(brokers.ours, *entries)

    async def charge(ledger: Ledger, running: Sequence[Attempt]) -> None:
        ours = ledger is brokers.ours
        failed = Failed(EngineFault("x"), Usage(1, 0))
        await settle(
            ledger,
            [
                a_verdict(one, failed, transition=Ignore(), delivery=1 if ours else 2)
                for one in running
                if ours or one.job <= entries[20].id
            ],
        )

    held = "select from infermq.jobs where id = $1 for update"
    await brokers.meet(charge, attempts, held, entries[20].id)

    assert (await brokers.ours.spend.read(now())).today["d"].executions == 60 + 21


async def test_brokers_that_count_in_the_same_batches_never_wait_for_each_other(brokers: Brokers) -> None:
    batches = [(await a_batch(brokers.ours)).id for _ in range(3)]
    await brokers.ours.intake.admit([an_entry()])

    async def fill(ledger: Ledger, ids: Sequence[UUID]) -> None:
        await ledger.intake.admit([an_entry(batch=batch) for batch in ids])

    held = "select from infermq.batches where id = $1 for no key update"
    await brokers.meet(fill, batches, held, batches[1])

    assert [batch.counts.admitted for batch in await brokers.ours.batches.page("default", BatchList(9))] == [2, 2, 2]


async def test_brokers_that_spend_on_the_same_deployments_never_wait_for_each_other(brokers: Brokers) -> None:
    names = ["d0", "d1", "d2"]
    await brokers.ours.intake.admit([an_entry()])

    async def spend(ledger: Ledger, deployments: Sequence[str]) -> None:
        attempts = [an_attempt(reply_to="x", key="k", deployment=name) for name in deployments]
        charged = Charge(NanoUsd(1), "provider")
        ends = a_success(charge=charged)
        await settle(ledger, [a_verdict(one, ends, interactive=one, deployment=one.deployment) for one in attempts])

    await spend(brokers.ours, names)
    held = "select from infermq.spend where deployment = $1 for update"
    await brokers.meet(spend, names, held, "d1")

    assert {
        name: spent.executions for name, spent in (await brokers.ours.spend.read(now())).today.items()
    } == dict.fromkeys(names, 3)


async def test_brokers_with_the_same_work_in_any_order_never_wait_for_each_other(brokers: Brokers) -> None:
    """Whatever comes together in one group: a thousand groups, two of them always at once."""
    batches = [(await a_batch(brokers.ours)).id for _ in range(3)]
    order = random.Random(1)  # noqa: S311 - to be repeated

    async def both(do: Callable[[Ledger, Sequence[T]], Awaitable[Any]], items: Sequence[T]) -> None:
        shuffled = [order.sample(items, len(items)) for _ in range(2)]
        await asyncio.gather(do(brokers.ours, shuffled[0]), do(brokers.theirs, shuffled[1]))

    for n in range(100):
        entries = [
            an_entry(batch=order.choice([None, *batches]), idempotency_key=f"{n}-{i}" if n % 2 else None)
            for i in range(6)
        ]
        await both(admit, entries)
        for outcome in (Failed(EngineFault("x"), Usage(1, 0)), a_success()):
            attempts = await dispatched(brokers.ours, *entries)
            named = [(attempt, f"d{i % 3}") for i, attempt in enumerate(attempts)]
            again = Requeue(now(), counted=True) if isinstance(outcome, Failed) else None
            for delivery in (1, 2):
                await both(
                    settle,
                    [
                        a_verdict(attempt, outcome, transition=again, delivery=delivery, deployment=name)
                        for attempt, name in named
                    ],
                )

    assert not await brokers.ours.attempts.running()
    assert not await brokers.ours.backlog.heads()


async def test_brokers_that_settle_the_same_jobs_differently_never_wait_for_each_other(brokers: Brokers) -> None:
    """One puts back what the other ends: however many statements a group takes, its rows are locked in one order."""
    entries = [an_entry() for _ in range(3)]
    await brokers.ours.intake.admit(entries)
    first, second, third = await dispatched(brokers.ours, *entries)
    [expires] = decide([Expire(second.job)], {}, prices=PRICES, now=now(), unit=0.0)

    async def settle_own(ledger: Ledger, attempts: Sequence[Attempt]) -> None:
        ends, goes_back = attempts
        back = Requeue(now(), counted=True)
        failed = a_verdict(goes_back, Failed(EngineFault("x")), transition=back, delivery=2)
        await settle(ledger, [a_verdict(ends, a_success()), expires, failed])

    await brokers.meet(settle_own, [third, first], HELD_RUNNING, second.job)

    assert not await brokers.ours.attempts.running()


async def test_dispatch_and_settlement_of_the_same_jobs_never_wait_for_each_other(brokers: Brokers) -> None:
    entries = [an_entry() for _ in range(3)]
    await brokers.ours.intake.admit(entries)
    expires = decide([Expire(entry.id) for entry in entries], {}, prices=PRICES, now=now(), unit=0.0)

    async def dispatch_or_settle(ledger: Ledger, these: Sequence[Entry]) -> None:
        if ledger is brokers.ours:
            await dispatched(ledger, *these[::-1])
        else:
            await settle(ledger, expires)

    held = "select from infermq.waiting where job = $1 for update"
    await brokers.meet(dispatch_or_settle, entries, held, entries[1].id)

    assert not await brokers.ours.attempts.running()
    assert not await brokers.ours.backlog.heads()


async def test_a_job_that_is_dispatched_while_it_is_locked_to_be_settled_is_locked_anew(brokers: Brokers) -> None:
    entry = an_entry()
    await brokers.ours.intake.admit([entry])
    expires = decide([Expire(entry.id)], {}, prices=PRICES, now=now(), unit=0.0)
    await brokers.hand.hold("select from infermq.jobs where id = $1 for update", entry.id)
    expiring = asyncio.create_task(settle(brokers.ours, expires))
    await brokers.hand.until_waiting(1)
    [attempt] = await dispatched(brokers.theirs, entry)
    ending = asyncio.create_task(settle(brokers.theirs, [a_verdict(attempt, a_success())]))
    await brokers.hand.until_waiting(2)

    await brokers.hand.let_go()
    await asyncio.gather(expiring, ending)

    assert not await brokers.ours.attempts.running()


async def test_a_usual_end_and_another_verdict_on_the_same_job_never_wait_for_each_other(brokers: Brokers) -> None:
    entry = an_entry()
    await brokers.ours.intake.admit([entry])
    [attempt] = await dispatched(brokers.ours, entry)
    await brokers.hand.hold("select from infermq.jobs where id = $1 for update", entry.id)
    expires = decide([Expire(entry.id)], {}, prices=PRICES, now=now(), unit=0.0)
    expiring = asyncio.create_task(settle(brokers.ours, expires))
    await brokers.hand.until_waiting(1)
    ending = asyncio.create_task(settle(brokers.theirs, [a_verdict(attempt, a_success())]))
    await brokers.hand.until_waiting(2)

    await brokers.hand.let_go()
    await asyncio.gather(expiring, ending)

    assert not await brokers.ours.attempts.running()
