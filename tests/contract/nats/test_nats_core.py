"""Subjects, queue groups, requests, headers, and what a connection does with them."""

import asyncio
from collections import Counter

import pytest

from schemas.jetstream import (
    MaxPayloadError,
    Message,
    NatsConnection,
    NatsError,
    NatsTimeoutError,
    NoRespondersError,
    Subscription,
)
from schemas.jetstream.connection import BadSubjectError
from tests.contract.nats.asking import SOON_S
from tests.contract.nats.conftest import Bus

pytestmark = pytest.mark.timeout(60)


async def subjects_heard(subscription: Subscription, nc: NatsConnection) -> list[str]:
    """Everything that came until now."""
    await nc.flush()
    heard = []
    try:
        while True:
            heard.append((await subscription.next_msg(0.05)).subject)
    except NatsTimeoutError:
        return heard


@pytest.mark.parametrize(
    ("pattern", "heard"),
    [
        ("a.b", ["a.b"]),
        ("a.*", ["a.b", "a.c"]),
        ("*.b", ["a.b", "b.b"]),
        ("a.>", ["a.b", "a.c", "a.b.c"]),
        ("*.*.c", ["a.b.c"]),
        ("a.*.c", ["a.b.c"]),
        ("a", ["a"]),
        ("*", ["a"]),
        ("*.>", ["a.b", "a.c", "b.b", "a.b.c"]),
    ],
)
async def test_a_subscription_hears_what_its_pattern_takes(
    nc: NatsConnection, pattern: str, heard: list[str]
) -> None:
    subscription = await nc.subscribe(pattern)
    for subject in ("a", "a.b", "a.c", "b.b", "a.b.c"):
        await nc.publish(subject, b"x")

    assert await subjects_heard(subscription, nc) == heard


async def test_each_subscription_hears_a_message_and_of_a_queue_group_one(bus: Bus, nc: NatsConnection) -> None:
    other = await bus.connect()
    heard: Counter[str] = Counter()

    async def listen(connection: NatsConnection, name: str, queue: str = "", subject: str = "q.a") -> None:
        async def hear(_: Message) -> None:
            heard[name] += 1

        await connection.subscribe(subject, queue, hear)

    await listen(nc, "plain")
    await listen(other, "plain too", subject="q.*")
    for n, connection in enumerate((nc, other, other)):
        await listen(connection, f"member {n}", "g", subject="q.>" if n else "q.a")
    await listen(nc, "other group", "h")
    await other.flush()
    await nc.flush()
    for _ in range(60):
        await nc.publish("q.a", b"x")
    await nc.flush()
    await other.flush()
    await asyncio.sleep(0.1)

    assert (heard["plain"], heard["plain too"], heard["other group"]) == (60, 60, 60)
    members = [heard[f"member {n}"] for n in range(3)]
    assert sum(members) == 60
    assert all(members)


async def test_a_request_is_answered(nc: NatsConnection) -> None:
    async def answer(message: Message) -> None:
        await nc.publish(message.reply, message.data + b"!", headers={"Kind": "answer"})

    await nc.subscribe("ask", cb=answer)

    answered = await asyncio.gather(*(nc.request("ask", b"%d" % n, timeout=SOON_S) for n in range(5)))

    assert [one.data for one in answered] == [b"%d!" % n for n in range(5)]
    assert answered[0].headers == {"Kind": "answer"}
    assert answered[0].reply == ""


async def test_a_request_that_nobody_hears_is_told_so(nc: NatsConnection) -> None:
    with pytest.raises(NoRespondersError):
        await nc.request("nobody", b"x", timeout=SOON_S)


async def test_a_publish_that_nobody_hears_is_told_so_on_its_reply(nc: NatsConnection) -> None:
    told = await nc.subscribe("unheard.1")

    await nc.publish("nobody.here", b"x", "unheard.1")

    message = await told.next_msg(SOON_S)
    assert message.headers == {
        "Status": "503",
        "Description": "\nNats-Subject: nobody.here",
        "Nats-Subject": "nobody.here",
    }
    assert (message.data, message.reply, message.subject) == (b"", "", "unheard.1")


