"""Streams, buckets and consumers are kept as they should be, whoever deletes or changes them."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from broker.bus.desired import desired, difference
from broker.bus.streams import NatsStreams, find
from broker.cli.doctor import Grade, Known, examine
from broker.config import LEASE_S
from broker.local.servers import Child, nats_server
from schemas import subjects
from schemas.api import State
from schemas.jetstream import NatsError, call
from schemas.jetstream.client import NatsClient as Nats
from tests.real.test_broker import Running, a_broker, a_worker
from tests.real.test_serving import measures
from tests.real.test_starting_degraded import free_port
from tests.system import until

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]
WANTED = desired({"d": 4}, lease_s=LEASE_S)
CONSUMERS = [(stream.name, one.name) for stream in WANTED for one in stream.consumers]
SOON_S = 8.0


@pytest.fixture
async def kept(nats_url: str, ledger_url: str, nc: Nats) -> AsyncIterator[Running]:
    """A broker that looks twice a second, and a worker."""
    async with a_broker(nats_url, ledger_url, nc, reconcile_s=0.5) as running, a_worker(nc):
        await running.has_a_worker()
        await as_they_should_be(nc)
        yield running


async def as_they_should_be(nc: Nats) -> None:
    async def they_are() -> bool:
        found, unread = await find(nc, WANTED)
        return not unread and not difference(WANTED, found)

    await until(they_are, "all streams and consumers are as they should be", within_s=SOON_S)


@pytest.mark.parametrize("stream", [stream.name for stream in WANTED])
async def test_a_stream_that_somebody_deleted_is_there_again(kept: Running, stream: str) -> None:
    await call(kept.nc, f"STREAM.DELETE.{stream}")

    await as_they_should_be(kept.nc)

    await kept.has_a_worker()
    assert (await kept.ended(await kept.submit("hello"))).state is State.SUCCEEDED
    await measures(kept, "infermq_streams_wrong 0.0")


@pytest.mark.parametrize(("stream", "consumer"), CONSUMERS)
async def test_a_consumer_that_somebody_deleted_is_there_again(kept: Running, stream: str, consumer: str) -> None:
    await call(kept.nc, f"CONSUMER.DELETE.{stream}.{consumer}")

    await as_they_should_be(kept.nc)


@pytest.mark.parametrize("stream", [stream.name for stream in WANTED])
async def test_a_stream_that_somebody_changed_is_put_right(kept: Running, stream: str) -> None:
    settings = (await call(kept.nc, f"STREAM.INFO.{stream}"))["config"]
    await call(kept.nc, f"STREAM.UPDATE.{stream}", {**settings, "max_msg_size": 17, "max_msgs_per_subject": 2})

    await as_they_should_be(kept.nc)


async def test_a_consumer_of_another_kind_is_made_anew(kept: Running) -> None:
    await call(kept.nc, f"CONSUMER.DELETE.{subjects.NOW}.d")
    other = {"durable_name": "d", "ack_policy": "explicit", "filter_subject": subjects.now("d"), "max_waiting": 3}
    request = {"stream_name": subjects.NOW, "config": other}
    with suppress(NatsError):  # the broker was faster
        await call(kept.nc, f"CONSUMER.CREATE.{subjects.NOW}.d.{subjects.now('d')}", request)

    await as_they_should_be(kept.nc)


async def test_jobs_go_on_when_streams_and_consumers_are_deleted_under_load(kept: Running) -> None:
    """The ledger has these jobs, so nothing that a stream held of them is lost."""
    jobs = [await kept.submit(f"n{n}") for n in range(40)]

    async def all_known() -> bool:
        [row] = await kept.rows("select count(*) as known from infermq.jobs")
        return bool(row["known"] == len(jobs))

    for path in (
        f"CONSUMER.DELETE.{subjects.RUN}.d",
        f"STREAM.DELETE.{subjects.RUN}",
        f"STREAM.DELETE.KV_{subjects.WORKERS_BUCKET}",
        f"STREAM.DELETE.{subjects.OUTCOME}",
        f"STREAM.DELETE.{subjects.SUBMIT}",
    ):
        await until(all_known, "the ledger has all jobs")
        await call(kept.nc, path)
        await as_they_should_be(kept.nc)
        jobs += [await kept.submit(path)]
    ended = [await kept.ended(job) for job in jobs]

    assert {job.state for job in ended} == {State.SUCCEEDED}


@asynccontextmanager
async def a_server(folder: Path) -> AsyncIterator[tuple[Nats, Child]]:
    children: list[Child] = []
    async with nats_server(folder, started=children.append) as url:
        nc = Nats()
        await nc.connect(url)
        try:
            yield nc, children[0]
        finally:
            children[0].process.send_signal(signal.SIGCONT)
            await nc.close()


async def test_streams_are_whole_after_nats_stalled_while_they_were_declared(tmp_path: Path) -> None:
    async with a_server(tmp_path) as (nc, server):
        streams = NatsStreams(nc)
        server.process.send_signal(signal.SIGSTOP)
        stalled = await streams.keep({"d": 4}, lease_s=LEASE_S)
        server.process.send_signal(signal.SIGCONT)

        kept = await streams.keep({"d": 4}, lease_s=LEASE_S)

        assert [stream.name for stream in WANTED if not any(stream.name in one for one in stalled.wrong or ())] == []
        assert kept.wrong == {}
        await as_they_should_be(nc)


async def test_nobody_is_known_to_take_requests_from_nats_that_was_away_until_it_was_looked_at(
    tmp_path: Path,
) -> None:
    nc, port, is_back = Nats(), free_port(), asyncio.Event()

    async def back_again() -> None:
        is_back.set()

    async with nats_server(tmp_path, port=port) as url:
        await nc.connect(url, max_reconnect_attempts=-1, reconnect_time_wait=0.05, reconnected_cb=back_again)
        streams = NatsStreams(nc)
        first = set(streams.pulled)
        await streams.keep({"d": 4, "e": 4}, lease_s=LEASE_S)
        kept = set(streams.pulled)
    async with nats_server(tmp_path, port=port):
        await is_back.wait()
        back = set(streams.pulled)
        await streams.keep({"d": 4, "e": 4}, lease_s=LEASE_S)
        mended = set(streams.pulled)
        await streams.keep({"d": 4, "e": 4}, lease_s=LEASE_S)
        found = set(streams.pulled)
        await nc.close()

    assert (first, kept, back, mended, found) == (set(), {"d", "e"}, set(), {"d", "e"}, {"d", "e"})


async def test_a_stream_that_cannot_be_put_right_keeps_no_other_from_it(tmp_path: Path) -> None:
    async with a_server(tmp_path) as (nc, _):
        other = {
            "name": subjects.SUBMIT,
            "subjects": ["infermq.submit.>"],
            "storage": "memory",
            "retention": "limits",
        }
        await call(nc, f"STREAM.CREATE.{subjects.SUBMIT}", other)

        kept = await NatsStreams(nc).keep({"d": 4}, lease_s=LEASE_S)

        [wrong] = [name for name in kept.wrong or () if name.startswith("stream")]
        assert wrong.startswith(f"stream {subjects.SUBMIT}: retention, storage, discard")
        found, _ = await find(nc, WANTED)
        assert {mend.stream for mend in difference(WANTED, found)} == {subjects.SUBMIT}


async def test_doctor_says_which_stream_or_consumer_is_not_as_it_should_be(tmp_path: Path) -> None:
    async with a_server(tmp_path) as (nc, _):
        await NatsStreams(nc).keep({}, lease_s=LEASE_S)
        url = nc.connected_url.geturl() if nc.connected_url else ""
        whole = {one.name: one for one in await examine(Known(nats_url=url, postgres_url=None, data=None))}
        await call(nc, f"CONSUMER.DELETE.{subjects.OUTCOME}.{subjects.SETTLE_CONSUMER}")

        findings = {one.name: one for one in await examine(Known(nats_url=url, postgres_url=None, data=None))}

        assert whole["streams"].grade is Grade.OK
        assert (findings["streams"].grade, findings["streams"].seen) == (
            Grade.BAD,
            f"consumer settle of {subjects.OUTCOME}: missing",
        )
