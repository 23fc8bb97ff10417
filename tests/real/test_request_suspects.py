"""Interactive requests that may end their workers: the test calls, and is the workers too."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest
from nats.js.api import RawStreamMsg

from broker.bus.request_suspects import SuspectBucket
from broker.bus.runs import Rulings
from broker.core.presence import DEAD_MS, Presence
from broker.core.relay import Answered, Erred
from broker.core.request_suspects import RequestSuspects
from broker.ports import Ledger
from broker.roles.daily_spend import DailySpend
from broker.roles.relay import Relay
from broker.roles.reserves import Reserves
from schemas import subjects
from schemas.codec import FINAL, KIND, SEQ, Bundle, unpacker
from schemas.jetstream import Message
from schemas.jetstream.client import NatsClient as Nats
from schemas.job import Attempt, Lane
from schemas.ruling import Lost, Ruling
from schemas.worker import BEGINNING, HeldExecution, held_bytes
from tests.builders import SEAL_KEY, a_batch_id, a_beat, a_catalog, an_attempt, an_entry, an_id, now
from tests.declared import declare_streams
from tests.real.test_relay import Listener, end_of
from tests.system import until

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]
_attempts = unpacker(Attempt)
_rulings: Bundle[Ruling] = Bundle(Ruling)


class Bench:
    def __init__(self, nc: Nats, relay: Relay, presence: Presence) -> None:
        self.nc = nc
        self.relay = relay
        self.presence = presence
        self.shared: asyncio.Queue[Attempt] = asyncio.Queue()
        """What any worker may take."""
        self.apart: asyncio.Queue[tuple[str, Attempt]] = asyncio.Queue()
        """What was sent to one worker, with its name."""

    async def listen(self) -> None:
        await self.nc.subscribe(subjects.now("d"), cb=self._take)
        await self.nc.subscribe("infermq.ward.d.*.*", cb=self._take_apart)

    async def _take(self, message: Message) -> None:
        self.shared.put_nowait(_attempts.decode(message.data))

    async def _take_apart(self, message: Message) -> None:
        self.apart.put_nowait((message.subject.rpartition(".")[2], _attempts.decode(message.data)))

    def beat(self, name: str, *holds: Attempt, execution: UUID | None = None, **changes: Any) -> None:
        held = held_bytes(HeldExecution(one.job, one.number, execution or an_id()) for one in holds)
        self.presence.heard(a_beat(name, reserve=8, held=held, started_ms=1, **changes), now())

    def replaced(self, by: str) -> None:
        """All that were there are dead, and another is there."""
        self.presence.passed(DEAD_MS)
        self.beat(by)

    async def ask(self, **changes: Any) -> Listener:
        listener = Listener()
        await self.relay.ask(an_entry(lane=Lane.INTERACTIVE, **changes), listener)
        return listener

    async def taken(self) -> Attempt:
        async with asyncio.timeout(10):
            return await self.shared.get()

    async def taken_apart(self) -> tuple[str, Attempt]:
        async with asyncio.timeout(10):
            return await self.apart.get()

    async def suspected(self) -> tuple[Listener, Attempt]:
        """A request whose worker has died, and that runs apart at `second`."""
        self.beat("first")
        listener = await self.ask()
        self.beat("first", await self.taken())
        self.replaced("second")
        worker, attempt = await self.taken_apart()
        assert (worker, attempt.group) == ("second", attempt.job)
        return listener, attempt

    async def outcomes(self) -> list[RawStreamMsg]:
        js = self.nc.jetstream()
        last = (await js.stream_info(subjects.OUTCOME)).state.last_seq
        return [await js.get_msg(subjects.OUTCOME, sequence) for sequence in range(1, last + 1)]

    async def answer(self, attempt: Attempt) -> None:
        await self.nc.publish(str(attempt.reply_to), b"{}", headers={KIND: FINAL, SEQ: "1"})


@asynccontextmanager
async def a_bench(nc: Nats, ledger: Ledger) -> AsyncIterator[Bench]:
    await declare_streams(nc)
    presence = Presence()
    reserves = Reserves(
        catalog=a_catalog,
        beats=lambda: [a_beat("d", reserve=8)],
        daily_spend=DailySpend(ledger.spend, now),
        clock=now,
        entropy=iter(range(999)).__next__,
        presence=presence,
    )
    rulings = Rulings(nc, a_batch_id, lambda: SEAL_KEY)
    relay = Relay(
        nc,
        name="b",
        reserves=reserves,
        rulings=rulings,
        seal_key=lambda: SEAL_KEY,
        clock=now,
        finish_s=0.05,
        tick_s=0.01,
        presence=presence,
    )
    bench = Bench(nc, relay, presence)
    await bench.listen()
    async with relay.open():
        watching = asyncio.create_task(relay.watch())
        try:
            yield bench
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


async def problem(listener: Listener) -> str:
    end = await end_of(listener)
    assert isinstance(end, Erred)
    return end.problem.code


async def test_a_request_whose_worker_dies_twice_more_alone_is_refused_and_so_are_those_like_it(
    nc: Nats, ledger: Ledger
) -> None:
    async with a_bench(nc, ledger) as bench:
        listener, attempt = await bench.suspected()
        bench.beat("second", attempt, execution=BEGINNING)
        bench.replaced("third")
        worker, again = await bench.taken_apart()
        assert (worker, again.number) == ("third", 3)
        bench.beat("third", again, execution=BEGINNING)
        bench.replaced("fourth")

        assert await problem(listener) == "poison"
        assert await problem(await bench.ask()) == "poison"
        await bench.ask(tenant="other")
        await bench.ask(body_hash=b"another body....")
        assert [(await bench.taken()).group for _ in range(2)] == [None, None]


async def test_a_death_before_a_request_had_begun_does_not_count(nc: Nats, ledger: Ledger) -> None:
    async with a_bench(nc, ledger) as bench:
        listener, _ = await bench.suspected()
        for worker in ("third", "fourth", "fifth"):
            bench.replaced(worker)
            assert (await bench.taken_apart())[0] == worker

        assert not listener.ended.done()


async def test_a_suspected_request_that_is_answered_is_cleared(nc: Nats, ledger: Ledger) -> None:
    async with a_bench(nc, ledger) as bench:
        listener, attempt = await bench.suspected()

        await bench.answer(attempt)

        assert isinstance(await end_of(listener), Answered)
        await bench.ask()
        assert (await bench.taken()).group is None


async def test_only_one_request_of_a_kind_runs_apart_and_the_others_are_told_to_try_again(
    nc: Nats, ledger: Ledger
) -> None:
    async with a_bench(nc, ledger) as bench:
        await bench.suspected()
        bench.beat("third")  # which could run the other one apart, too

        assert await problem(await bench.ask()) == "suspected"


async def test_a_request_that_its_caller_left_is_suspected_too(nc: Nats, ledger: Ledger) -> None:
    async with a_bench(nc, ledger) as bench:
        bench.beat("first")
        await bench.ask()
        attempt = await bench.taken()
        bench.beat("first", attempt)
        await bench.relay.caller_left(attempt.job)
        bench.replaced("second")

        async def is_suspected() -> bool:
            return len(bench.relay.suspects) == 1

        await until(is_suspected, "it is suspected")
        await bench.ask()
        assert (await bench.taken_apart())[0] == "second"


async def test_what_a_dead_worker_ran_of_a_request_is_lost_and_nothing_else_that_it_claims(
    nc: Nats, ledger: Ledger
) -> None:
    async with a_bench(nc, ledger) as bench:
        bench.beat("first")
        await bench.ask()
        attempt = await bench.taken()
        bench.beat("first", attempt, an_attempt())
        bench.replaced("second")
        await bench.taken_apart()

        async def lost() -> list[tuple[UUID, str]]:
            return [
                (one.job, one.worker)
                for message in await bench.outcomes()
                for one in _rulings.unpack(message.data or b"")[0]
                if isinstance(one, Lost)
            ]

        async def there_is() -> bool:
            return bool(await lost())

        await until(there_is, "it is ruled lost")
        assert await lost() == [(attempt.job, "first")]


async def test_a_request_with_a_living_worker_is_not_suspected(nc: Nats, ledger: Ledger) -> None:
    async with a_bench(nc, ledger) as bench:
        bench.beat("first")
        listener = await bench.ask()
        attempt = await bench.taken()
        bench.presence.passed(DEAD_MS)
        bench.beat("second", attempt)
        await asyncio.sleep(0.1)  # the relay looks at the death meanwhile

        await bench.answer(attempt)

        assert isinstance(await end_of(listener), Answered)
        assert len(bench.relay.suspects) == 0


async def test_brokers_share_what_they_suspect_and_one_that_starts_learns_it(nc: Nats) -> None:
    await declare_streams(nc)
    first, second, third = RequestSuspects(), RequestSuspects(), RequestSuspects()
    buckets = [SuspectBucket(nc, one, clock=now) for one in (first, second, third)]
    async with buckets[0].open(), buckets[1].open():
        await buckets[0].tell("a", 1)
        await buckets[0].tell("b", 0)

        async def both() -> bool:
            return (second.deaths_alone("a", now()), second.deaths_alone("b", now())) == (1, 0)

        await until(both, "the other knows")
        await buckets[0].tell("b", None)
        await until(lambda: _is(second.deaths_alone("b", now()) is None), "the other clears it")
        await nc.publish(subjects.suspected_request("c"), b"\xff")
        async with buckets[2].open():
            assert third.deaths_alone("a", now()) == 1
            assert len(third) == 1


async def _is(value: bool) -> bool:  # noqa: FBT001 - a condition
    return value
