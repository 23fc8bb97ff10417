"""What our own publish sends, beside nats-py's."""

import pytest
from nats.aio.client import Client
from nats.errors import MaxPayloadError

from schemas.jetstream.client import NatsClient as Nats

pytestmark = [pytest.mark.real, pytest.mark.timeout(30)]


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
