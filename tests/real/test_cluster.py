"""Several NATS nodes: streams are kept on all of them, and whoever is connected to one that dies goes to another."""

import os
import signal
from pathlib import Path

import pytest

from broker.bus.desired import desired
from broker.bus.streams import NatsStreams
from broker.cli.doctor import Grade, Known, examine
from broker.client import Client
from broker.config import LEASE_S
from schemas.jetstream import call
from schemas.jetstream.client import NatsClient as Nats
from schemas.jetstream.client import urls_of
from tests.chaos.cluster import a_cluster
from tests.real.test_broker import a_broker
from tests.system import until

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]
NOBODY = "nats://127.0.0.1:1"
NAMES = [stream.name for stream in desired({}, lease_s=LEASE_S)]


async def replicas(nc: Nats) -> set[int]:
    return {(await call(nc, f"STREAM.INFO.{name}"))["config"]["num_replicas"] for name in NAMES}


async def kept_on(nc: Nats, nodes: int) -> None:
    async def they_are() -> bool:
        kept = await NatsStreams(nc, replicas=nodes).keep({"d": 4}, lease_s=LEASE_S)
        return kept.wrong == {} and kept.short == {}

    await until(they_are, f"all streams are kept on {nodes} nodes")


async def test_streams_are_raised_to_three_nodes_and_outlive_one(tmp_path: Path) -> None:
    async with a_cluster(tmp_path) as urls:
        nc = Nats()
        await nc.connect(urls, max_reconnect_attempts=-1)
        await kept_on(nc, 1)
        one = await replicas(nc)
        await kept_on(nc, 3)
        three = await replicas(nc)
        before = nc.connected_url
        assert before is not None

        node = urls_of(urls).index(f"nats://{before.netloc}") + 1
        os.kill(int((tmp_path / "nats" / str(node) / "pid").read_text()), signal.SIGKILL)

        async def is_elsewhere() -> bool:
            return nc.is_connected and nc.stats["reconnects"] > 0

        await until(is_elsewhere, "the connection has gone to another node", within_s=10)
        await kept_on(nc, 3)
        await nc.close()

    assert (one, three) == ({1}, {3})


async def test_a_server_alone_keeps_streams_with_one_replica_and_says_so(nc: Nats) -> None:
    streams = NatsStreams(nc, replicas=3)
    await streams.keep({"d": 4}, lease_s=LEASE_S)

    kept = await streams.keep({"d": 4}, lease_s=LEASE_S)

    assert kept.wrong == {}
    assert set(kept.short) == {f"stream {name}: num_replicas" for name in NAMES}
    assert "replicas > 1 not supported" in next(iter(kept.short.values()))


async def test_a_node_that_is_away_keeps_nobody_from_the_others(nats_url: str, ledger_url: str, nc: Nats) -> None:
    urls = f"{NOBODY}, {nats_url}"
    async with a_broker(urls, ledger_url, nc):
        async with Client.connect(urls) as client:
            status = await client.status()
        findings = {one.name: one.grade for one in await examine(Known(nats_url=urls, postgres_url=None, data=None))}

    assert status.leader is None or status.leader == status.name
    assert findings["NATS"] is findings["streams"] is Grade.OK
