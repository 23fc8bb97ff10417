"""What brokers hear of workers and catalogs, from a real NATS."""

import asyncio
from collections.abc import AsyncIterator, Callable

import nats
import pytest
from nats.aio.client import Client as Nats

from broker.bus.heard import Beats, Catalogs
from schemas import subjects
from schemas.catalog import Revision
from schemas.codec import jsoned
from schemas.units import Ms
from schemas.worker import WorkerBeat
from tests.builders import a_catalog, now

pytestmark = pytest.mark.real
UNREADABLE = [b"nope", b'{"worker": "\xff", "number": "\xff"}', b'{"x": ' + b"[" * 100_000]


@pytest.fixture
def raised() -> list[Exception]:
    """What the callbacks of subscriptions raise."""
    return []


@pytest.fixture
async def listener(nats_url: str, raised: list[Exception]) -> AsyncIterator[Nats]:
    async def note(error: Exception) -> None:
        raised.append(error)

    connection = await nats.connect(nats_url, error_cb=note)
    yield connection
    await connection.close()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.01)


def a_beat(worker: str) -> WorkerBeat:
    return WorkerBeat(
        worker=worker,
        deployment="d",
        engine="simulated",
        slots=4,
        reserve=1,
        running=0,
        live=0,
        draining=False,
        started_ms=now(),
        at_ms=now(),
        version="0",
    )


async def test_beats_that_cannot_be_read_are_ignored(listener: Nats, raised: list[Exception]) -> None:
    beats = Beats(listener)
    await beats.listen()

    for data in (*UNREADABLE, jsoned(a_beat("w"))):
        await listener.publish(f"$KV.{subjects.WORKERS_BUCKET}.w", data)

    await until(lambda: beats.slots() == {"d": 4})
    assert raised == []


async def test_catalogs_that_cannot_be_read_are_ignored(listener: Nats, raised: list[Exception]) -> None:
    catalogs = Catalogs(listener)
    await catalogs.listen()

    for data in (*UNREADABLE, jsoned(Revision(7, Ms(0), a_catalog()))):
        await listener.publish(f"$KV.{subjects.CATALOG_BUCKET}.{subjects.ACTIVE}", data)

    await until(lambda: catalogs.active.number == 7)
    assert raised == []
