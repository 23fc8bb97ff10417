"""A worker as a process of its own, against a real NATS; the test is its broker."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from nats.aio.msg import Msg
from nats.js.api import ConsumerInfo, RawStreamMsg

from broker.bus.catalogs import Catalogs
from broker.bus.runs import Runs
from broker.local.servers import nats_server
from schemas import subjects
from schemas.catalog import Revision
from schemas.codec import ERROR, KIND, Bundle, packed
from schemas.jetstream.client import NatsClient as Nats
from schemas.job import Lane
from schemas.outcome import EngineLost, Failed, Released, Report, Succeeded
from schemas.units import Ms
from schemas.worker import WorkerBeat
from tests.builders import a_catalog, a_chat
from tests.declared import declare_pool, declare_streams
from tests.real.test_starting_degraded import free_port, seen
from tests.system import until

pytestmark = pytest.mark.real
_reports = Bundle(Report)
_beat = msgspec.json.Decoder(WorkerBeat)
SLOW = {"decode_tokens_per_s": 1.0}
"""Eight seconds an answer: as good as for ever here."""


async def leases(nc: Nats) -> ConsumerInfo:
    info: ConsumerInfo = await nc.jetstream().consumer_info(subjects.RUN, subjects.pool_consumer("d"))
    return info


async def leased(nc: Nats, count: int) -> None:
    async def as_many() -> bool:
        return (await leases(nc)).num_ack_pending == count

    await until(as_many, f"{count} attempts are leased")


async def held_by(nc: Nats, stream: str) -> int:
    return (await nc.jetstream().stream_info(stream)).state.messages


async def reported(nc: Nats, least: int) -> list[Report]:
    """All outcomes, once there are so many."""

    reports: list[Report] = []

    async def enough() -> bool:
        reports[:] = await outcomes(nc)
        return len(reports) >= least

    await until(enough, f"{least} outcomes are stored")
    return reports


async def outcomes(nc: Nats) -> list[Report]:
    js = nc.jetstream()
    last = (await js.stream_info(subjects.OUTCOME)).state.last_seq
    messages = [await js.get_msg(subjects.OUTCOME, sequence) for sequence in range(1, last + 1)]
    return [report for message in messages for report in _reports.unpack(message.data or b"")[0]]


async def last_beat(nc: Nats) -> WorkerBeat:
    return _beat.decode((await _last_of_a_worker(nc)).data or b"")


async def is_forgotten(nc: Nats) -> bool:
    """Whether the worker left, instead of having its last beat live its time."""
    return (await _last_of_a_worker(nc)).headers == {"KV-Operation": "DEL"}


async def _last_of_a_worker(nc: Nats) -> RawStreamMsg:
    bucket = subjects.WORKERS_BUCKET
    return await nc.jetstream().get_last_msg(f"KV_{bucket}", f"$KV.{bucket}.>")


async def apply(nc: Nats, options: dict[str, Any] | None, *, lease_s: float = 15.0, **changes: Any) -> None:
    """What a broker does before a worker can work."""
    await declare_streams(nc)
    await declare_pool(nc, "d", slots=64, lease_s=lease_s)
    await Catalogs(nc).publish(Revision(1, Ms(0), a_catalog(options=options, **changes)))


@asynccontextmanager
async def a_process(url: str, *words: str) -> AsyncIterator[asyncio.subprocess.Process]:
    command = [sys.executable, "-m", "workers", "--nats-url", url, "--json", *words]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def is_ready(process: asyncio.subprocess.Process) -> str:
    """Wait until it says so, and return the URL of its HTTP server."""
    assert process.stdout is not None
    async with asyncio.timeout(20):
        said = json.loads(await process.stdout.readline())
    assert said["ready"] is True
    return str(said["http"])


async def said(process: asyncio.subprocess.Process, words: bytes) -> bytes:
    """Wait until a line of its log has these words, and return all until there."""
    assert process.stderr is not None
    log = b""
    async with asyncio.timeout(20):
        while words not in log:
            log += await process.stderr.readline()
    return log


@asynccontextmanager
async def a_worker(url: str, *words: str) -> AsyncIterator[asyncio.subprocess.Process]:
    async with a_process(url, "--deployment", "d", *words) as process:
        await is_ready(process)
        yield process


async def ended(process: asyncio.subprocess.Process) -> int:
    async with asyncio.timeout(20):
        return await process.wait()


async def test_an_unknown_deployment_is_refused_without_naming_others(nc: Nats, nats_url: str) -> None:
    await apply(nc, None)

    async with a_process(nats_url, "--deployment", "nope") as process:
        _, said = await asyncio.wait_for(process.communicate(), 20)

    assert process.returncode == 2
    assert b"revision 1 of the catalog has no deployment 'nope'" in said


async def test_an_unknown_option_is_refused_with_the_known_ones(nc: Nats, nats_url: str) -> None:
    await apply(nc, {"speed": 3})

    async with a_process(nats_url, "--deployment", "d") as process:
        _, said = await asyncio.wait_for(process.communicate(), 20)

    assert process.returncode == 2
    assert b"speed" in said
    assert b"decode_tokens_per_s" in said


async def test_a_killed_workers_attempts_are_run_by_another(nc: Nats, nats_url: str) -> None:
    await apply(nc, {"decode_tokens_per_s": 20.0}, lease_s=1.0)
    attempts = [a_chat(f"n{n}") for n in range(4)]
    async with a_worker(nats_url, "--slots", "4") as first:
        assert await Runs(nc).publish(attempts)
        await leased(nc, 4)
        first.kill()
        await first.wait()

    async with a_worker(nats_url, "--slots", "4"):
        reports = await reported(nc, 4)

        assert {report.job for report in reports} == {attempt.job for attempt in attempts}
        assert all(isinstance(report.outcome, Succeeded) and report.delivery > 1 for report in reports)
        await leased(nc, 0)


async def test_an_attempt_that_was_delivered_many_times_runs_all_the_same(nc: Nats, nats_url: str) -> None:
    """A worker does not judge: a lost lease or a killed worker is not the job's fault."""
    await apply(nc, None)
    assert await Runs(nc).publish([a_chat("often")])
    pulls = await nc.jetstream().pull_subscribe_bind(subjects.pool_consumer("d"), subjects.RUN)
    for _ in range(6):
        [message] = await pulls.fetch(1, timeout=5)
        await message.nak()

    async with a_worker(nats_url):
        [report] = await reported(nc, 1)

        assert isinstance(report.outcome, Succeeded)
        assert report.delivery == 7


