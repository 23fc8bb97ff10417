"""Pulls, leases and acknowledgements."""

import asyncio
from typing import Any

import pytest

from schemas.jetstream import NatsConnection
from tests.contract.nats.asking import (
    MS,
    S,
    a_consumer,
    a_queue,
    a_stream,
    answer,
    eventually,
    facts,
    progress,
    pulling,
    state,
    stored,
)

pytestmark = pytest.mark.timeout(60)


async def a_filled_queue(nc: NatsConnection, count: int, **config: Any) -> None:
    await a_queue(nc)
    await a_consumer(nc, **config)
    for n in range(count):
        await stored(nc, "s.a", b"%d" % n)


async def is_empty(nc: NatsConnection) -> bool:
    return bool((await state(nc))["messages"] == 0)


async def test_a_pull_brings_what_there_is_in_its_order_and_waits_for_more(nc: NatsConnection) -> None:
    await a_filled_queue(nc, 2)
    pulls = await pulling(nc)
    await pulls.ask(batch=3, expires=20 * S)

    first, second = await pulls.messages(2)
    await stored(nc, "s.b", b"2")
    [third] = await pulls.messages(1)

    assert [one.data for one in (first, second, third)] == [b"0", b"1", b"2"]
    assert [one.subject for one in (first, third)] == ["s.a", "s.b"]
    assert [facts(one) for one in (first, second, third)] == [(1, 1, 1), (1, 2, 2), (1, 3, 3)]
    assert [one.reply.split(".")[:4] for one in (first,)] == [["$JS", "ACK", "S", "c"]]
    assert [int(one.reply.split(".")[8]) for one in (first, second, third)] == [1, 0, 0]
    await pulls.nothing()


async def test_an_acknowledged_message_leaves_a_work_queue(nc: NatsConnection) -> None:
    await a_filled_queue(nc, 2)
    pulls = await pulling(nc)
    await pulls.ask(batch=2, expires=20 * S)
    first, second = await pulls.messages(2)

    await answer(nc, second, b"+ACK")
    await eventually(lambda: _holds(nc, 1), "one is left")
    told = await progress(nc)
    assert (told["num_ack_pending"], told["ack_floor"]["stream_seq"]) == (1, 0)

    await answer(nc, first, b"")
    await eventually(lambda: is_empty(nc), "none is left")
    told = await progress(nc)
    assert told["num_ack_pending"] == 0
    assert (told["ack_floor"]["stream_seq"], told["ack_floor"]["consumer_seq"]) == (2, 2)
    found = await state(nc)
    assert (found["first_seq"], found["last_seq"]) == (3, 2)


async def _holds(nc: NatsConnection, count: int) -> bool:
    return bool((await state(nc))["messages"] == count)


async def test_what_is_not_acknowledged_in_time_comes_again_before_what_is_new(nc: NatsConnection) -> None:
    await a_filled_queue(nc, 3, ack_wait=200 * MS)
    pulls = await pulling(nc)
    await pulls.ask(batch=2, expires=20 * S)
    await pulls.messages(2)

    await asyncio.sleep(0.4)
    await pulls.ask(batch=3, expires=20 * S)

    assert [facts(one) for one in await pulls.messages(3)] == [(2, 1, 3), (2, 2, 4), (1, 3, 5)]


async def test_a_message_that_is_extended_stays_with_its_holder(nc: NatsConnection) -> None:
    await a_filled_queue(nc, 1, ack_wait=400 * MS)
    pulls = await pulling(nc)
    await pulls.ask(batch=2, expires=20 * S)
    [message] = await pulls.messages(1)

    for _ in range(6):
        await answer(nc, message, b"+WPI")
        await pulls.nothing(within_s=0.15)
    [again] = await pulls.messages(1)

    assert facts(again) == (2, 1, 2)


@pytest.mark.parametrize("word", [b"-NAK", b'-NAK {"delay": 100000000}', b"-NAK 100ms"])
async def test_a_message_that_is_turned_back_comes_again(nc: NatsConnection, word: bytes) -> None:
    await a_filled_queue(nc, 2)
    pulls = await pulling(nc)
    await pulls.ask(batch=3, expires=20 * S)
    first, second = await pulls.messages(2)

    await answer(nc, first, word)
    [again] = await pulls.messages(1)

    assert (facts(again), again.data) == ((2, 1, 3), b"0")
    await answer(nc, again, b"+ACK")
    await answer(nc, second, b"+ACK")
    await eventually(lambda: is_empty(nc), "none is left")


