"""What goes to JetStream by calls that nats-py does not have."""

import pytest
from nats.aio.client import Client
from nats.errors import MaxPayloadError, NoRespondersError
from nats.js.api import ConsumerConfig, StreamConfig

from schemas.jetstream import (
    ACK,
    BATCH_MESSAGES,
    TERM,
    NotStored,
    Outgoing,
    answer_all,
    publish_atomically,
    publish_in_order,
    publish_one,
)
from schemas.jetstream.client import NatsClient as Nats
from tests.system import until

pytestmark = [pytest.mark.real, pytest.mark.timeout(30)]
NOWHERE = Outgoing("nowhere", b"x")


@pytest.fixture
async def stored(nc: Nats) -> Nats:
    """A connection to a server with the stream S, which takes `s.*`, small messages, and batches."""
    config = StreamConfig(name="S", subjects=["s.*"], max_msg_size=1000, allow_atomic=True)
    await nc.jetstream().add_stream(config)
    return nc


async def payloads(nc: Nats) -> list[bytes | None]:
    js = nc.jetstream()
    count = (await js.stream_info("S")).state.messages
    return [(await js.get_msg("S", seq)).data for seq in range(1, count + 1)]


def some(count: int, *, subject: str = "s.a") -> list[Outgoing]:
    return [Outgoing(subject, b"%d" % number) for number in range(1, count + 1)]


@pytest.mark.parametrize("count", [1, 2, BATCH_MESSAGES])
async def test_a_batch_is_stored_whole_in_its_order_and_once(stored: Nats, count: int) -> None:
    for _ in range(2):
        await publish_atomically(stored, some(count), batch_id="b")

    found = await stored.jetstream().stream_info("S")
    assert found.state.messages == count
    assert (await stored.jetstream().get_msg("S", count)).data == b"%d" % count


async def test_two_batches_are_both_stored(stored: Nats) -> None:
    for name in "ab":
        await publish_atomically(stored, some(2), batch_id=name)

    assert await payloads(stored) == [b"1", b"2", b"1", b"2"]


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_of_a_batch_with_one_message_that_is_refused_nothing_is_stored(stored: Nats, place: int) -> None:
    messages = some(3)
    messages[place] = Outgoing("s.a", b"x" * 2000)

    with pytest.raises(NotStored):
        await publish_atomically(stored, messages, batch_id="b")

    assert await payloads(stored) == []


async def test_messages_in_order_are_stored_so_and_the_last_ones_sequence_is_told(stored: Nats) -> None:
    first = await publish_in_order(stored, some(3))
    second = await publish_in_order(stored, [Outgoing("s.b", b"4")])

    assert (first, second) == (3, 4)
    assert await payloads(stored) == [b"1", b"2", b"3", b"4"]


async def test_a_sequence_that_grew_by_less_tells_that_some_were_not_stored(stored: Nats) -> None:
    assert await publish_in_order(stored, [Outgoing("s.a", b"x" * 2000), *some(2)]) == 2


async def test_one_message_is_stored_once_by_its_id(stored: Nats) -> None:
    for number in (1, 2):
        await publish_one(stored, Outgoing("s.a", b"%d" % number), message_id="m")
    await publish_one(stored, Outgoing("s.a", b"3"))
    await publish_one(stored, Outgoing("s.a", b"3"))

    assert await payloads(stored) == [b"1", b"3", b"3"]


async def test_what_a_stream_refuses_says_why(stored: Nats) -> None:
    for refused in (
        publish_one(stored, Outgoing("s.a", b"x" * 2000)),
        publish_in_order(stored, [Outgoing("s.a", b"x" * 2000)]),
    ):
        with pytest.raises(NotStored, match="maximum") as caught:
            await refused
        assert caught.value.code == 10054


async def test_where_no_stream_listens_nothing_is_stored(stored: Nats) -> None:
    for lost in (
        publish_one(stored, NOWHERE),
        publish_in_order(stored, [NOWHERE]),
        publish_atomically(stored, [NOWHERE], batch_id="b"),
    ):
        with pytest.raises(NoRespondersError):
            await lost


@pytest.mark.parametrize("word", [ACK, TERM])
@pytest.mark.parametrize("count", [0, 1, 5])
async def test_the_same_is_said_of_all_messages(stored: Nats, word: bytes, count: int) -> None:
    js = stored.jetstream()
    await js.add_consumer("S", ConsumerConfig(durable_name="c", ack_wait=60))
    for _ in range(count):
        await js.publish("s.a", b"x")
    pulled = await js.pull_subscribe_bind("c", "S")
    messages = await pulled.fetch(count, timeout=5) if count else []

    await answer_all(stored, [message.reply for message in messages], word)

    async def is_answered() -> bool:
        waiting: int | None = (await js.consumer_info("S", "c")).num_ack_pending
        return waiting == 0

    await until(is_answered, "no message waits for its answer")


@pytest.mark.parametrize("reply", ["", "r.1"])
@pytest.mark.parametrize(
    "headers",
    [
        None,
        {},
        {"Kind": "final", "Seq": "1"},
        {"Kind": "final\r\nSeq: 9"},
        {"Kind": "a\nb"},
        {"Kind": " spaces "},
        {"Kind": ""},
        {"Kind": "Grüße: ☃"},
    ],
    ids=["none", "empty", "two", "a forged one", "a line break", "spaces", "no text", "not ASCII"],
)
async def test_a_message_arrives_as_nats_py_sends_it(nc: Nats, headers: dict[str, str] | None, reply: str) -> None:
    heard = await nc.subscribe("s.a")

    await Client.publish(nc, "s.a", b"x", reply, headers)
    await nc.publish("s.a", b"x", reply, headers)

    expected, ours = await heard.next_msg(5), await heard.next_msg(5)
    assert (ours.headers, ours.data, ours.reply) == (expected.headers, expected.data, expected.reply)


async def test_what_is_larger_than_the_server_takes_is_refused_here(nc: Nats) -> None:
    with pytest.raises(MaxPayloadError):
        await nc.publish("s.a", b"x" * (nc.max_payload + 1), headers={"Kind": "final"})