async def test_a_request_that_nobody_answers_times_out(nc: NatsConnection) -> None:
    await nc.subscribe("silent")

    with pytest.raises(NatsTimeoutError):
        await nc.request("silent", b"x", timeout=0.05)


@pytest.mark.parametrize(
    ("sent", "came"),
    [
        (None, None),
        ({}, None),
        ({"Kind": "final", "kind": "other", "Seq": "1"}, {"Kind": "final", "kind": "other", "Seq": "1"}),
        ({"Kind": "final\r\nSeq: 9"}, {"Kind": "final  Seq: 9"}),
        ({"Kind": " spaces  in "}, {"Kind": "spaces  in"}),
        ({"Kind": ""}, {"Kind": ""}),
        ({"Kind": "Grüße: ☃"}, {"Kind": "Grüße: ☃"}),
    ],
    ids=["none", "empty", "two of a name", "a forged one", "spaces", "no text", "not ASCII"],
)
async def test_headers_come_as_they_were_sent(
    nc: NatsConnection, sent: dict[str, str] | None, came: dict[str, str] | None
) -> None:
    heard = await nc.subscribe("h")

    await nc.publish("h", b"x", "r.1", sent)

    message = await heard.next_msg(SOON_S)
    assert (message.headers, message.data, message.reply) == (came, b"x", "r.1")


async def test_commands_are_written_as_they_are_on_the_wire(nc: NatsConnection) -> None:
    heard = await nc.subscribe("w.>")
    head = b"NATS/1.0\r\nA: b\r\n\r\n"

    await nc.write(b"PUB w.1 2\r\nab\r\nPUB w.2 w.r 0\r\n\r\n")
    await nc.write(b"HPUB w.3 %d %d\r\n%bx\r\n" % (len(head), len(head) + 1, head))
    await nc.publish("w.4", b"last")

    came = [await heard.next_msg(SOON_S) for _ in range(4)]
    assert [(one.subject, one.reply, one.data, one.headers) for one in came] == [
        ("w.1", "", b"ab", None),
        ("w.2", "w.r", b"", None),
        ("w.3", "", b"x", {"A": "b"}),
        ("w.4", "", b"last", None),
    ]


async def test_what_is_written_waits_for_the_next_publish(nc: NatsConnection) -> None:
    heard = await nc.subscribe("w")
    await nc.flush()
    await asyncio.sleep(0.05)

    await nc.write(b"PUB w 1\r\na\r\n")
    with pytest.raises(NatsTimeoutError):
        await heard.next_msg(0.1)

    await nc.publish("other", b"")
    assert (await heard.next_msg(SOON_S)).data == b"a"


async def test_a_message_that_is_too_large_is_refused_here(nc: NatsConnection) -> None:
    with pytest.raises(MaxPayloadError):
        await nc.publish("s", b"x" * (nc.max_payload + 1))


@pytest.mark.parametrize(("subject", "reply"), [("a b", ""), ("", ""), ("a.*", ""), ("a", "r r"), ("a\r\n", "")])
async def test_a_subject_that_is_none_is_refused_here(nc: NatsConnection, subject: str, reply: str) -> None:
    with pytest.raises(BadSubjectError):
        await nc.publish(subject, b"", reply)


async def test_a_callback_gets_one_message_at_a_time(nc: NatsConnection) -> None:
    running, most, seen, gone_on = 0, 0, list[bytes](), asyncio.Event()

    async def hear(message: Message) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        seen.append(message.data)
        if len(seen) == 5:
            gone_on.set()

    await nc.subscribe("one", cb=hear)
    for n in range(5):
        await nc.publish("one", b"%d" % n)
    async with asyncio.timeout(SOON_S):
        await gone_on.wait()

    assert (most, seen) == (1, [b"0", b"1", b"2", b"3", b"4"])


