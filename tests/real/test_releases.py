"""What dead workers held is delivered again; the test is the workers, and says when time passes."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from broker.bus.runs import Rulings, Runs
from broker.core.presence import DEAD_MS, QUIET_MS, Presence
from broker.metrics import BrokerMetrics
from broker.ports import Ledger
from broker.roles.releases import Releases
from schemas import subjects
from schemas.catalog import Route
from schemas.codec import Bundle
from schemas.jetstream import Message
from schemas.jetstream.client import NatsClient as Nats
from schemas.jetstream.pull import delivered, next_request, next_subject
from schemas.job import Attempt
from schemas.ruling import Lost, Ruling
from schemas.units import Ms
from schemas.worker import HeldExecution, WorkerBeat, held_bytes
from tests.builders import SEAL_KEY, a_batch_id, a_beat, a_report, a_route, a_success, a_worker, an_id, now
from tests.declared import declare_pool, declare_streams
from tests.reporting import report
from tests.settling import a_verdict, running, settled
from tests.system import until

pytestmark = pytest.mark.real
_rulings: Bundle[Ruling] = Bundle(Ruling)


class Worker:
    """One that takes what it is told to, and says what it holds when it is told to."""

    def __init__(self, nc: Nats, presence: Presence, name: str, *, deployment: str) -> None:
        self.nc = nc
        self.presence = presence
        self.name = name
        self.deployment = deployment
        self.got: list[Message] = []
        self._started_ms = now()

    async def take(self, count: int) -> Sequence[Message]:
        """Take the next messages."""
        inbox, before = self.nc.new_inbox(), len(self.got)
        await self.nc.subscribe(inbox, cb=self._take)
        pull = next_request(count, expires_ms=Ms(30_000), heartbeat_ms=Ms(5_000))
        await self.nc.publish(next_subject(subjects.RUN, subjects.pool_consumer("d")), pull, inbox)

        async def all_are_there() -> bool:
            return len(self.got) == before + count

        await until(all_are_there, f"{self.name} has {count}")
        return self.got[before:]

    async def _take(self, message: Message) -> None:
        if message.reply:
            self.got.append(message)

    def beat(self, *holds: Attempt, **changes: Any) -> WorkerBeat:
        """Send a beat that names what it holds."""
        held = held_bytes(HeldExecution(one.job, one.number, an_id()) for one in holds)
        beat = a_beat(self.name, deployment=self.deployment, started_ms=self._started_ms, held=held, **changes)
        self.presence.heard(beat, now())
        return beat


class Case:
    def __init__(self, nc: Nats, ledger: Ledger, releases: Releases) -> None:
        self.nc = nc
        self.ledger = ledger
        self.releases = releases
        self.presence = releases.presence

    def worker(self, name: str, *, deployment: str = "d") -> Worker:
        return Worker(self.nc, self.presence, name, deployment=deployment)

    async def attempts(self, count: int) -> list[Attempt]:
        """Dispatch some."""
        found = [await running(self.ledger) for _ in range(count)]
        assert await Runs(self.nc).publish(found)
        return found

    async def look(self) -> None:
        await self.releases.look()
        await self.nc.flush()

    def released(self) -> float | None:
        return self.releases.metrics.registry.get_sample_value("infermq_leases_released_total")

    async def unacked(self) -> int:
        return int((await self.nc.jetstream().consumer_info(subjects.RUN, "d")).num_ack_pending or 0)

    async def left(self) -> int:
        return (await self.nc.jetstream().stream_info(subjects.RUN)).state.messages

    async def rulings(self) -> list[Ruling]:
        """What has been ruled so far."""
        last = (await self.nc.jetstream().stream_info(subjects.OUTCOME)).state.last_seq
        messages = [await self.nc.jetstream().get_msg(subjects.OUTCOME, seq) for seq in range(1, last + 1)]
        return [
            one
            for message in messages
            if message.subject == subjects.RULING
            for one in _rulings.unpack(message.data or b"")[0]
        ]


@asynccontextmanager
async def a_case(nc: Nats, ledger: Ledger) -> AsyncIterator[Case]:
    await declare_streams(nc)
    await declare_pool(nc, "d", slots=8, lease_s=3600)
    catalog = a_route(Route("d"))
    releases = Releases(
        nc=nc,
        presence=Presence(),
        attempts=ledger.attempts,
        rulings=Rulings(nc, a_batch_id, lambda: SEAL_KEY),
        catalog=lambda: catalog,
        metrics=BrokerMetrics(),
        look_s=0.001,
    )
    yield Case(nc, ledger, releases)


def sequences(messages: Sequence[Message]) -> list[tuple[int, int]]:
    """Which messages, and how often each has been delivered."""
    return sorted((one.sequence, one.deliveries) for one in (delivered(message.reply) for message in messages))


async def test_what_a_dead_worker_held_is_delivered_again_and_nothing_else(nc: Nats, ledger: Ledger) -> None:
    async with a_case(nc, ledger) as case:
        mine, theirs, unknown = await case.attempts(3)
        dies, lives = case.worker("dies"), case.worker("lives")
        await dies.take(1)
        await lives.take(1)
        await dies.take(1)  # after its last beat
        lives.beat(theirs)
        dies.beat(mine)
        case.presence.passed(QUIET_MS)
        lives.beat(theirs)
        await case.look()  # sets the mark
        case.presence.passed(DEAD_MS - QUIET_MS)
        lives.beat(theirs)
        await case.look()
        assert case.released() == 0
        lives.beat(theirs)

        await case.look()

        assert sequences(await lives.take(2)) == [(1, 2), (3, 2)]
        assert unknown.job not in {one.job for one in await case.rulings()}


async def test_what_is_on_its_way_to_a_living_worker_is_left_to_it(nc: Nats, ledger: Ledger) -> None:
    async with a_case(nc, ledger) as case:
        [mine] = await case.attempts(1)
        dies, lives = case.worker("dies"), case.worker("lives")
        dies.beat()
        lives.beat()
        case.presence.passed(DEAD_MS - 1)
        lives.beat()
        await case.look()
        case.presence.passed(1)
        await lives.take(1)  # since the mark
        for _ in range(3):
            lives.beat()  # and it is not said to be held yet
            await case.look()

        assert case.released() == 0
        lives.beat(mine)
        await case.look()
        assert case.released() == 0


async def test_what_reached_nobody_since_a_worker_reconnected_is_delivered_again(nc: Nats, ledger: Ledger) -> None:
    async with a_case(nc, ledger) as case:
        [held, _] = await case.attempts(2)
        lives = case.worker("lives")
        await lives.take(2)
        lives.beat(held)
        await case.look()
        lives.beat(held, reconnects=1)
        await case.look()
        for _ in range(2):
            lives.beat(held, reconnects=1)

        await case.look()

        assert sequences(await lives.take(1)) == [(2, 2)]


async def test_a_worker_that_says_that_it_reconnected_before_the_term_is_no_news(nc: Nats, ledger: Ledger) -> None:
    async with a_case(nc, ledger) as case:
        await case.attempts(1)
        lives = case.worker("lives")
        await lives.take(1)
        for _ in range(4):
            lives.beat(reconnects=7)
            await case.look()

        assert await case.unacked() == 1
        lives.beat(reconnects=8)
        await case.look()
        assert "wanted=['d']" in repr(case.releases)


async def test_what_was_reported_is_not_delivered_again(nc: Nats, ledger: Ledger) -> None:
    async with a_case(nc, ledger) as case:
        over, waits, again = await case.attempts(3)
        dies = case.worker("dies")
        await dies.take(3)
        dies.beat(over, waits, again)
        await settled(ledger, a_verdict(over, a_success()))
        await report(nc, a_report(a_success(), job=waits.job, attempt=1))  # nobody settles it
        case.presence.passed(DEAD_MS)
        await case.look()
        await case.look()

        heir = case.worker("heir")

        assert sequences(await heir.take(1)) == [(3, 2)]
        assert await case.left() == 2
        assert await case.unacked() == 2


async def test_an_unsettled_report_is_looked_at_again(nc: Nats, ledger: Ledger) -> None:
    async with a_case(nc, ledger) as case:
        [waits] = await case.attempts(1)
        dies, lives = case.worker("dies"), case.worker("lives")
        await dies.take(1)
        dies.beat(waits)
        await report(nc, a_report(a_success(), job=waits.job, attempt=1))
        case.presence.passed(DEAD_MS)
        for _ in range(4):
            lives.beat()
            await case.look()
        assert await case.left() == 1

        await settled(ledger, a_verdict(waits, a_success()))
        await nc.jetstream().purge_stream(subjects.OUTCOME)  # it is settled
        for _ in range(4):
            lives.beat()
            await case.look()

        assert await case.left() == 0


async def test_what_is_delivered_again_to_nobody_is_delivered_once_more(nc: Nats, ledger: Ledger) -> None:
    async with a_case(nc, ledger) as case:
        await case.attempts(1)
        dies, lives = case.worker("dies"), case.worker("lives")
        await dies.take(1)
        dies.beat()
        case.presence.passed(DEAD_MS)
        lives.beat()
        deaf = asyncio.create_task(dies.take(1))  # the server has not noticed yet that it is gone
        for _ in range(4):
            lives.beat()
            await case.look()
        await deaf
        for _ in range(4):
            lives.beat()
            await case.look()

        assert sequences(await lives.take(1)) == [(1, 3)]


async def test_what_waits_for_a_free_slot_is_not_released_again_and_again(nc: Nats, ledger: Ledger) -> None:
    async with a_case(nc, ledger) as case:
        await case.attempts(1)
        dies, lives = case.worker("dies"), case.worker("lives")
        await dies.take(1)
        dies.beat()
        case.presence.passed(DEAD_MS)
        for _ in range(12):
            lives.beat()
            await case.look()

        assert case.released() == 1
        assert sequences(await lives.take(1)) == [(1, 2)]


async def test_each_execution_of_a_dead_worker_is_ruled_lost_once(nc: Nats, ledger: Ledger) -> None:
    async with a_case(nc, ledger) as case:
        attempts = await case.attempts(2)
        dies, leaves = case.worker("dies"), case.worker("leaves")
        dies.beat(*attempts)
        leaves.beat(*attempts)

        case.presence.said_goodbye(a_worker("leaves"))
        case.presence.passed(DEAD_MS)
        for _ in range(3):
            await case.look()

        rulings = await case.rulings()
        assert {(one.job, one.worker, one.deployment) for one in rulings if isinstance(one, Lost)} == {
            (attempt.job, "dies", "d") for attempt in attempts
        }
        assert len(rulings) == 2


async def test_what_a_worker_of_another_deployment_claims_keeps_nothing_from_its_own(
    nc: Nats, ledger: Ledger
) -> None:
    async with a_case(nc, ledger) as case:
        [attempt] = await case.attempts(1)
        dies, claims, heir = case.worker("dies"), case.worker("dies", deployment="e"), case.worker("heir")
        await dies.take(1)
        dies.beat(attempt)
        case.presence.passed(DEAD_MS)
        for _ in range(4):
            claims.beat(attempt)
            heir.beat()
            await case.look()

        assert sequences(await heir.take(1)) == [(1, 2)]


async def test_what_a_worker_of_another_deployment_claims_is_not_lost_with_it(nc: Nats, ledger: Ledger) -> None:
    async with a_case(nc, ledger) as case:
        [attempt] = await case.attempts(1)
        lives, claims = case.worker("lives"), case.worker("claims", deployment="e")
        await lives.take(1)
        claims.beat(attempt)
        case.presence.passed(DEAD_MS)
        lives.beat(attempt)
        for _ in range(3):
            await case.look()

        assert [gone.has_died for gone in case.presence.departed] == [True]
        assert await case.rulings() == []


async def test_a_worker_that_was_only_cut_off_may_die_later(nc: Nats, ledger: Ledger) -> None:
    async with a_case(nc, ledger) as case:
        [attempt] = await case.attempts(1)
        worker = case.worker("w")
        for _ in range(2):
            worker.beat(attempt)
            case.presence.passed(DEAD_MS)
            await case.look()
            worker.beat(attempt)
            await case.look()

        assert len(await case.rulings()) == 2


async def test_a_broker_that_does_not_know_all_workers_yet_releases_nothing(nc: Nats, ledger: Ledger) -> None:
    async with a_case(nc, ledger) as case:
        await case.attempts(1)
        lives = case.worker("lives")
        await lives.take(1)
        case.presence.passed(DEAD_MS - 1)

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await case.releases.serve()

        assert case.released() == 0


async def test_a_term_begins_with_a_look_at_every_deployment(nc: Nats, ledger: Ledger) -> None:
    async with a_case(nc, ledger) as case:
        held, _ = await case.attempts(2)
        lives, dead = case.worker("lives"), case.worker("dead")
        await lives.take(1)
        await dead.take(1)
        case.presence.passed(DEAD_MS)
        lives.beat(held)
        serving = asyncio.create_task(case.releases.serve())
        try:

            async def is_marked() -> bool:
                return "marked=['d']" in repr(case.releases)

            await until(is_marked, "there is a mark")
            for _ in range(2):
                lives.beat(held)

            assert sequences(await lives.take(1)) == [(2, 2)]
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)


async def test_a_deployment_that_never_had_a_consumer_is_no_error(nc: Nats, ledger: Ledger) -> None:
    async with a_case(nc, ledger) as case:
        await nc.jetstream().delete_consumer(subjects.RUN, "d")
        case.worker("dies").beat()
        case.presence.passed(DEAD_MS)

        await case.look()

        assert "wanted=[]" in repr(case.releases)
