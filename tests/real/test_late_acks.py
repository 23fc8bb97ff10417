"""What a worker held that died between its outcome and the ack of its message."""

import pytest

from broker.bus.runs import Runs
from broker.roles.late_acks import LateAcks
from schemas import subjects
from schemas.jetstream.client import NatsClient as Nats
from schemas.units import Ms
from tests.builders import a_beat, a_report, a_success, an_attempt
from tests.declared import declare_pool, declare_streams
from tests.system import until

pytestmark = pytest.mark.real


async def test_leases_of_the_dead_are_let_go_and_only_theirs(nc: Nats) -> None:
    await declare_streams(nc)
    await declare_pool(nc, "d", slots=8)
    assert await Runs(nc).publish([an_attempt() for _ in range(3)])
    pulls = await nc.jetstream().pull_subscribe_bind(subjects.pool_consumer("d"), subjects.RUN)
    alive, gone, restarted = [message.reply for message in await pulls.fetch(3, timeout=5)]
    beats = [
        a_beat("alive", started_ms=Ms(0)),
        a_beat("alive", key="another", started_ms=Ms(10**15)),
        a_beat("gone", deployment="e", started_ms=Ms(0)),
        a_beat("restarted", started_ms=Ms(10**15)),
    ]
    late_acks = LateAcks(nc, beats=lambda: beats, later_s=0)
    for worker, ack in (("alive", alive), ("gone", gone), ("restarted", restarted)):
        late_acks.settled([a_report(a_success(), worker=worker, run_ack=ack)])

    await late_acks.look()

    async def one_is_left() -> bool:
        return (await nc.jetstream().stream_info(subjects.RUN)).state.messages == 1

    await until(one_is_left, "two leases are let go")
    info = await nc.jetstream().consumer_info(subjects.RUN, subjects.pool_consumer("d"))
    assert info.num_ack_pending == 1


async def test_leases_are_left_to_their_worker_for_a_while(nc: Nats) -> None:
    await declare_streams(nc)
    await declare_pool(nc, "d", slots=8)
    assert await Runs(nc).publish([an_attempt()])
    pulls = await nc.jetstream().pull_subscribe_bind(subjects.pool_consumer("d"), subjects.RUN)
    [message] = await pulls.fetch(1, timeout=5)
    late_acks = LateAcks(nc, beats=list, later_s=3600)
    late_acks.settled([a_report(a_success(), run_ack=message.reply)])

    await late_acks.look()
    await nc.flush()

    assert (await nc.jetstream().stream_info(subjects.RUN)).state.messages == 1
