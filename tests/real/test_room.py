"""What SUBMIT may fill is no room of OUTCOME's, and whoever finds no room is told so."""

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from uuid import UUID

import pytest

from broker.bus.desired import desired
from broker.bus.streams import NatsStreams
from broker.client import BacklogFull, Client, Submission
from broker.client.nats_door import NatsDoor
from broker.config import LEASE_S
from broker.errors import Unavailable
from broker.local.servers import is_free, nats_server, spawn
from schemas import subjects
from schemas.jetstream import Outgoing, call, publish_one
from schemas.jetstream.client import NatsClient as Nats
from schemas.subjects import DEFAULT
from tests.builders import a_job
from tests.system import until

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]
MIB = 1024**2
LARGE = b'{"messages": [{"role": "user", "content": "%s"}]}' % (b"x" * 200_000)


@asynccontextmanager
async def a_small_server(folder: Path, *, room: int) -> AsyncIterator[Nats]:
    """One with so many bytes for streams on its disk."""
    store = json.dumps(str(folder / "store"))
    limits = f"jetstream {{ store_dir: {store}, max_file_store: {room} }}\n"
    async with nats_server(folder, settings=limits) as url:
        nc = Nats()
        await nc.connect(url)
        try:
            yield nc
        finally:
            await nc.close()


def url_of(nc: Nats) -> str:
    assert nc.connected_url is not None
    return nc.connected_url.geturl()


async def limits(nc: Nats) -> dict[str, int]:
    streams = desired({}, lease_s=LEASE_S)
    return {one.name: (await call(nc, f"STREAM.INFO.{one.name}"))["config"]["max_bytes"] for one in streams}


async def fill(nc: Nats) -> BacklogFull:
    """Submit until there is no more room."""
    async with Client.connect(url_of(nc)) as client:
        with pytest.raises(BacklogFull) as full:
            await client.submit_many([Submission("m", a_job(body=LARGE))] * 5000)
    return full.value


@pytest.mark.parametrize("room", [300 * MIB, 1024 * MIB, 4 * 1024 * MIB])
async def test_streams_have_limits_that_fit_the_server(tmp_path: Path, room: int) -> None:
    async with a_small_server(tmp_path, room=room) as nc:
        kept = await NatsStreams(nc).keep({}, lease_s=LEASE_S)

        found = await limits(nc)
        assert kept.wrong == {}
        assert all(limit > 0 for limit in found.values())
        on_disk = {one.name for one in desired({}, lease_s=LEASE_S) if one.settings["storage"] == "file"}
        assert room / 2.2 < sum(found[name] for name in on_disk) <= room


async def test_outcomes_are_stored_when_submissions_have_filled_their_room(tmp_path: Path) -> None:
    async with a_small_server(tmp_path, room=300 * MIB) as nc:
        await NatsStreams(nc).keep({}, lease_s=LEASE_S)

        full = await fill(nc)
        for _ in range(10):
            await publish_one(nc, Outgoing(subjects.outcome("d"), b"x" * MIB))

        assert "maximum bytes exceeded (10077): wait until" in str(full)
        assert "raise the limit" in str(full)


async def test_a_limit_that_is_set_is_raised_on_a_running_system(tmp_path: Path) -> None:
    async with a_small_server(tmp_path, room=300 * MIB) as nc:
        await NatsStreams(nc, store_bytes=128 * MIB).keep({}, lease_s=LEASE_S)
        small = await limits(nc)

        await NatsStreams(nc, store_bytes=256 * MIB).keep({}, lease_s=LEASE_S)

        assert (small[subjects.SUBMIT], (await limits(nc))[subjects.SUBMIT]) == (64 * MIB, 128 * MIB)