async def test_a_worker_told_to_stop_under_load_leaves_nothing_leased(nc: Nats, nats_url: str) -> None:
    await apply(nc, None)
    async with a_worker(nats_url, "--slots", "64") as process:
        for start in range(0, 5000, 1000):
            assert await Runs(nc).publish([a_chat(f"n{start + n}") for n in range(1000)])
        process.send_signal(signal.SIGTERM)

        assert await ended(process) == 0

    put_back = (await leases(nc)).num_ack_pending
    assert len(await outcomes(nc)) + await held_by(nc, subjects.RUN) == 5000
    if put_back:
        pulls = await nc.jetstream().pull_subscribe_bind(subjects.pool_consumer("d"), subjects.RUN)
        assert [m.metadata.num_delivered for m in await pulls.fetch(put_back, timeout=2)] == [2] * put_back
    assert await is_forgotten(nc)


async def test_a_second_signal_puts_back_what_runs(nc: Nats, nats_url: str) -> None:
    await apply(nc, SLOW)
    last: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()

    async def heard(message: Msg) -> None:
        if message.headers and message.headers[KIND] == ERROR:
            last.set_result(message)

    async def says_that_it_drains() -> bool:
        beat = await last_beat(nc)
        return (beat.draining, beat.running, beat.interactive) == (True, 3, 1)

    await nc.subscribe("infermq.reply.d.b.x", cb=heard)
    async with a_worker(nats_url) as process:
        assert await Runs(nc).publish([a_chat("x"), a_chat("y")])
        request = a_chat("z", lane=Lane.INTERACTIVE, reply_to="infermq.reply.d.b.x", key="k")
        await nc.jetstream().publish(subjects.now("d"), packed(request))
        await leased(nc, 2)
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        async with asyncio.timeout(20):
            while b"draining" not in await process.stderr.readline():
                pass
        await until(says_that_it_drains, "the worker says that it drains")
        process.send_signal(signal.SIGTERM)

        assert await ended(process) == 0

    assert {report.outcome for report in await reported(nc, 3)} == {Released()}
    assert (await leases(nc)).num_ack_pending == 0
    async with asyncio.timeout(10):
        assert ((await last).headers or {})["Infermq-Failure"]


async def test_what_still_runs_when_the_time_to_drain_is_over_is_put_back(nc: Nats, nats_url: str) -> None:
    await apply(nc, SLOW)
    async with a_worker(nats_url, "--drain-timeout-s", "0.1") as process:
        assert await Runs(nc).publish([a_chat("x")])
        await leased(nc, 1)
        process.send_signal(signal.SIGTERM)

        assert await ended(process) == 0

    assert [report.outcome for report in await outcomes(nc)] == [Released()]
    assert (await leases(nc)).num_ack_pending == 0


async def test_a_worker_told_to_stop_finishes_what_runs(nc: Nats, nats_url: str) -> None:
    await apply(nc, {"decode_tokens_per_s": 20.0})
    async with a_worker(nats_url) as process:
        assert await Runs(nc).publish([a_chat("x")])
        await leased(nc, 1)
        process.send_signal(signal.SIGTERM)

        assert await ended(process) == 0

    assert [type(report.outcome) for report in await outcomes(nc)] == [Succeeded]
    assert (await leases(nc)).num_ack_pending == 0


