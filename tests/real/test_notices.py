"""What brokers hear of workers and catalogs, from a real NATS."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest
from msgspec.structs import replace

from broker.bus import notices
from broker.bus.beats import Beats
from broker.bus.notices import announce_settled, decode_settled
from broker.core.records import EndedAttempt, Flow
from schemas import subjects
from schemas.codec import jsoned, packed
from schemas.jetstream import Message
from schemas.jetstream.client import NatsClient as Nats
from schemas.job import Lane
from schemas.units import Ms
from tests.builders import a_beat, a_worker, an_id, now
from workers.beat import delete_beat, publish_beat

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

    connection = Nats()
    await connection.connect(nats_url, error_cb=note)
    yield connection
    await connection.close()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.01)


async def test_beats_that_cannot_be_read_are_ignored(listener: Nats, raised: list[Exception]) -> None:
    ignored: list[None] = []
    beats = Beats(listener, clock=now, ignored=lambda: ignored.append(None))
    await beats.listen()

    for data in (*UNREADABLE, jsoned(a_beat("w", slots=2**62)), jsoned(a_beat("another")), jsoned(a_beat("w"))):
        await listener.publish(subjects.beat(a_worker()), data)

    await until(lambda: [(beat.worker, beat.slots) for beat in beats.alive()] == [("w", 4)])
    assert len(ignored) == len(UNREADABLE) + 2
    assert raised == []


async def test_nobody_beats_or_says_goodbye_for_another(listener: Nats, raised: list[Exception]) -> None:
    ignored: list[None] = []
    beats = Beats(listener, clock=now, ignored=lambda: ignored.append(None))
    await beats.listen()
    true, alike = a_beat("w"), [a_beat("w", deployment="e"), a_beat("w", key="k")]
    await publish_beat(listener, true)
    for state in alike:
        await publish_beat(listener, state)
    await until(lambda: len(beats.alive()) == 3)

    for state in alike:
        await listener.publish(subjects.beat(state.id), jsoned(replace(true, draining=True)))
        await delete_beat(listener, state.id)
    await listener.publish(f"$KV.{subjects.WORKERS_BUCKET}.d.default.w.x", jsoned(replace(true, draining=True)))
    await listener.publish(f"$KV.{subjects.WORKERS_BUCKET}.w", b"")

    await until(lambda: len(ignored) == 3 and beats.alive() == [true])
    assert [one.beat.id for one in beats.presence.here] == [true.id]
    assert raised == []


async def test_notices_that_cannot_be_read_are_ignored_and_counted(listener: Nats, raised: list[Exception]) -> None:
    heard: list[Ms] = []
    ignored: list[None] = []
    hear = notices.listener(notices.decode_delayed, heard.append, ignored=lambda: ignored.append(None))
    await listener.subscribe(subjects.CTL_DELAYED, cb=hear)

    for data in (*UNREADABLE, packed(-1), packed(2**63), packed(7)):
        await listener.publish(subjects.CTL_DELAYED, data)

    await until(lambda: heard == [7])
    assert len(ignored) == len(UNREADABLE) + 2
    assert raised == []


async def test_a_worker_that_leaves_is_forgotten_at_once(listener: Nats) -> None:
    beats, changes = Beats(listener, clock=now), list[None]()
    await beats.listen()
    await publish_beat(listener, a_beat("w"))
    await until(lambda: bool(beats.alive()))
    beats.changed = lambda: changes.append(None)

    await delete_beat(listener, a_worker())

    await until(lambda: not beats.alive())
    assert len(changes) == 1


async def test_a_worker_that_is_not_heard_any_more_is_forgotten(listener: Nats) -> None:
    beats = Beats(listener, clock=now, lifetime_ms=300)
    await beats.listen()
    await publish_beat(listener, a_beat("w"))
    await until(lambda: bool(beats.alive()))

    watching = asyncio.create_task(beats.watch())
    await until(lambda: not beats.alive())
    watching.cancel()


async def test_a_broker_that_was_stopped_for_long_still_knows_its_workers(listener: Nats) -> None:
    """Their beats are in its buffers, and come after the request that it reads first."""
    beats = Beats(listener, clock=now, lifetime_ms=600)
    await beats.listen()
    await publish_beat(listener, a_beat("w"))
    await until(lambda: bool(beats.alive()))
    watching = asyncio.create_task(beats.watch())
    await asyncio.sleep(0)

    time.sleep(0.7)  # noqa: ASYNC251 - nothing of this process goes on
    known = []
    for _ in range(5):
        known.append(beats.alive())
        await asyncio.sleep(0)
    watching.cancel()

    assert all(known)


async def test_only_another_capacity_is_a_change(listener: Nats) -> None:
    beats, changes = Beats(listener, clock=now), list[None]()
    await beats.listen()
    beats.changed = lambda: changes.append(None)

    for state in (a_beat("a"), a_beat("a"), a_beat("a", draining=True), a_beat("b")):
        await publish_beat(listener, state)

    await until(lambda: len(beats.alive()) == 2)
    assert len(changes) == 3


async def test_attempts_that_are_over_are_heard_of_with_their_flows_however_many(listener: Nats) -> None:
    flows = [Flow("m", Lane.BULK, "a"), Flow("m", Lane.BULK, "b"), Flow("n", Lane.STANDARD, "a")]
    over = [EndedAttempt(an_id(), n % 4, flows[n % 3], n) for n in range(4100)]
    heard: list[EndedAttempt] = []

    async def hear(message: Message) -> None:
        heard.extend(decode_settled(message.data))

    await listener.subscribe(subjects.CTL_SETTLED, cb=hear)
    await announce_settled(listener, over)
    await until(lambda: len(heard) == len(over))

    assert sorted(heard, key=lambda one: one.tokens) == over
