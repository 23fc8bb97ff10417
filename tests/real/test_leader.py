"""Who leads: one broker at a time, until it stops, dies or loses the ledger."""

import logging

import asyncpg
import pytest

from broker.core.records import ONLY_SHARD, Leadership, Shard
from broker.errors import Unavailable
from broker.ledger.connection import Database
from broker.ledger.leadership import PgLeadership
from broker.metrics import BrokerMetrics
from broker.ports import Ledger
from schemas.units import Ms
from tests.contract.ledger.test_leader import Work, becomes, leading
from tests.system import until

pytestmark = pytest.mark.real


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
