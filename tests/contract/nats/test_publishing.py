"""What goes to JetStream by calls that nats-py does not have."""

from uuid import uuid4

import pytest

from schemas.jetstream import (
    ACK,
    BATCH_MESSAGES,
    TERM,
    NatsConnection,
    NoRespondersError,
    NotStored,
    Outgoing,
    answer_all,
    publish_atomically,
    publish_in_order,
    publish_one,
)
from schemas.jetstream.lookup import stored_at
from tests.contract.nats.asking import S, a_consumer, a_stream, eventually, progress, pulling, state

pytestmark = pytest.mark.timeout(30)
NOWHERE = Outgoing("nowhere", b"x")


@pytest.fixture
async def stored(nc: NatsConnection) -> NatsConnection:
    """A connection to a server with the stream S, which takes `s.*`, small messages, and batches."""
    await a_stream(nc, max_msg_size=1000, allow_atomic=True)
    return nc


async def payloads(nc: NatsConnection) -> list[bytes]:
    count = (await state(nc))["messages"]
    return [(await stored_at(nc, "S", seq)).payload for seq in range(1, count + 1)]


def some(count: int, *, subject: str = "s.a") -> list[Outgoing]:
    return [Outgoing(subject, b"%d" % number) for number in range(1, count + 1)]


@pytest.mark.parametrize("count", [1, 2, BATCH_MESSAGES])
async def test_a_batch_is_stored_whole_in_its_order_and_once(stored: NatsConnection, count: int) -> None:
    for _ in range(2):
        await publish_atomically(stored, some(count), batch_id="b")

    assert (await state(stored))["messages"] == count
    assert (await stored_at(stored, "S", count)).payload == b"%d" % count


async def test_a_batch_with_too_many_messages_is_refused(stored: NatsConnection) -> None:
    with pytest.raises(NotStored, match="too large"):
        await publish_atomically(stored, some(BATCH_MESSAGES + 1), batch_id=uuid4().hex)

    assert (await state(stored))["messages"] == 0


async def test_two_batches_are_both_stored(stored: NatsConnection) -> None:
    for name in "ab":
        await publish_atomically(stored, some(2), batch_id=name)

    assert await payloads(stored) == [b"1", b"2", b"1", b"2"]


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_of_a_batch_with_one_message_that_is_refused_nothing_is_stored(
    stored: NatsConnection, place: int
) -> None:
    messages = some(3)
    messages[place] = Outgoing("s.a", b"x" * 2000)

    with pytest.raises(NotStored):
        await publish_atomically(stored, messages, batch_id="b")

    assert await payloads(stored) == []


async def test_messages_in_order_are_stored_so_and_the_last_ones_sequence_is_told(stored: NatsConnection) -> None:
    first = await publish_in_order(stored, some(3))
    second = await publish_in_order(stored, [Outgoing("s.b", b"4")])

    assert (first, second) == (3, 4)
    assert await payloads(stored) == [b"1", b"2", b"3", b"4"]


async def test_a_sequence_that_grew_by_less_tells_that_some_were_not_stored(stored: NatsConnection) -> None:
    assert await publish_in_order(stored, [Outgoing("s.a", b"x" * 2000), *some(2)]) == 2


async def test_one_message_is_stored_once_by_its_id(stored: NatsConnection) -> None:
    for number in (1, 2):
        await publish_one(stored, Outgoing("s.a", b"%d" % number), message_id="m")
    await publish_one(stored, Outgoing("s.a", b"3"))
    await publish_one(stored, Outgoing("s.a", b"3"))

    assert await payloads(stored) == [b"1", b"3", b"3"]


async def test_what_a_stream_refuses_says_why(stored: NatsConnection) -> None:
    for refused in (
        publish_one(stored, Outgoing("s.a", b"x" * 2000)),
        publish_in_order(stored, [Outgoing("s.a", b"x" * 2000)]),
    ):
        with pytest.raises(NotStored, match="maximum") as caught:
            await refused
        assert caught.value.code == 10054


async def test_where_no_stream_listens_nothing_is_stored(stored: NatsConnection) -> None:
    for lost in (
        publish_one(stored, NOWHERE),
        publish_in_order(stored, [NOWHERE]),
        publish_atomically(stored, [NOWHERE], batch_id="b"),
    ):
        with pytest.raises(NoRespondersError):
            await lost


@pytest.mark.parametrize("word", [ACK, TERM])
@pytest.mark.parametrize("count", [0, 1, 5])
async def test_the_same_is_said_of_all_messages(stored: NatsConnection, word: bytes, count: int) -> None:
    await a_consumer(stored, ack_wait=60 * S)
    if count:
        await publish_in_order(stored, some(count))
    pulls = await pulling(stored)
    await pulls.ask(batch=count + 1, expires=20 * S)
    messages = await pulls.messages(count)

    await answer_all(stored, [message.reply for message in messages], word)

    async def is_answered() -> bool:
        return bool((await progress(stored))["num_ack_pending"] == 0)

    await eventually(is_answered, "no message waits for its answer")
