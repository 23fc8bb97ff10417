"""A task that is told to end inside a call of the NATS connection ends there."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from nats.aio.msg import Msg

from schemas.jetstream import ACK, Outgoing, answer_all, publish_atomically, publish_in_order, publish_one
from schemas.jetstream.client import NatsClient
from schemas.jetstream.client import NatsClient as Nats
from tests.proxy import Proxy, a_proxy

pytestmark = [pytest.mark.real, pytest.mark.timeout(30)]
LARGE = b"x" * 500_000
MESSAGES = [Outgoing("a", b"1"), Outgoing("a", b"2")]
CALLS: dict[str, Callable[[Nats], Awaitable[object]]] = {
    "publish": lambda nc: nc.publish("a", b"x"),
    "request": lambda nc: nc.request("a", b"x", timeout=20),
    "subscribe": lambda nc: nc.subscribe("a"),
    "unsubscribe": lambda nc: nc._subs[1].unsubscribe(),
    "drain": lambda nc: nc._subs[1].drain(),  # type: ignore[no-untyped-call]
    "flush": lambda nc: nc.flush(),
    "put": lambda nc: nc.jetstream().publish("a", b"x", timeout=20),
    "store one": lambda nc: publish_one(nc, MESSAGES[0], timeout_s=20),
    "store in order": lambda nc: publish_in_order(nc, MESSAGES, timeout_s=20),
    "store all or none": lambda nc: publish_atomically(nc, MESSAGES, batch_id="b", timeout_s=20),
    "acknowledge": lambda nc: answer_all(nc, ["a", "a"], ACK),
}


@pytest.fixture
async def proxy(nats_url: str) -> AsyncIterator[Proxy]:
    async with a_proxy(nats_url) as proxy:
        yield proxy


async def a_connection(url: str) -> NatsClient:
    """It waits for the flush of each message, since hardly anything may wait to be written."""
    nc = NatsClient()
    await nc.connect(url, pending_size=1, flush_timeout=20, allow_reconnect=False)
    await nc.subscribe("first")
    return nc


@pytest.fixture
async def stuck(proxy: Proxy) -> AsyncIterator[Nats]:
    """Nobody reads what it writes, and no more goes into the buffers on the way."""
    nc = await a_connection(proxy.url)
    proxy.flows.clear()
    while True:
        filling = asyncio.create_task(nc.publish("fill", LARGE))
        _, waits = await asyncio.wait({filling}, timeout=0.3)
        if waits:
            break
    yield nc
    proxy.flows.set()
    await filling
    await nc.close()


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_that_waits_for_a_slow_server_ends_when_it_is_told_to(name: str, stuck: Nats) -> None:
    gone_on = False

    async def call() -> None:
        nonlocal gone_on
        await CALLS[name](stuck)
        gone_on = True

    task = asyncio.create_task(call())
    _, waits = await asyncio.wait({task}, timeout=0.1)
    assert waits

    task.cancel()
    await asyncio.wait({task}, timeout=2)

    assert task.cancelled()
    assert not gone_on


async def test_a_loop_that_publishes_for_ever_ends_when_it_is_told_to(nats_url: str) -> None:
    nc = await a_connection(nats_url)
    published, is_over = asyncio.Event(), False

    async def publish() -> None:
        while not is_over:
            await nc.publish("a", b"x")
            published.set()

    task = asyncio.create_task(publish())
    await published.wait()
    task.cancel()
    await asyncio.wait({task}, timeout=2)
    is_over = True
    await asyncio.wait({task})

    assert task.cancelled()
    await nc.close()


async def test_an_answer_that_comes_at_the_same_moment_does_not_hide_the_end(nats_url: str) -> None:
    nc = await a_connection(nats_url)
    asking: asyncio.Task[Msg] | None = None

    async def end(_: Msg) -> None:
        if asking is not None and asking.cancel():
            told.append(asking)

    async def answer(message: Msg) -> None:
        await message.respond(b"yes")

    told: list[asyncio.Task[Msg]] = []
    await nc.subscribe("ask", cb=answer)
    await nc.request("ask", timeout=10)
    await nc.subscribe("_INBOX.>", cb=end)

    for _ in range(50):
        asking = asyncio.create_task(nc.request("ask", timeout=10))
        await asyncio.wait({asking})

    assert told
    assert all(task.cancelled() for task in told)
    await nc.close()


async def test_a_message_that_comes_at_the_same_moment_does_not_hide_the_end(nats_url: str) -> None:
    nc = await a_connection(nats_url)
    waiting: asyncio.Task[Msg] | None = None
    told: list[asyncio.Task[Msg]] = []

    async def end(_: Msg) -> None:
        if waiting is not None and waiting.cancel():
            told.append(waiting)

    messages = await nc.subscribe("news")
    await nc.subscribe("news", cb=end)
    for _ in range(50):
        waiting = asyncio.create_task(messages.next_msg(timeout=10))
        await asyncio.sleep(0)
        await nc.publish("news", b"")
        await asyncio.wait({waiting})

    assert told
    assert all(task.cancelled() for task in told)
    await nc.close()


async def test_a_task_that_ends_can_still_publish(nats_url: str) -> None:
    nc = await a_connection(nats_url)
    words = await nc.subscribe("last.words")
    began = asyncio.Event()

    async def work() -> None:
        try:
            began.set()
            await asyncio.Event().wait()
        finally:
            await nc.publish("last.words", b"1")
            await nc.flush()
            await nc.publish("last.words", b"2")

    task = asyncio.create_task(work())
    await began.wait()
    task.cancel()
    await asyncio.wait({task})

    assert [(await words.next_msg(timeout=5)).data for _ in range(2)] == [b"1", b"2"]
    assert task.cancelled()
    await nc.close()


async def test_a_time_limit_inside_a_call_is_still_a_time_limit(stuck: Nats) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await stuck.publish("a", b"x")
