"""What a connection does when it is lost, and what NATS may do besides."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from broker.simulate.nats import faults
from broker.simulate.nats.refusals import NotSimulated
from broker.simulate.nats.session import Session
from schemas import subjects
from schemas.jetstream import Message, NatsConnection, NatsError, NatsTimeoutError, NoRespondersError
from schemas.jetstream.connection import OutboundBufferLimitError
from tests.contract.nats.asking import (
    MS,
    SOON_S,
    S,
    a_consumer,
    a_queue,
    a_stream,
    answer,
    asked,
    consumer,
    done,
    eventually,
    facts,
    progress,
    pulling,
    state,
    stored,
)
from tests.contract.nats.conftest import MemoryBus
from tests.contract.nats.ways import Way
from tests.declared import declare_pool, declare_streams

pytestmark = pytest.mark.timeout(60)


class Told:
    """The callbacks of a connection."""

    def __init__(self) -> None:
        self.lost = asyncio.Event()
        self.back = asyncio.Event()
        self.order: list[str] = []

    async def on_lost(self) -> None:
        self.order.append("lost")
        self.lost.set()

    async def on_back(self) -> None:
        self.order.append("back")
        self.back.set()

    def options(self) -> dict[str, Any]:
        return {
            "disconnected_cb": self.on_lost,
            "reconnected_cb": self.on_back,
            "max_reconnect_attempts": -1,
            "reconnect_time_wait": 0.05,
        }


@asynccontextmanager
async def away(way: Way, told: Told) -> AsyncIterator[None]:
    """While the block runs the server is away; after it the connection is back."""
    way.shut()
    async with asyncio.timeout(SOON_S):
        await told.lost.wait()
    yield
    way.open()
    async with asyncio.timeout(SOON_S):
        await told.back.wait()


async def test_a_lost_connection_comes_back_with_its_subscriptions(way: Way, nc: NatsConnection) -> None:
    told = Told()
    lost = await way.connect(**told.options())
    heard = await lost.subscribe("one")
    await lost.request("$JS.API.STREAM.NAMES", b"", timeout=SOON_S)
    assert (lost.reconnects, lost.is_connected, lost.is_closed) == (0, True, False)

    way.cut()
    async with asyncio.timeout(SOON_S):
        await told.back.wait()

    assert (lost.reconnects, lost.is_connected, lost.is_closed) == (1, True, False)
    assert told.order == ["lost", "back"]
    await nc.publish("one", b"x")
    assert (await heard.next_msg(SOON_S)).data == b"x"
    assert (await lost.request("$JS.API.STREAM.NAMES", b"", timeout=SOON_S)).data


async def test_what_is_published_while_the_server_is_away_comes_later(way: Way, nc: NatsConnection) -> None:
    told = Told()
    lost = await way.connect(**told.options())
    heard = await nc.subscribe("one")
    await nc.flush()

    async with away(way, told):
        assert not lost.is_connected
        for n in range(3):
            await lost.publish("one", b"%d" % n)
        with pytest.raises(NatsTimeoutError):
            await lost.request("one", b"3", timeout=0.05)

    assert [(await heard.next_msg(SOON_S)).data for _ in range(4)] == [b"0", b"1", b"2", b"3"]


async def test_only_so_much_waits_while_the_server_is_away(way: Way) -> None:
    told = Told()
    lost = await way.connect(pending_size=1000, **told.options())

    async with away(way, told):
        await lost.publish("one", b"x" * 600)
        with pytest.raises(OutboundBufferLimitError):
            await lost.publish("one", b"x" * 600)


async def test_a_subscription_that_ends_while_the_server_is_away_is_over(way: Way, nc: NatsConnection) -> None:
    told = Told()
    lost = await way.connect(**told.options())
    over, stays = await lost.subscribe("one"), await lost.subscribe("one")

    async with away(way, told):
        await over.unsubscribe()
        late = await lost.subscribe("late")

    await nc.publish("one", b"x")
    await nc.publish("late", b"y")
    assert (await stays.next_msg(SOON_S)).data == b"x"
    assert (await late.next_msg(SOON_S)).data == b"y"
    with pytest.raises((NatsError, TimeoutError)):
        await over.next_msg(0.05)


async def test_a_subscription_that_begins_and_ends_while_the_server_is_away_is_not_kept_by_it(
    way: Way, nc: NatsConnection
) -> None:
    told = Told()
    lost = await way.connect(**told.options())

    async with away(way, told):
        over = await lost.subscribe("one")
        await lost.publish("two", b"x")
        await over.unsubscribe()
    await lost.flush()

    with pytest.raises(NoRespondersError):
        await nc.request("one", b"x", timeout=SOON_S)


@pytest.mark.parametrize("is_given_up", [True, False])
async def test_a_subscription_that_was_being_drained_does_not_come_back_with_its_connection(
    way: Way, nc: NatsConnection, *, is_given_up: bool
) -> None:
    """Its drain takes long, and is given up or goes on: here because a message is handled."""
    told, taken, handled = Told(), asyncio.Event(), asyncio.Event()
    lost = await way.connect(**told.options())

    async def handle(_: Message) -> None:
        taken.set()
        await handled.wait()

    over = await lost.subscribe("one", cb=handle)
    await lost.flush()
    await nc.publish("one", b"x")
    await taken.wait()
    draining = asyncio.create_task(over.drain())
    await lost.flush()
    if is_given_up:
        draining.cancel()
        await asyncio.wait([draining])

    way.cut()
    async with asyncio.timeout(SOON_S):
        await told.back.wait()
    handled.set()
    await asyncio.wait([draining])
    await lost.flush()

    with pytest.raises(NoRespondersError):
        await nc.request("one", b"x", timeout=SOON_S)


async def test_a_flush_waits_for_nothing_while_the_server_is_away(way: Way, nc: NatsConnection) -> None:
    told = Told()
    lost = await way.connect(**told.options())
    drained, stays = await lost.subscribe("one"), await lost.subscribe("one")

    async with away(way, told), asyncio.timeout(5):
        await lost.flush()
        await drained.drain()

    await nc.publish("one", b"x")
    assert (await stays.next_msg(SOON_S)).data == b"x"


async def test_a_lost_connection_may_be_closed(way: Way) -> None:
    told = Told()
    lost = await way.connect(**told.options())
    subscription = await lost.subscribe("one")

    way.shut()
    async with asyncio.timeout(SOON_S):
        await told.lost.wait()
        await lost.close()  # type: ignore[attr-defined] # both have it

    assert (lost.is_closed, lost.is_connected) == (True, False)
    with pytest.raises(NatsError):
        await subscription.next_msg(0.05)
    way.open()


async def test_a_pull_is_over_with_its_connection(way: Way, nc: NatsConnection) -> None:
    told = Told()
    lost = await way.connect(**told.options())
    await a_queue(nc)
    await a_consumer(nc)
    pulls = await pulling(lost)
    await pulls.ask(batch=5, expires=60 * S)
    await eventually(lambda: _waits(nc, 1), "the pull waits")

    async with away(way, told):
        await eventually(lambda: _waits(nc, 0), "the pull is over")
        await stored(nc, "s.a")

    await pulls.nothing()
    await pulls.ask(batch=5, expires=60 * S)
    [message] = await pulls.messages(1)
    assert facts(message) == (1, 1, 1)


async def _waits(nc: NatsConnection, count: int) -> bool:
    return bool((await progress(nc))["num_waiting"] == count)


async def test_a_message_beyond_the_servers_limit_ends_the_connection(way: Way) -> None:
    told = Told()
    lost = await way.connect(**told.options())

    await lost.write(b"PUB one %d\r\n%b\r\n" % (lost.max_payload + 1, b"x" * (lost.max_payload + 1)))
    await lost.publish("one", b"")

    async with asyncio.timeout(SOON_S):
        await told.back.wait()
    assert lost.reconnects == 1


async def test_a_connection_waits_for_a_server_that_is_away(way: Way) -> None:
    told, tried = Told(), asyncio.Event()

    async def on_error(_: Exception) -> None:
        tried.set()

    way.shut()
    connecting = asyncio.create_task(way.connect(error_cb=on_error, **told.options()))
    async with asyncio.timeout(SOON_S):
        await tried.wait()
        way.open()
        connected = await connecting

    assert connected.is_connected
    assert connected.reconnects == 0


# what only the memory server can be told to do


@pytest.fixture
async def nats(memory_bus: MemoryBus) -> NatsConnection:
    return await memory_bus.connect(**Told().options())


def sessions(bus: MemoryBus) -> list[Session]:
    return list(bus.server.sessions)


async def test_after_a_restart_files_are_there_and_memory_is_not(memory_bus: MemoryBus, nats: NatsConnection) -> None:
    await a_queue(nats)
    await a_consumer(nats, ack_wait=200 * MS)
    await a_stream(nats, "M", subjects=["m.*"], storage="memory")
    for subject in ("s.a", "s.b", "m.a"):
        await stored(nats, subject, Msg_Id=subject)
    pulls = await pulling(nats)
    await pulls.ask(batch=1, expires=60 * S)
    [held] = await pulls.messages(1)

    faults.restart(memory_bus.server)
    await eventually(lambda: _is_back(nats), "the connection is back")

    assert (await asked(nats, "STREAM.INFO.M"))["error"]["err_code"] == 10059
    assert (await state(nats))["messages"] == 2
    assert (await progress(nats))["num_waiting"] == 0
    assert await stored(nats, "s.b", Msg_Id="s.b") == {"stream": "S", "seq": 2, "duplicate": True}
    await pulls.ask(batch=2, expires=60 * S)
    second, first = await pulls.messages(2)
    assert (facts(second), facts(first)) == ((1, 2, 2), (2, 1, 3))
    await answer(nats, held, b"+ACK")
    assert (await state(nats))["messages"] == 1


async def test_after_a_restart_the_ids_of_messages_that_are_gone_are_unknown(
    memory_bus: MemoryBus, nats: NatsConnection
) -> None:
    await a_stream(nats)
    await stored(nats, "s.a", Msg_Id="gone")
    await done(nats, "STREAM.MSG.DELETE.S", {"seq": 1})

    faults.restart(memory_bus.server)
    await eventually(lambda: _is_back(nats), "the connection is back")

    assert await stored(nats, "s.a", Msg_Id="gone") == {"stream": "S", "seq": 2}


async def _is_back(nc: NatsConnection) -> bool:
    return nc.is_connected and nc.reconnects > 0


async def test_a_consumer_may_lose_what_it_knows(memory_bus: MemoryBus, nats: NatsConnection) -> None:
    await a_queue(nats)
    await a_consumer(nats)
    for _ in range(3):
        await stored(nats, "s.a")
    pulls = await pulling(nats)
    await pulls.ask(batch=9, expires=60 * S)
    first, *_ = await pulls.messages(3)
    await answer(nats, first, b"+ACK")

    faults.lose_progress(memory_bus.server, "S", "c")

    assert [facts(one) for one in await pulls.messages(2)] == [(1, 2, 1), (1, 3, 2)]


async def test_a_message_may_come_twice(memory_bus: MemoryBus, nats: NatsConnection) -> None:
    await a_queue(nats)
    await a_consumer(nats)
    await stored(nats, "s.a")
    pulls = await pulling(nats)
    await pulls.ask(batch=9, expires=60 * S)
    await pulls.messages(1)

    faults.deliver_twice(memory_bus.server, "S", "c", 1)
    faults.deliver_twice(memory_bus.server, "S", "c", 7)

    assert [facts(one) for one in await pulls.messages(1)] == [(2, 1, 2)]
    await pulls.nothing()


@pytest.mark.parametrize("lose", [faults.lose_store, lambda server: faults.lose_stream(server, "S")])
async def test_streams_may_be_lost(memory_bus: MemoryBus, nats: NatsConnection, lose: Callable[[Any], None]) -> None:
    await a_queue(nats)
    await a_consumer(nats)
    await stored(nats, "s.a")

    lose(memory_bus.server)

    with pytest.raises(NoRespondersError):
        await nats.request("s.a", b"x", timeout=SOON_S)
    await a_queue(nats)
    assert await stored(nats, "s.a") == {"stream": "S", "seq": 1}


async def test_a_stalled_connection_carries_nothing_until_it_goes_on(
    memory_bus: MemoryBus, nats: NatsConnection
) -> None:
    heard = await nats.subscribe("one")
    other = await memory_bus.connect()
    await nats.flush()
    own, _ = sessions(memory_bus)

    own.stall()
    await other.publish("one", b"1")
    await nats.publish("two", b"")
    await other.flush()
    with pytest.raises(NatsTimeoutError):
        await heard.next_msg(0.05)
    with pytest.raises(NatsTimeoutError):
        await nats.request("$JS.API.STREAM.NAMES", b"", timeout=0.05)
    own.go_on()

    assert (await heard.next_msg(SOON_S)).data == b"1"
    assert nats.reconnects == 0


async def test_a_connection_whose_pings_are_not_answered_is_given_up(memory_bus: MemoryBus) -> None:
    told = Told()
    lost = await memory_bus.connect(ping_interval=0.05, **told.options())
    sessions(memory_bus)[-1].stall()

    async with asyncio.timeout(SOON_S):
        await told.back.wait()

    assert (lost.reconnects, len(sessions(memory_bus))) == (1, 1)


@pytest.mark.parametrize(
    ("subject", "body"),
    [
        ("STREAM.PURGE.S", {}),
        ("STREAM.CREATE.T", {"name": "T", "mirror": {"name": "S"}}),
        ("CONSUMER.CREATE.S.c", consumer(deliver_subject="d")),
        ("CONSUMER.CREATE.S.c", consumer(ack_policy="all")),
    ],
)
async def test_what_the_memory_server_cannot_do_it_does_not_pretend_to_do(
    memory_bus: MemoryBus, nats: NatsConnection, subject: str, body: dict[str, Any]
) -> None:
    await a_stream(nats)

    with pytest.raises(NotSimulated):
        memory_bus.server.publish(f"$JS.API.{subject}", "reply", b"", json.dumps(body).encode())


async def test_the_streams_of_infermq_are_declared_in_memory(nats: NatsConnection) -> None:
    for _ in range(2):
        await declare_streams(nats)
        await declare_pool(nats, "d", slots=3)

    told = await asked(nats, f"CONSUMER.LIST.{subjects.RUN}", {"offset": 0})
    assert [one["name"] for one in told["consumers"]] == [subjects.pool_consumer("d")]
    assert json.dumps(told)
