"""Streams and pulls against a real NATS."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from nats.errors import NoRespondersError
from nats.js.api import RetentionPolicy
from nats.js.errors import NoStreamResponseError

from broker.bus.connect import connected
from broker.bus.desired import desired
from broker.bus.groups import Groups, ack_all
from broker.bus.runs import attempts_in_run
from broker.config import LEASE_S
from broker.errors import Unavailable
from schemas import subjects
from schemas.jetstream import call
from schemas.jetstream.client import NatsClient as Nats
from schemas.job import Lane
from tests.declared import declare_pool, declare_streams

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]
BULK = "infermq.submit.bulk.m.default.default"


@asynccontextmanager
async def bulk_groups(nats_url: str, *, room: int = 2000) -> AsyncIterator[tuple[Nats, Groups]]:
    async with connected(nats_url, name="test", came_back=lambda: None) as nc:
        await declare_streams(nc)
        groups = Groups(
            nc,
            stream=subjects.SUBMIT,
            consumer=subjects.intake_consumer(Lane.BULK),
            room=room,
            group_bytes=1024 * 1024,
        )
        async with groups.open():
            yield nc, groups


@pytest.mark.parametrize(
    ("command", "subject"),
    [
        (b"PUB infermq.submit.bulk.\xff.default.default 1\r\nx\r\n", "infermq.submit.bulk.\\xff.default.default"),
        (b"HPUB infermq.submit.bulk.m.t.k 8 9\r\nNATS/1.0x\r\n", "infermq.submit.bulk.m.t.k"),
        (b"HPUB infermq.submit.bulk.m.t.k 13 14\r\nNATS/1.0\xff\r\n\r\nx\r\n", None),
    ],
)
async def test_bytes_that_nats_takes_do_not_end_a_connection(
    nats_url: str, command: bytes, subject: str | None
) -> None:
    async with bulk_groups(nats_url) as (nc, groups):
        await nc._send_command(command)
        await nc.jetstream().publish(BULK, b"y")

        subjects_heard = [message.subject for message in await groups.next()]
        while BULK not in subjects_heard:
            subjects_heard += [message.subject for message in await groups.next()]

        assert subject is None or subject in subjects_heard
        assert nc.stats["reconnects"] == 0


async def test_a_lane_that_there_is_not_takes_no_job(nc: Nats) -> None:
    await declare_streams(nc)

    with pytest.raises((NoRespondersError, NoStreamResponseError)):
        await nc.jetstream().publish("infermq.submit.Bulk.m.default.default", b"x")


async def test_large_messages_come_a_few_at_a_time_and_all_of_them(nats_url: str) -> None:
    async with bulk_groups(nats_url) as (nc, groups):
        for _ in range(12):
            await nc.jetstream().publish(BULK, b"x" * 6_000_000)
        seen = 0
        while seen < 12:
            group = await groups.next()
            seen += len(group)
            await ack_all(nc, group)

        assert seen == 12
        assert nc.stats["reconnects"] == 0


async def test_a_pull_is_asked_for_anew_after_a_reconnect(nats_url: str) -> None:
    async with bulk_groups(nats_url) as (nc, groups):
        waiting = asyncio.create_task(groups.next())
        while not (await nc.jetstream().consumer_info(subjects.SUBMIT, "intake-bulk")).num_waiting:
            await asyncio.sleep(0.01)

        await nc._process_op_err(OSError("cut"))
        while nc.stats["reconnects"] == 0 or not nc.is_connected:
            await asyncio.sleep(0.01)
        await nc.jetstream().publish(BULK, b"x")

        async with asyncio.timeout(6):  # half of what a silent server is given
            assert len(await waiting) == 1


async def test_a_stream_in_memory_of_another_kind_is_made_anew(nc: Nats) -> None:
    now = next(stream for stream in desired({}, lease_s=LEASE_S) if stream.name == subjects.NOW)
    await call(nc, f"STREAM.CREATE.{now.name}", {**now.settings, "retention": "workqueue"})

    await declare_streams(nc)
    await declare_pool(nc, "d", slots=1)

    info = await nc.jetstream().stream_info(subjects.NOW)
    assert info.config.retention == RetentionPolicy.INTEREST


async def test_a_stream_that_cannot_be_read_is_not_an_empty_one(nc: Nats) -> None:
    with pytest.raises(Unavailable):
        await attempts_in_run(nc)