async def test_a_callback_that_raises_is_told_and_gets_the_next_message(bus: Bus) -> None:
    told, heard = list[Exception](), asyncio.Event()

    async def tell(error: Exception) -> None:
        told.append(error)

    async def hear(message: Message) -> None:
        if message.data == b"bad":
            raise ValueError("bad")
        heard.set()

    nc = await bus.connect(error_cb=tell)
    await nc.subscribe("one", cb=hear)
    await nc.publish("one", b"bad")
    await nc.publish("one", b"good")

    async with asyncio.timeout(SOON_S):
        await heard.wait()
    assert [str(error) for error in told] == ["bad"]


async def test_what_came_before_a_flush_ended_is_handled(nc: NatsConnection) -> None:
    heard = list[bytes]()

    async def hear(message: Message) -> None:
        heard.append(message.data)

    await nc.subscribe("one", cb=hear)
    for n in range(3):
        await nc.publish("one", b"%d" % n)
    await nc.flush()

    assert heard == [b"0", b"1", b"2"]


async def test_after_unsubscribing_nothing_is_heard(nc: NatsConnection) -> None:
    heard = list[bytes]()

    async def hear(message: Message) -> None:
        heard.append(message.data)

    subscription = await nc.subscribe("one", cb=hear)
    await nc.flush()
    await subscription.unsubscribe()
    await nc.publish("one", b"late")
    await nc.flush()
    await asyncio.sleep(0.05)

    assert heard == []
    with pytest.raises(NatsError):
        await subscription.unsubscribe()


async def test_a_subscription_that_is_drained_handles_what_was_sent_to_it(nc: NatsConnection) -> None:
    heard = list[bytes]()

    async def hear(message: Message) -> None:
        await asyncio.sleep(0.01)
        heard.append(message.data)

    subscription = await nc.subscribe("one", cb=hear)
    for n in range(5):
        await nc.publish("one", b"%d" % n)
    await nc.flush()
    await subscription.drain()
    await nc.publish("one", b"late")
    await nc.flush()

    assert heard == [b"0", b"1", b"2", b"3", b"4"]


async def test_a_closed_connection_refuses_everything(bus: Bus) -> None:
    nc = await bus.connect()
    subscription = await nc.subscribe("one")
    waiting = asyncio.create_task(subscription.next_msg(SOON_S))
    await asyncio.sleep(0.01)
    await nc.close()  # type: ignore[attr-defined] # both have it

    assert (nc.is_closed, nc.is_connected) == (True, False)
    with pytest.raises(NatsError):
        await waiting
    for refused in (
        nc.publish("s", b""),
        nc.request("s", b""),
        nc.subscribe("s"),
        nc.flush(),
        subscription.unsubscribe(),
    ):
        with pytest.raises(NatsError):
            await refused


async def test_a_close_sends_what_was_published(bus: Bus, nc: NatsConnection) -> None:
    heard = await nc.subscribe("last")
    await nc.flush()
    leaving = await bus.connect()

    await leaving.publish("last", b"words")
    await leaving.close()  # type: ignore[attr-defined] # both have it

    assert (await heard.next_msg(SOON_S)).data == b"words"


async def test_too_many_messages_that_wait_are_dropped(bus: Bus) -> None:
    told = asyncio.Event()

    async def tell(_: Exception) -> None:
        told.set()

    nc = await bus.connect(error_cb=tell)
    subscription = await nc.subscribe("many", pending_msgs_limit=2)
    for n in range(4):
        await nc.publish("many", b"%d" % n)
    await nc.flush()

    async with asyncio.timeout(SOON_S):
        await told.wait()
    assert [(await subscription.next_msg(SOON_S)).data for _ in range(2)] == [b"0", b"1"]


async def test_inboxes_are_all_different(bus: Bus, nc: NatsConnection) -> None:
    other = await bus.connect()

    inboxes = [connection.new_inbox() for connection in (nc, other) for _ in range(50)]

    assert len(set(inboxes)) == 100
    assert all(inbox.startswith("_INBOX.") and len(inbox) == len("_INBOX.") + 22 for inbox in inboxes)
