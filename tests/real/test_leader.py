"""Who leads: one broker at a time, until it stops, dies or loses the ledger."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import asyncpg
import pytest

from broker.core.records import ONLY_SHARD, Leadership, Pick, Shard
from broker.errors import Deposed, Unavailable
from broker.ledger.connection import Database
from broker.ledger.leadership import PgLeadership
from broker.metrics import BrokerMetrics
from broker.ports import LeaderLedger, Ledger
from broker.roles.leader import Leader
from schemas.units import Ms
from tests.builders import an_entry, now
from tests.system import until

pytestmark = pytest.mark.real
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


class Refusing(PgLeadership):
    """Counts how often the lease was another's."""

    refused = 0

    async def lead(self, holder: str, *, lease_ms: int, shard: Shard = ONLY_SHARD) -> int | None:
        term = await super().lead(holder, lease_ms=lease_ms, shard=shard)
        self.refused += term is None
        return term


class Away(PgLeadership):
    """Away when the lease is to be renewed for the first time."""

    asked = 0
    answered = 0

    async def lead(self, holder: str, *, lease_ms: int, shard: Shard = ONLY_SHARD) -> int | None:
        self.asked += 1
        if self.asked == 2:
            raise Unavailable("Postgres")
        term = await super().lead(holder, lease_ms=lease_ms, shard=shard)
        self.answered += 1
        return term


class Gone(PgLeadership):
    """Away for good once the lease has been taken."""

    is_asked = False

    async def lead(self, holder: str, *, lease_ms: int, shard: Shard = ONLY_SHARD) -> int | None:
        if self.is_asked:
            raise Unavailable("Postgres")
        self.is_asked = True
        return await super().lead(holder, lease_ms=lease_ms, shard=shard)


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


async def test_a_leader_whose_lease_another_has_taken_stops(ledger: Ledger, ledger_url: str) -> None:
    work, metrics = Work(), BrokerMetrics()
    connection = await asyncpg.connect(ledger_url)
    async with leading(ledger.leadership, work, metrics=metrics):
        await becomes(lambda: bool(work.terms), "it leads")
        assert metrics.registry.get_sample_value("infermq_leading") == 1

        await connection.execute("update infermq.leader set holder = 'b', term = term + 1")

        await becomes(lambda: work.ended == work.terms, "it stops")
        await becomes(lambda: metrics.registry.get_sample_value("infermq_leading") == 0, "it says so")
        assert await ledger.status.leader() == Leadership("b", work.terms[0] + 1)
    await connection.close()


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


async def test_a_leader_renews_its_lease(ledger: Ledger, ledger_url: str) -> None:
    work = Work()
    connection = await asyncpg.connect(ledger_url)
    async with leading(ledger.leadership, work):
        await becomes(lambda: bool(work.terms), "it leads")
        first = await connection.fetchval("select until from infermq.leader")

        async def is_renewed() -> bool:
            return bool(await connection.fetchval("select until > $1 from infermq.leader", first))

        await until(is_renewed, "the lease is renewed")

        assert len(work.terms) == 1
    await connection.close()


async def test_a_leader_that_stops_lets_the_next_lead_at_once(ledger: Ledger) -> None:
    work = Work()
    async with leading(ledger.leadership, work):
        await becomes(lambda: bool(work.terms), "it leads")

    assert await ledger.status.leader() is None
    assert await ledger.leadership.lead("b", lease_ms=HOUR_MS) == work.terms[0] + 1


async def test_one_of_two_leads_and_the_other_follows_it(
    ledger: Ledger, ledger_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    first, second = Work(), Work()
    async with Database.open(ledger_url, connections=1) as database, leading(ledger.leadership, first) as stops:
        others = Refusing(database)
        await becomes(lambda: bool(first.terms), "the first leads")
        async with leading(others, second, holder="b"):
            await becomes(lambda: others.refused > 0, "the second may not lead")
            assert not second.terms

            stops.cancel()

            await becomes(lambda: bool(second.terms), "the second leads")

    assert first.ended == first.terms
    told = [(one.levelno, one.getMessage()) for one in caplog.records if one.getMessage().startswith("leading")]
    assert told == [
        (logging.INFO, "leading term=1"),
        (logging.WARNING, "leading term=2: the broker that led has stopped, or has lost its lease"),
    ]


async def test_without_postgres_a_leader_stops_when_its_lease_has_passed(ledger_url: str) -> None:
    work = Work()
    async with Database.open(ledger_url, connections=1) as database, leading(Gone(database), work, lease_ms=Ms(200)):
        await becomes(lambda: bool(work.terms), "it leads")

        await becomes(lambda: bool(work.ended), "it stops")


async def test_while_postgres_keeps_it_waiting_a_leader_stops_when_its_lease_has_passed(
    ledger: Ledger, ledger_url: str
) -> None:
    work = Work()
    connection = await asyncpg.connect(ledger_url)
    async with leading(ledger.leadership, work, lease_ms=Ms(300)):
        await becomes(lambda: bool(work.terms), "it leads")

        async with connection.transaction():
            await connection.execute("select from infermq.leader for update")
            await becomes(lambda: bool(work.ended), "it stops")
    await connection.close()


async def test_a_moment_without_postgres_deposes_nobody(ledger_url: str) -> None:
    work = Work()
    async with Database.open(ledger_url, connections=1) as database:
        away = Away(database)
        async with leading(away, work):
            await becomes(lambda: away.answered > 2, "it renews its lease again")

            assert len(work.terms) == 1
            assert not work.ended


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