async def test_no_more_is_delivered_than_may_be_unacknowledged(nc: NatsConnection) -> None:
    await a_filled_queue(nc, 3, max_ack_pending=2)
    pulls = await pulling(nc)
    await pulls.ask(batch=3, expires=20 * S)
    first, _ = await pulls.messages(2)
    await pulls.nothing()

    await answer(nc, first, b"+ACK")

    [third] = await pulls.messages(1)
    assert facts(third)[1] == 3


async def test_pulls_are_served_in_turn(nc: NatsConnection) -> None:
    await a_queue(nc)
    await a_consumer(nc)
    one, other = await pulling(nc), await pulling(nc)
    await one.ask(batch=2, expires=20 * S)
    await other.ask(batch=2, expires=20 * S)
    await nc.flush()

    for n in range(4):
        await stored(nc, "s.a", b"%d" % n)

    assert [message.data for message in await one.messages(2)] == [b"0", b"2"]
    assert [message.data for message in await other.messages(2)] == [b"1", b"3"]


async def test_a_pull_whose_inbox_nobody_hears_takes_nothing(nc: NatsConnection) -> None:
    await a_queue(nc)
    await a_consumer(nc)
    gone, there = await pulling(nc), await pulling(nc)
    await gone.ask(batch=5, expires=20 * S)
    await there.ask(batch=1, expires=20 * S)
    await gone.leave()
    await nc.flush()

    await stored(nc, "s.a")

    [message] = await there.messages(1)
    assert facts(message) == (1, 1, 1)
    assert (await progress(nc))["num_waiting"] == 0


async def test_a_pull_that_ends_says_what_will_not_come(nc: NatsConnection) -> None:
    await a_filled_queue(nc, 1)
    pulls = await pulling(nc)
    await pulls.ask(batch=3, expires=300 * MS, idle_heartbeat=100 * MS, max_bytes=1000)

    [message] = await pulls.messages(1)
    beat = await pulls.next()
    ended = await pulls.status()

    size = len(message.subject) + len(message.reply) + len(message.data)
    assert dict(beat.headers or {}) == {
        "Status": "100",
        "Description": "Idle Heartbeat",
        "Nats-Last-Consumer": "1",
        "Nats-Last-Stream": "1",
    }
    assert ended == {
        "Status": "408",
        "Description": "Request Timeout",
        "Nats-Pending-Messages": "2",
        "Nats-Pending-Bytes": str(1000 - size),
    }


async def test_a_pull_with_a_bound_on_bytes_says_when_its_batch_is_complete(nc: NatsConnection) -> None:
    await a_filled_queue(nc, 2)
    pulls = await pulling(nc)
    await pulls.ask(batch=1, expires=20 * S, max_bytes=1000)

    [message] = await pulls.messages(1)

    size = len(message.subject) + len(message.reply) + len(message.data)
    assert await pulls.status() == {
        "Status": "409",
        "Description": "Batch Completed",
        "Nats-Pending-Messages": "0",
        "Nats-Pending-Bytes": str(1000 - size),
    }


async def test_a_pull_ends_before_what_is_too_large_for_it(nc: NatsConnection) -> None:
    await a_filled_queue(nc, 1)
    await stored(nc, "s.a", b"x" * 2000)
    pulls, other = await pulling(nc), await pulling(nc)
    await pulls.ask(batch=5, expires=20 * S, max_bytes=1000)

    [message] = await pulls.messages(1)
    size = len(message.subject) + len(message.reply) + len(message.data)

    assert await pulls.status() == {
        "Status": "409",
        "Description": "Message Size Exceeds MaxBytes",
        "Nats-Pending-Messages": "4",
        "Nats-Pending-Bytes": str(1000 - size),
    }
    await other.ask(batch=1, expires=20 * S)
    [large] = await other.messages(1)
    assert facts(large) == (1, 2, 2)


