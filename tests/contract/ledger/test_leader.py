"""Who leads: one broker at a time, until it stops, dies or loses the ledger."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from broker.core.records import Leadership, Pick, Shard
from broker.errors import Deposed
from broker.metrics import BrokerMetrics
from broker.ports import LeaderLedger, Ledger
from broker.roles.leader import Leader
from schemas.units import Ms
from tests.builders import an_entry, now
from tests.system import until

HOUR_MS = Ms(3_600_000)


class Work:
    """What a leader does, and when it began and ended."""

    def __init__(self) -> None:
        self.terms: list[int] = []
        self.ended: list[int] = []

    async def __call__(self, term: int) -> None:
        self.terms.append(term)
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.append(term)


class Deposing(Work):
    """Work that finds at once, in its first term, that the term is over."""

    async def __call__(self, term: int) -> None:
        self.terms.append(term)
        if len(self.terms) == 1:
            raise Deposed("over")
        await asyncio.Event().wait()


@asynccontextmanager
async def leading(
    ledger: LeaderLedger,
    work: Work,
    *,
    holder: str = "a",
    lease_ms: Ms = HOUR_MS,
    metrics: BrokerMetrics | None = None,
) -> AsyncIterator[asyncio.Task[None]]:
    """A broker that tries to lead."""
    leader = Leader(ledger=ledger, holder=holder, metrics=metrics or BrokerMetrics(), lease_ms=lease_ms, renew_s=0.02)
    task = asyncio.create_task(leader.serve(work))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def becomes(holds: Callable[[], bool], what: str) -> None:
    async def it_does() -> bool:
        return holds()

    await until(it_does, what)


async def test_a_leader_that_has_a_new_term_stops_the_work_of_the_old_one(ledger: Ledger) -> None:
    work = Work()
    async with leading(ledger.leadership, work):
        await becomes(lambda: bool(work.terms), "it leads")

        await ledger.leadership.step_down("a", work.terms[0])

        await becomes(lambda: len(work.terms) == 2, "it leads again")
        assert work.ended == work.terms[:1]
        assert work.terms[1] > work.terms[0]


async def test_a_leader_whose_work_finds_it_deposed_may_lead_again(ledger: Ledger) -> None:
    work = Deposing()
    async with leading(ledger.leadership, work):
        await becomes(lambda: len(work.terms) == 2, "it leads again")

    assert work.terms[1] > work.terms[0]


async def test_a_leader_that_stops_lets_the_next_lead_at_once(ledger: Ledger) -> None:
    work = Work()
    async with leading(ledger.leadership, work):
        await becomes(lambda: bool(work.terms), "it leads")

    assert await ledger.status.leader() is None
    assert await ledger.leadership.lead("b", lease_ms=HOUR_MS) == work.terms[0] + 1


async def test_a_lease_that_ran_out_has_a_new_term_for_whoever_takes_it(ledger: Ledger) -> None:
    first = await ledger.leadership.lead("a", lease_ms=0)
    same = await ledger.leadership.lead("a", lease_ms=0)
    other = await ledger.leadership.lead("b", lease_ms=HOUR_MS)

    assert (first, same, other) == (1, 2, 3)


async def test_who_gives_up_an_old_term_leaves_the_new_one_alone(ledger: Ledger) -> None:
    old = await ledger.leadership.lead("a", lease_ms=0)
    assert old is not None
    new = await ledger.leadership.lead("a", lease_ms=HOUR_MS)

    await ledger.leadership.step_down("a", old)

    leader = await ledger.status.leader()
    assert leader is not None
    assert leader.term == new


async def test_a_lease_that_ran_out_is_nobodys(ledger: Ledger) -> None:
    await ledger.leadership.lead("a", lease_ms=0)

    assert await ledger.status.leader() is None


async def test_each_shard_has_a_leader_and_terms_of_its_own(ledger: Ledger) -> None:
    other = Shard(7)
    term = await ledger.leadership.lead("a", lease_ms=HOUR_MS)
    assert term is not None

    await ledger.leadership.lead("b", lease_ms=0, shard=other)
    later = await ledger.leadership.lead("b", lease_ms=HOUR_MS, shard=other)

    assert later == term + 1
    assert await ledger.status.leader() == Leadership("a", term)
    assert await ledger.status.leader(shard=other) == Leadership("b", later)
    await ledger.leadership.step_down("b", later)
    assert await ledger.status.leader(shard=other) == Leadership("b", later)
    await ledger.leadership.step_down("b", later, shard=other)
    assert await ledger.status.leader(shard=other) is None
    assert await ledger.status.leader() == Leadership("a", term)


async def test_the_term_of_another_shard_dispatches_nothing(ledger: Ledger) -> None:
    entry = an_entry()
    await ledger.intake.admit([entry])
    await ledger.leadership.lead("a", lease_ms=0)
    term = await ledger.leadership.lead("a", lease_ms=HOUR_MS)
    other = await ledger.leadership.lead("a", lease_ms=HOUR_MS, shard=Shard(7))
    assert term is not None
    assert other is not None
    pick = Pick(entry.flow, entry.place, "d")

    with pytest.raises(Deposed):
        await ledger.attempts.dispatch([pick], term=other, controls=1, now=now())
    attempts = await ledger.attempts.dispatch([pick], term=term, controls=1, now=now())

    assert [attempt.job for attempt in attempts] == [entry.id]