async def test_a_worker_whose_engine_dies_puts_back_the_others_and_ends_with_an_error(
    nc: Nats, nats_url: str
) -> None:
    await apply(nc, {**SLOW, "failures": [{"match": "die", "kind": "engine_lost"}]})
    async with a_worker(nats_url) as process:
        other, deadly = a_chat("x"), a_chat("die")
        assert await Runs(nc).publish([other])
        await leased(nc, 1)

        assert await Runs(nc).publish([deadly])

        assert await ended(process) == 1
    ends = {report.job: report.outcome for report in await outcomes(nc)}
    assert ends == {other.job: Released(), deadly.job: Failed(EngineLost("scripted"))}
    assert (await leases(nc)).num_ack_pending == 0
    assert await is_forgotten(nc)


async def test_a_worker_says_what_it_can_run(nc: Nats, nats_url: str) -> None:
    await apply(nc, SLOW, max_concurrency=8, reserve=3)
    async with a_worker(nats_url, "--name", "w", "--slots", "5"):
        beat = await last_beat(nc)

    assert (beat.worker, beat.deployment, beat.engine) == ("w", "d", "simulated")
    assert (beat.slots, beat.reserve, beat.running, beat.interactive, beat.draining) == (5, 3, 0, 0, False)


async def test_a_worker_serves_once_there_are_a_catalog_and_its_consumers(nc: Nats, nats_url: str) -> None:
    await declare_streams(nc)
    async with a_process(nats_url, "--deployment", "d") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        async with asyncio.timeout(20):
            while b"waiting for a catalog" not in await process.stderr.readline():
                pass

        await apply(nc, None)

        async with asyncio.timeout(20):
            assert json.loads(await process.stdout.readline())["ready"] is True
        assert await Runs(nc).publish([a_chat("x")])
        await reported(nc, 1)


async def test_an_idle_worker_is_live_and_ready(nc: Nats, nats_url: str) -> None:
    await apply(nc, None)
    async with a_process(nats_url, "--deployment", "d") as process:
        url = await is_ready(process)

        for path in ("livez", "healthz", "readyz"):
            assert (await seen(f"{url}/{path}"))[0] == 200
        assert (await seen(f"{url}/readyz"))[1]["revision"] == 1


async def test_a_worker_that_waits_says_so_and_is_live(tmp_path: Path) -> None:
    """First for NATS, then for a catalog."""
    port, http = free_port(), free_port()
    nats = f"nats://u:hunter2@127.0.0.1:{port}"
    async with a_process(nats, "--deployment", "d", "--http-port", str(http)) as process, AsyncExitStack() as server:
        log = await said(process, b"waiting for NATS")
        assert (await seen(f"http://127.0.0.1:{http}/livez"))[0] == 200
        status, state = await seen(f"http://127.0.0.1:{http}/readyz")
        assert (status, state["doors"]["run"]["why"]) == (503, "the worker waits for NATS")

        url = await server.enter_async_context(nats_server(tmp_path, port=port))
        log += await said(process, b"waiting for a catalog")
        status, state = await seen(f"http://127.0.0.1:{http}/readyz")
        assert (status, state["doors"]["run"]["why"]) == (503, "the worker waits for a catalog")

        nc = Nats()
        await nc.connect(url)
        await apply(nc, None)
        await nc.close()
        await is_ready(process)
        assert (await seen(f"http://127.0.0.1:{http}/readyz"))[0] == 200
    assert b"hunter2" not in log


async def test_a_port_that_is_taken_is_named_with_its_option(nats_url: str) -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with a_process(nats_url, "--deployment", "d", "--http-port", str(port)) as process:
        assert await ended(process) == 1
        log = await said(process, b"error: ")
    server.close()

    assert f"--http-port {port}: Address already in use".encode() in log
    assert b"NATS" not in log


async def test_after_a_restart_of_nats_a_worker_goes_on(tmp_path: Path) -> None:
    async with AsyncExitStack() as first, AsyncExitStack() as second:
        url = await first.enter_async_context(nats_server(tmp_path))
        nc = Nats()
        await nc.connect(url, max_reconnect_attempts=-1, reconnect_time_wait=1)
        await apply(nc, {"decode_tokens_per_s": 200.0}, lease_s=2.0)
        async with a_worker(url, "--slots", "8") as process:
            assert await Runs(nc).publish([a_chat(f"n{n}") for n in range(400)])
            await reported(nc, 40)

            await first.aclose()
            await second.enter_async_context(nats_server(tmp_path, port=int(url.rpartition(":")[2])))
            more = [a_chat(f"m{n}") for n in range(100)]
            await until(lambda: Runs(nc).publish(more), "NATS takes attempts again")

            reports = await reported(nc, 500)
            assert len({report.job for report in reports}) == 500
            assert process.returncode is None
            await leased(nc, 0)
        await nc.close()