async def test_a_pull_that_does_not_wait_brings_what_there_is_or_says_that_there_is_none(nc: NatsConnection) -> None:
    await a_filled_queue(nc, 1)
    pulls = await pulling(nc)
    await pulls.ask(batch=2, no_wait=True)

    await pulls.messages(1)
    assert await pulls.status() == {"Status": "404", "Description": "No Messages"}

    await pulls.ask(batch=2, no_wait=True)
    assert await pulls.status() == {"Status": "404", "Description": "No Messages"}


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"batch": 1, "expires": S, "idle_heartbeat": S}, "Bad Request - heartbeat value too large"),
        ({"batch": 1, "expires": "x"}, "Bad Request"),
    ],
)
async def test_a_pull_that_cannot_be_read_is_refused(
    nc: NatsConnection, request_: dict[str, Any], words: str
) -> None:
    await a_filled_queue(nc, 1)
    pulls = await pulling(nc)
    await pulls.ask(**request_)

    ended = await pulls.status()

    assert ended["Status"] == "400"
    assert ended["Description"].startswith(words)


async def test_beyond_so_many_pulls_one_is_refused_unless_it_has_a_heartbeat(nc: NatsConnection) -> None:
    await a_queue(nc)
    await a_consumer(nc, max_waiting=1)
    pulls = await pulling(nc)
    for _ in range(2):
        await pulls.ask(batch=1, expires=20 * S)
    assert await pulls.status() == {"Status": "409", "Description": "Exceeded MaxWaiting"}

    await pulls.ask(batch=1, expires=20 * S, idle_heartbeat=S)
    await pulls.nothing()


async def test_pulls_of_a_consumer_that_is_deleted_are_over(nc: NatsConnection) -> None:
    await a_queue(nc)
    await a_consumer(nc)
    pulls = await pulling(nc)
    await pulls.ask(batch=1, expires=20 * S)
    await nc.flush()

    await nc.request("$JS.API.CONSUMER.DELETE.S.c", timeout=5)

    assert await pulls.status() == {"Status": "409", "Description": "Consumer Deleted"}


async def test_a_consumer_gets_what_its_filter_lets_through(nc: NatsConnection) -> None:
    await a_queue(nc)
    await a_consumer(nc, "a", filter_subject="s.a")
    await a_consumer(nc, "b", filter_subject="s.b")
    for subject in ("s.a", "s.b", "s.a", "s.c"):
        await stored(nc, subject)
    pulls = await pulling(nc)

    await pulls.ask("b", batch=5, expires=20 * S)
    assert [facts(one) for one in await pulls.messages(1)] == [(1, 2, 1)]
    await pulls.ask("a", batch=5, expires=20 * S)
    assert [facts(one) for one in await pulls.messages(2)] == [(1, 1, 1), (1, 3, 2)]
    await pulls.nothing()


async def test_a_late_answer_counts_whoever_gives_it(nc: NatsConnection) -> None:
    await a_filled_queue(nc, 1, ack_wait=200 * MS)
    pulls = await pulling(nc)
    await pulls.ask(batch=2, expires=20 * S)
    first, _ = await pulls.messages(2)

    await answer(nc, first, b"+ACK")

    await eventually(lambda: is_empty(nc), "none is left")


async def test_a_stream_with_limits_keeps_what_is_acknowledged(nc: NatsConnection) -> None:
    await a_stream(nc)
    await a_consumer(nc)
    await stored(nc, "s.a")
    pulls = await pulling(nc)
    await pulls.ask(batch=1, expires=20 * S)
    [message] = await pulls.messages(1)
    await answer(nc, message, b"+ACK")

    assert (await state(nc))["messages"] == 1
    assert (await progress(nc))["num_ack_pending"] == 0


async def test_an_acknowledgement_that_asks_for_one_is_answered(nc: NatsConnection) -> None:
    await a_filled_queue(nc, 1)
    pulls = await pulling(nc)
    await pulls.ask(batch=1, expires=20 * S)
    [message] = await pulls.messages(1)

    assert (await nc.request(message.reply, b"+ACK", timeout=5)).data == b""
    assert await is_empty(nc)
