"""How long messages that a broker pulled stay with it: short, unless it holds them for real."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from broker.bus.desired import GROUP_ACK_WAIT_S
from broker.bus.groups import EXTEND_S, Groups, ack_all
from schemas import subjects
from schemas.jetstream import EXTEND, Message, NatsConnection
from schemas.jetstream.pull import delivered
from schemas.job import Lane
from tests.contract.nats.asking import S, Told, done, stored
from tests.contract.nats.conftest import Bus
from tests.declared import declare_streams
from tests.system import until

pytestmark = pytest.mark.timeout(60)
INTAKE = subjects.intake_consumer(Lane.BULK)
SUBJECT = "infermq.submit.bulk.m.default.default"
SHORT_S = 0.6
"""A lease short enough to wait for its end."""


class Extensions:
    """How often each message has been extended."""

    def __init__(self, nc: NatsConnection) -> None:
        self._nc = nc
        self.counts: dict[int, int] = {}

    async def listen(self) -> None:
        await self._nc.subscribe(f"$JS.ACK.{subjects.SUBMIT}.{INTAKE}.>", cb=self._note)
        await self._nc.flush()

    async def _note(self, message: Message) -> None:
        if message.data == EXTEND:
            sequence = delivered(message.subject).sequence
            self.counts[sequence] = self.counts.get(sequence, 0) + 1

    async def reach(self, count: int, *sequences: int) -> None:
        async def they_do() -> bool:
            return all(self.counts.get(sequence, 0) >= count for sequence in sequences)

        await until(they_do, f"{sequences} are extended {count} times")


@asynccontextmanager
async def a_broker(bus: Bus, *, extend_s: float = SHORT_S / 6, room: int = 4) -> AsyncIterator[Groups]:
    nc = await bus.connect()
    groups = Groups(nc, stream=subjects.SUBMIT, consumer=INTAKE, room=room, group_bytes=1_000_000, extend_s=extend_s)
    async with groups.open():
        yield groups
    await nc.close()  # type: ignore[attr-defined] # both have it


async def short_leases(nc: NatsConnection) -> None:
    await declare_streams(nc)
    config = {**(await info(nc, subjects.SUBMIT, INTAKE))["config"], "ack_wait": int(SHORT_S * S)}
    await done(nc, f"CONSUMER.CREATE.{subjects.SUBMIT}.{INTAKE}", {"stream_name": subjects.SUBMIT, "config": config})


async def info(nc: NatsConnection, stream: str, consumer: str) -> Told:
    return await done(nc, f"CONSUMER.INFO.{stream}.{consumer}")


async def test_a_declared_lease_is_short_and_extended_in_time(nc: NatsConnection) -> None:
    await declare_streams(nc)

    for stream, consumer in ((subjects.SUBMIT, INTAKE), (subjects.OUTCOME, subjects.SETTLE_CONSUMER)):
        config = (await info(nc, stream, consumer))["config"]
        assert config["ack_wait"] / S == GROUP_ACK_WAIT_S <= 5
    assert 2 * 1.5 * EXTEND_S < GROUP_ACK_WAIT_S


async def test_what_a_broker_holds_stays_with_it_however_long_it_takes(nc: NatsConnection, bus: Bus) -> None:
    await short_leases(nc)
    extensions = Extensions(nc)
    await extensions.listen()
    async with a_broker(bus, room=4) as groups:
        for _ in range(3):
            await stored(nc, SUBJECT)
        group = await groups.next()
        assert len(group) < 3  # what is left is gathered for the next one

        await extensions.reach(20, 1, 2, 3)  # three times as long as a lease

        told = await info(nc, subjects.SUBMIT, INTAKE)
        assert (told["num_ack_pending"], told["num_redelivered"]) == (3, 0)


async def test_a_group_is_extended_no_longer_once_the_next_is_asked_for(nc: NatsConnection, bus: Bus) -> None:
    await short_leases(nc)
    extensions = Extensions(nc)
    async with a_broker(bus) as groups:
        await stored(nc, SUBJECT)
        await groups.next()  # never acked
        await extensions.listen()

        [again] = await groups.next()

        assert delivered(again.reply).deliveries == 2
        assert extensions.counts.get(1, 0) <= 1


async def test_a_group_that_is_committed_at_once_is_not_extended(nc: NatsConnection, bus: Bus) -> None:
    """For as long as ten times in which it would be, were it held; a loaded machine may hold one for long, once."""
    await declare_streams(nc)
    extensions = Extensions(nc)
    await extensions.listen()
    loop, extend_s = asyncio.get_running_loop(), 0.1
    async with a_broker(bus, extend_s=extend_s) as groups:
        end = loop.time() + 10 * extend_s
        while loop.time() < end:
            await stored(nc, SUBJECT)
            await ack_all(nc, await groups.next())
        await nc.flush()

        assert sum(extensions.counts.values()) <= 2


async def test_what_a_killed_broker_had_pulled_comes_to_another_when_its_lease_ends(
    nc: NatsConnection, bus: Bus
) -> None:
    await short_leases(nc)
    await stored(nc, SUBJECT)
    async with a_broker(bus) as killed:
        await killed.next()

    async with a_broker(bus) as other:
        [message] = await other.next()

    assert delivered(message.reply).deliveries == 2