async def test_a_server_without_room_is_said_to_be_full_until_there_is_room(tmp_path: Path) -> None:
    """Another application's stream, which has no limit, has filled the disk that the server may use."""
    async with a_small_server(tmp_path, room=300 * MIB) as nc:
        await NatsStreams(nc).keep({}, lease_s=LEASE_S)
        await call(nc, "STREAM.CREATE.OTHER", {"name": "OTHER", "subjects": ["other"], "storage": "file"})
        for _ in range(60):
            await nc.publish("other", b"x" * 6 * MIB)
        await nc.flush()

        full = await fill(nc)
        await call(nc, "STREAM.DELETE.OTHER")

        assert "insufficient resources (10023)" in str(full)
        async with Client.connect(url_of(nc)) as client:

            async def takes_jobs() -> bool:
                try:
                    await client.submit("m", LARGE)
                except BacklogFull:
                    return False
                return True

            await until(takes_jobs, "there is room again")


# a disk that is really full

FULL_DISK = """
set -e
mount -t tmpfs -o size=48m tmpfs {store}
{program} -c {config} & server=$!
trap 'kill $server' TERM
wait $server || true
mount -o remount,size=400m {store}
{program} -c {config} & server=$!
wait $server || true
"""
"""Runs a server on a disk of 48 MB; once it has ended, again, on the same disk with more room."""


@asynccontextmanager
async def a_full_disk(folder: Path) -> AsyncIterator[tuple[str, Path]]:
    """The URL of a server whose disk is smaller than it takes it to be, and its file with its process id."""
    store, config, pid = folder / "store", folder / "nats.conf", folder / "pid"
    store.mkdir()
    port = next(port for port in range(23_000, 24_000) if is_free(port))
    config.write_text(
        f'listen: "127.0.0.1:{port}"\nmax_payload: 8MB\npid_file: "{pid}"\n'
        f'jetstream {{ store_dir: "{store}", max_file_store: 1GB, sync_interval: always }}\n'
    )
    program = Path(sys.executable).with_name("nats-server")
    script = FULL_DISK.format(store=store, config=config, program=program)
    child = spawn("full disk", ["unshare", "-rm", "sh", "-c", script], log=folder / "log", last_words=signal.SIGTERM)
    try:
        await until(lambda: _is(pid.exists()), "the server runs")
        yield f"nats://127.0.0.1:{port}", pid
    finally:
        for _ in range(2):
            with suppress(OSError, ValueError):
                os.kill(int(pid.read_text()), signal.SIGTERM)
            await child.ended(within_s=2)
        await child.stop(signal.SIGTERM, within_s=2)


async def takes(client: Client, accepted: list[UUID]) -> bool:
    """Submit a job that cannot be compressed, and say whether it was accepted."""
    text = base64.b64encode(os.urandom(150_000)).decode()
    try:
        accepted.append(await client.submit("m", {"messages": [{"role": "user", "content": text}]}))
    except (BacklogFull, Unavailable):
        return False
    return True


async def _is(value: bool) -> bool:  # noqa: FBT001 - a condition
    return value


@pytest.mark.skipif(
    subprocess.run(["unshare", "-rm", "true"], check=False).returncode != 0, reason="no namespaces here"
)
async def test_a_full_disk_loses_nothing_and_jobs_are_taken_again_when_there_is_room(tmp_path: Path) -> None:
    async with a_full_disk(tmp_path) as (url, pid):
        nc = Nats()
        await nc.connect(url, max_reconnect_attempts=-1)
        await NatsStreams(nc).keep({}, lease_s=LEASE_S)
        client = Client(NatsDoor(nc, tenant=DEFAULT, key=DEFAULT, ack_s=2.0), patience_s=3.0)
        accepted: list[UUID] = []

        async def is_full() -> bool:
            return not all(await asyncio.gather(*(takes(client, accepted) for _ in range(10))))

        await until(is_full, "the disk is full")

        os.kill(int(pid.read_text()), signal.SIGTERM)
        await until(lambda: takes(client, accepted), "there is room again")
        held = (await call(nc, f"STREAM.INFO.{subjects.SUBMIT}"))["state"]["messages"]
        await nc.close()

    assert len(accepted) > 100
    assert held >= len(accepted)
