"""JetStream's own messages."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.jetstream import (
    Heartbeat,
    NotStored,
    PullEnded,
    acknowledged,
    acknowledges,
    delivered,
    deliveries,
    next_request,
    next_subject,
    pull_status,
)
from schemas.units import Ms

counts = st.integers(1, 2**40)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, None),
        ({"Infermq-Kind": "chunk"}, None),
        ({"Status": "100", "Description": "Idle Heartbeat"}, Heartbeat()),
        (
            {"Status": "408", "Description": "Request Timeout", "Nats-Pending-Messages": "7"},
            PullEnded(7, "408 Request Timeout"),
        ),
        (
            {"Status": "404", "Description": "No Messages", "Nats-Pending-Messages": "64"},
            PullEnded(64, "404 No Messages"),
        ),
        ({"Status": "409", "Description": "Consumer Deleted"}, PullEnded(None, "409 Consumer Deleted")),
        ({"Status": "503"}, PullEnded(None, "503")),
        ({"Status": "408", "Nats-Pending-Messages": "x"}, PullEnded(None, "408")),
        ({"Status": "408", "Nats-Pending-Messages": "-1"}, PullEnded(None, "408")),
        ({"Status": "408", "Nats-Pending-Messages": "9" * 5000}, PullEnded(None, "408")),
        ({"Status": "\xff"}, PullEnded(None, "\xff")),
    ],
)
def test_what_a_message_says_of_its_pull(headers: dict[str, str], status: object) -> None:
    assert pull_status(headers) == status


@given(
    st.tuples(st.integers(1, 10**9 - 1), counts, counts, st.integers(0, 2**41), counts),
    st.sampled_from(["", "_.hash."]),
)
def test_an_ack_subject_is_read_in_every_shape(numbers: tuple[int, ...], domain: str) -> None:
    count, sequence, of_consumer, at_ms, pending = numbers
    subject = f"$JS.ACK.{domain}S.c.{count}.{sequence}.{of_consumer}.{at_ms}000999.{pending}"

    for tail in ("", ".token") if domain else ("",):
        found = delivered(subject + tail)

        assert (found.deliveries, found.sequence, found.at_ms, found.pending) == (count, sequence, at_ms, pending)
        assert deliveries(subject + tail) == count


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "x",
        "$JS.ACK.S.c.2.10.3.1.7.x",
        "JS.ACK.S.c.2.10.3.1.7",
        "$JS.NAK.S.c.2.10.3.1.7",
        "$JS.ACK.S.c.a.10.3.1.7",
        "$JS.ACK.S.c.2.10.3.1.7\n",
        "$JS.ACK.S.c.2.10.3.1.7\r\nPUB x 1\r\nx\r\n",
        "$JS.ACK.S.c.-2.10.3.1.7",
        "$JS.ACK.S.c.+2.10.3.1.7",
        "$JS.ACK.S.c.1_0.10.3.1.7",
        "$JS.ACK.S.c.\u0662.10.3.1.7",
        "$JS.ACK.S.c.2.9999999999999999999.3.1.7",
        "$JS.ACK.S.c.9999999999.10.3.1.7",
        "$JS.ACK.*.c.2.10.3.1.7",
        "$JS.ACK.S..2.10.3.1.7",
    ],
)
def test_what_is_no_ack_subject_is_refused(subject: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        deliveries(subject)
    with pytest.raises(ValueError, match=r".+"):
        delivered(subject)


def test_a_pull_asks_in_nanoseconds_and_for_bytes_only_where_there_is_a_bound() -> None:
    plain = json.loads(next_request(5, expires_ms=Ms(30_000), heartbeat_ms=Ms(5_000)))
    bounded = json.loads(next_request(5, expires_ms=Ms(30_000), heartbeat_ms=Ms(5_000), most_bytes=1024))

    assert plain == {"batch": 5, "expires": 30 * 10**9, "idle_heartbeat": 5 * 10**9}
    assert bounded == plain | {"max_bytes": 1024}
    assert next_subject("S", "c") == "$JS.API.CONSUMER.MSG.NEXT.S.c"


def test_the_servers_clock_is_in_milliseconds() -> None:
    at = datetime(2027, 1, 15, 8, tzinfo=UTC)

    assert delivered(f"$JS.ACK.S.c.1.1.1.{int(at.timestamp())}000000001.0").at_ms == at.timestamp() * 1000


class Answer:
    """Of JetStream to a publish."""

    subject = reply = ""
    headers = None

    def __init__(self, data: bytes) -> None:
        self.data = data


@pytest.mark.parametrize(
    "data", [b"", b"x", b"[]", b"1", b"\xff", b'{"seq": "1"}', b'{"seq": 1e30}', b'{"error": 1}', b"[" * 100_000]
)
def test_what_is_no_acknowledgement_stored_nothing(data: bytes) -> None:
    with pytest.raises(NotStored):
        acknowledged(Answer(data))


def test_an_ack_subject_is_of_one_consumer() -> None:
    ack = "$JS.ACK.S.c.1.1.1.1.0"

    assert acknowledges(ack, "S", "c")
    assert acknowledges("$JS.ACK.d.a.S.c.1.1.1.1.0", "S", "c")
    assert not acknowledges(ack, "S", "other")
    assert not acknowledges(ack, "OTHER", "c")
    assert not acknowledges("x.S.c.1.1.1.1.0", "S", "c")
    assert not acknowledges("$JS.ACK.S.c.S.other.1.1.1.1.0", "S", "c")
    assert not acknowledges("$JS.ACK.S.c.T.other.1.1.1.1.0.x", "S", "c")
    assert not acknowledges("", "S", "c")
