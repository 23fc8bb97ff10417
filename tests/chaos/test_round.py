"""The lossy way loses whole messages, and only those that it is told to; the same seed draws the same faults."""

import random

import pytest

from schemas.jetstream import NatsTimeoutError
from schemas.jetstream.client import NatsClient
from tests.chaos.faults import Kind, draw
from tests.chaos.lossy import a_lossy_way
from tests.chaos.planted import Bug, bugs, texts
from tests.mutation.tree import ROOT

pytestmark = pytest.mark.real


async def test_only_acknowledgements_are_lost(nc: NatsClient, nats_url: str) -> None:
    await nc.jetstream().add_stream(name="S", subjects=["s"])
    async with a_lossy_way(int(nats_url.rpartition(":")[2])) as way:
        there = NatsClient()
        await there.connect(way.url)
        js = there.jetstream(timeout=0.3)
        pull = await js.pull_subscribe("s", "c")

        way.loses_confirmations = True
        with pytest.raises(NatsTimeoutError):
            await js.publish("s", b"x" * 100_000)
        way.loses_confirmations, way.loses_acks = False, True
        [message] = await pull.fetch(1)
        await message.ack()
        await there.flush()
        way.loses_acks = False
        await js.publish("s", b"y")
        info = await js.consumer_info("S", "c")
        await there.close()

    assert message.data == b"x" * 100_000
    assert way.lost == 2
    assert (info.num_ack_pending, info.num_pending) == (1, 1)


def test_a_seed_draws_the_same_faults() -> None:
    first, second = (draw(random.Random(3), 50, tuple(Kind)) for _ in range(2))

    assert first == second
    assert first != draw(random.Random(4), 50, tuple(Kind))
    assert {fault.kind for fault in draw(random.Random(3), 5, [Kind.CUT])} == {Kind.CUT}


@pytest.mark.parametrize("bug", bugs(), ids=lambda bug: bug.says)
def test_a_planted_bug_fits_the_source(bug: Bug) -> None:
    assert texts(bug, ROOT)
