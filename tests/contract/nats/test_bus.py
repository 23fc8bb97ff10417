"""What brokers do with their streams and pulls."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from broker.bus.desired import desired
from broker.bus.groups import Groups, ack_all
from broker.bus.runs import attempts_in_run
from broker.config import LEASE_S
from broker.errors import Unavailable
from schemas import subjects
from schemas.jetstream import NatsConnection, NoRespondersError, call
from schemas.job import Lane
from tests.contract.nats.asking import done, eventually, stored
from tests.contract.nats.ways import Way
from tests.declared import declare_pool, declare_streams

pytestmark = pytest.mark.timeout(60)
BULK = "infermq.submit.bulk.m.default.default"


@asynccontextmanager
async def bulk_groups(nc: NatsConnection, *, room: int = 2000) -> AsyncIterator[Groups]:
    await declare_streams(nc)
    groups = Groups(
        nc,
        stream=subjects.SUBMIT,
        consumer=subjects.intake_consumer(Lane.BULK),
        room=room,
        group_bytes=1024 * 1024,
    )
    async with groups.open():
        yield groups


@pytest.mark.parametrize(
    ("command", "subject"),
    [
        (b"PUB infermq.submit.bulk.\xff.default.default 1\r\nx\r\n", "infermq.submit.bulk.\\xff.default.default"),
        (b"HPUB infermq.submit.bulk.m.t.k 8 9\r\nNATS/1.0x\r\n", "infermq.submit.bulk.m.t.k"),
        (b"HPUB infermq.submit.bulk.m.t.k 13 14\r\nNATS/1.0\xff\r\n\r\nx\r\n", None),
    ],
)
async def test_bytes_that_nats_takes_do_not_end_a_connection(
    nc: NatsConnection, command: bytes, subject: str | None
) -> None:
    async with bulk_groups(nc) as groups:
        await nc.write(command)
        await stored(nc, BULK)

        subjects_heard = [message.subject for message in await groups.next()]
        while BULK not in subjects_heard:
            subjects_heard += [message.subject for message in await groups.next()]

        assert subject is None or subject in subjects_heard
        assert nc.reconnects == 0


async def test_a_lane_that_there_is_not_takes_no_job(nc: NatsConnection) -> None:
    await declare_streams(nc)

    with pytest.raises(NoRespondersError):
        await stored(nc, "infermq.submit.Bulk.m.default.default")


async def test_large_messages_come_a_few_at_a_time_and_all_of_them(nc: NatsConnection) -> None:
    async with bulk_groups(nc) as groups:
        for _ in range(12):
            await stored(nc, BULK, b"x" * 6_000_000)
        seen = 0
        while seen < 12:
            group = await groups.next()
            seen += len(group)
            await ack_all(nc, group)

        assert seen == 12
        assert nc.reconnects == 0


async def test_a_pull_is_asked_for_anew_after_a_reconnect(way: Way, nc: NatsConnection) -> None:
    lost = await way.connect(max_reconnect_attempts=-1)
    async with bulk_groups(lost) as groups:
        waiting = asyncio.create_task(groups.next())
        info = f"CONSUMER.INFO.{subjects.SUBMIT}.intake-bulk"

        async def is_asked() -> bool:
            return bool((await done(nc, info))["num_waiting"])

        async def is_back() -> bool:
            return lost.reconnects > 0 and lost.is_connected

        await eventually(is_asked, "it is asked")
        way.cut()
        await eventually(is_back, "the connection is back")
        await stored(nc, BULK)

        async with asyncio.timeout(6):  # half of what a silent server is given
            assert len(await waiting) == 1


async def test_a_stream_in_memory_of_another_kind_is_made_anew(nc: NatsConnection) -> None:
    now = next(stream for stream in desired({}, lease_s=LEASE_S) if stream.name == subjects.NOW)
    await call(nc, f"STREAM.CREATE.{now.name}", {**now.settings, "retention": "workqueue"})

    await declare_streams(nc)
    await declare_pool(nc, "d", slots=1)

    assert (await done(nc, f"STREAM.INFO.{subjects.NOW}"))["config"]["retention"] == "interest"


async def test_a_stream_that_cannot_be_read_is_not_an_empty_one(nc: NatsConnection) -> None:
    with pytest.raises(Unavailable):
        await attempts_in_run(nc)
