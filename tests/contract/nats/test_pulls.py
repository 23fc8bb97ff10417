"""Pulls that are lost on their way, of brokers and of workers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from broker.bus.groups import Groups, ack_all
from broker.bus.runs import Runs
from schemas import subjects
from schemas.jetstream import Message, NatsConnection, progress_of
from tests.builders import an_attempt
from tests.contract.nats.asking import done, stored
from tests.contract.nats.ways import Way
from tests.declared import declare_pool, declare_streams
from tests.system import until
from workers.puller import Puller

pytestmark = pytest.mark.timeout(60)


@asynccontextmanager
async def settle_groups(way: Way, *, room: int = 10, silence_s: float = 60.0) -> AsyncIterator[Groups]:
    """What settle pulls, over a way that may lose it."""
    nc = await way.connect(max_reconnect_attempts=-1)
    await declare_streams(nc)
    groups = Groups(
        nc,
        stream=subjects.OUTCOME,
        consumer=subjects.SETTLE_CONSUMER,
        room=room,
        group_bytes=1_000_000,
        silence_s=silence_s,
    )
    async with groups.open():
        await nc.flush()  # a pull that is lost takes nothing else along
        yield groups


@asynccontextmanager
async def a_puller(
    way: Way, came: list[Message], *, silence_s: float = 60.0
) -> AsyncIterator[tuple[NatsConnection, Puller]]:
    """A worker with a slot, over a way that may lose its pulls."""
    nc = await way.connect(max_reconnect_attempts=-1)
    await declare_streams(nc)
    await declare_pool(nc, "d", slots=1)
    puller = Puller(
        nc,
        stream=subjects.RUN,
        consumer=subjects.pool_consumer("d"),
        free=lambda: 1 - len(came),
        start=came.append,
        silence_s=silence_s,
    )
    try:
        yield nc, puller
    finally:
        await puller.close()


async def sees(way: Way, pulls: int) -> None:
    async def it_does() -> bool:
        return way.seen >= pulls

    await until(it_does, f"{pulls} pulls are made")


async def asked(nc: NatsConnection, stream: str, consumer: str) -> None:
    async def it_was() -> bool:
        return bool((await done(nc, f"CONSUMER.INFO.{stream}.{consumer}"))["num_waiting"])

    await until(it_was, f"{consumer} is asked")


async def delivered(nc: NatsConnection, *, at_least: int) -> int:
    """How many of the outcomes are with settle or on their way to it."""
    found = 0

    async def so_many() -> bool:
        nonlocal found
        found = (await progress_of(nc, subjects.OUTCOME, subjects.SETTLE_CONSUMER)).deliveries
        return found >= at_least

    await until(so_many, f"{at_least} outcomes are delivered")
    return found


async def comes(came: list[Message], puller: Puller) -> None:
    """Wait for a message, with the puller looked after as a worker does it."""

    async def it_has() -> bool:
        await puller.check()
        return bool(came)

    await until(it_has, "the message comes")


async def test_a_group_whose_pull_was_lost_is_asked_for_anew(way: Way, nc: NatsConnection) -> None:
    async with settle_groups(way, silence_s=0.2) as groups:
        way.loses = True
        waiting = asyncio.create_task(groups.next())
        await sees(way, 1)
        way.loses = False

        await stored(nc, subjects.outcome("d"))

        async with asyncio.timeout(20):
            assert [message.data for message in await waiting] == [b"x"]


async def test_a_group_goes_on_after_the_server_refused_its_pull(way: Way, nc: NatsConnection) -> None:
    async with settle_groups(way) as groups:
        await done(nc, f"CONSUMER.DELETE.{subjects.OUTCOME}.{subjects.SETTLE_CONSUMER}")
        waiting = asyncio.create_task(groups.next())
        await sees(way, 2)

        await declare_streams(nc)
        await stored(nc, subjects.outcome("d"))

        async with asyncio.timeout(20):
            assert [message.data for message in await waiting] == [b"x"]


async def test_a_group_comes_although_its_pull_ended_while_nats_was_away(way: Way, nc: NatsConnection) -> None:
    async with settle_groups(way) as groups:
        waiting = asyncio.create_task(groups.next())
        await asked(nc, subjects.OUTCOME, subjects.SETTLE_CONSUMER)

        way.shut()
        await stored(nc, subjects.outcome("d"))
        way.open()

        async with asyncio.timeout(20):
            assert [message.data for message in await waiting] == [b"x"]


async def test_never_more_is_held_in_a_group_than_there_is_room(way: Way, nc: NatsConnection) -> None:
    async with settle_groups(way) as groups:
        for _ in range(30):
            await stored(nc, subjects.outcome("d"))

        taken = 0
        while taken < 15:
            taken += len(await groups.next())
            assert await delivered(nc, at_least=taken + 5) - taken <= 10


async def test_a_group_is_half_the_room_at_most(way: Way, nc: NatsConnection) -> None:
    async with settle_groups(way) as groups:
        for _ in range(30):
            await stored(nc, subjects.outcome("d"))
        sizes = list[int]()
        while sum(sizes) < 20:
            sizes.append(len(await groups.next()))
            await delivered(nc, at_least=sum(sizes) + 5)

        assert max(sizes) == 5


async def test_a_group_does_not_pause_when_its_pull_has_brought_all(way: Way, nc: NatsConnection) -> None:
    async with settle_groups(way, room=2) as groups:
        async with asyncio.timeout(4):  # a pause for each pull would take longer
            for _ in range(40):
                await stored(nc, subjects.outcome("d"))
                await ack_all(nc, await groups.next())


async def test_an_attempt_whose_pull_was_lost_is_asked_for_anew(way: Way, nc: NatsConnection) -> None:
    came: list[Message] = []
    async with a_puller(way, came, silence_s=0.2) as (_, puller):
        way.loses = True
        await puller.open()
        await sees(way, 1)
        way.loses = False

        assert await Runs(nc).publish([an_attempt()])

        await comes(came, puller)


async def test_after_a_reconnect_attempts_are_asked_for_anew(way: Way, nc: NatsConnection) -> None:
    came: list[Message] = []
    async with a_puller(way, came) as (worker, puller):
        await puller.open()
        await asked(nc, subjects.RUN, subjects.pool_consumer("d"))
        way.cut()

        async def is_back() -> bool:
            return worker.reconnects > 0 and worker.is_connected

        await until(is_back, "the connection is back")
        await puller.renew()
        assert await Runs(nc).publish([an_attempt()])

        async def it_came() -> bool:
            return bool(came)

        await until(it_came, "the message comes")


async def test_attempts_are_asked_for_again_once_there_is_a_consumer(way: Way, nc: NatsConnection) -> None:
    came: list[Message] = []
    async with a_puller(way, came) as (worker, puller):
        await done(nc, f"CONSUMER.DELETE.{subjects.RUN}.{subjects.pool_consumer('d')}")
        await puller.open()
        await sees(way, 1)
        await worker.flush()

        await declare_pool(nc, "d", slots=1)
        assert await Runs(nc).publish([an_attempt()])

        await comes(came, puller)
