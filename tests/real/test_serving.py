"""What a broker process keeps up beside the way of the jobs."""

import json
from contextlib import suppress

import msgspec
import pytest
from nats.js.errors import NotFoundError

from broker.bus.desired import ack_pending
from broker.bus.runs import Runs
from broker.ledger import open_ledger
from broker.ports import Ledger
from broker.roles.advisories import DELETED
from schemas import subjects
from schemas.jetstream.client import NatsClient as Nats
from tests.builders import a_report, a_success, an_attempt, an_entry, now
from tests.proxy import a_proxy
from tests.real.test_broker import Running, a_broker, a_worker, get
from tests.real.test_dispatch import a_beat
from tests.real.test_recovery import holds, saying
from tests.reporting import report
from tests.system import CATALOG, until

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]
ANOTHER = (
    CATALOG.format(slots=4, options="")
    .replace('deployment = "d"', 'deployment = "new"')
    .replace("[deployments.d", "[deployments.new")
)


async def has_pool(nc: Nats, stream: str, deployment: str) -> None:
    async def it_has() -> bool:
        with suppress(NotFoundError):
            await nc.jetstream().consumer_info(stream, subjects.pool_consumer(deployment))
            return True
        return False

    await until(it_has, f"{deployment} has a consumer of {stream}")


async def measures(running: Running, line: str) -> None:
    async def it_does() -> bool:
        return line in await get(f"{running.url}/metrics")

    await until(it_does, f"/metrics has {line}")


async def has_revision(running: Running, number: int) -> None:
    async def it_has() -> bool:
        return bool(json.loads(await get(f"{running.url}/readyz"))["revision"] == number)

    await until(it_has, f"revision {number} is active")


async def test_a_new_deployment_has_its_consumers(nats_url: str, ledger_url: str, nc: Nats) -> None:
    async with a_broker(nats_url, ledger_url, nc, reconcile_s=3600) as running:
        await running.client.apply_catalog(ANOTHER)

        await has_pool(nc, subjects.RUN, "new")
        await has_pool(nc, subjects.NOW, "new")


async def test_a_pool_may_hold_as_many_leases_as_its_workers_need(nats_url: str, ledger_url: str, nc: Nats) -> None:
    async with a_broker(nats_url, ledger_url, nc), saying(nc, a_beat("d", slots=5000)):

        async def it_may() -> bool:
            with suppress(NotFoundError):
                info = await nc.jetstream().consumer_info(subjects.RUN, subjects.pool_consumer("d"))
                return bool(info.config.max_ack_pending == ack_pending(5000) >= 5000)
            return False

        await until(it_may, "the pool is as large")


async def test_what_nats_kept_in_memory_is_declared_again_when_it_was_away(
    nats_url: str, ledger_url: str, nc: Nats
) -> None:
    async with a_proxy(nats_url) as proxy, a_broker(proxy.url, ledger_url, nc, reconcile_s=3600):
        await has_pool(nc, subjects.NOW, "d")
        await nc.jetstream().delete_stream(subjects.NOW)

        proxy.cut()

        await has_pool(nc, subjects.NOW, "d")


async def test_a_catalog_that_was_announced_to_nobody_is_found_in_the_ledger(
    nats_url: str, ledger: Ledger, ledger_url: str, nc: Nats
) -> None:
    async with a_broker(nats_url, ledger_url, nc, refresh_s=0.1) as running:
        revision = await ledger.catalogs.apply(ANOTHER, "test", now())

        await has_revision(running, revision.number)
        await has_pool(nc, subjects.RUN, "new")


async def test_the_backlog_is_measured(nats_url: str, ledger_url: str, nc: Nats) -> None:
    async with a_broker(nats_url, ledger_url, nc, refresh_s=0.1) as running:
        await running.submit("hello")

        await measures(running, 'infermq_jobs_waiting{lane="bulk",model="m"} 1.0')


async def test_what_jetstream_gives_up_on_is_counted(nats_url: str, ledger_url: str, nc: Nats) -> None:
    async with a_broker(nats_url, ledger_url, nc) as running, a_worker(nc):
        await has_pool(nc, subjects.RUN, "d")
        await nc.jetstream().publish(subjects.run("d"), b"nope")

        await measures(running, 'infermq_advisories_total{kind="msg_terminated"} 1.0')
        await holds(nc, subjects.ADVISORY, 1)

        async def is_let_go() -> bool:
            info = await nc.jetstream().consumer_info(subjects.ADVISORY, "brokers")
            return info.num_ack_pending == 0 and info.ack_floor is not None and info.ack_floor.stream_seq == 1

        await until(is_let_go, "it is counted once")
        [letter] = await running.client.dead_letters()

    assert (letter.cause, letter.stream, letter.sequence) == ("terminated", subjects.RUN, 1)
    assert "given up by the consumer d after 1 deliveries" in letter.reason
    assert "the message itself is gone" in letter.reason


async def test_a_message_that_was_delivered_too_often_is_kept_as_it_was(
    nats_url: str, ledger_url: str, nc: Nats
) -> None:
    async with a_broker(nats_url, ledger_url, nc) as running:
        await has_pool(nc, subjects.RUN, "d")
        stored = await nc.jetstream().publish(subjects.run("d"), b"the message", headers={"a": "b"})
        advisory = {"stream": subjects.RUN, "consumer": "d", "stream_seq": stored.seq, "deliveries": 7}
        kind = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES"
        await nc.publish(f"{kind}.{subjects.RUN}.d", msgspec.json.encode(advisory))
        await nc.publish(
            f"{kind}.OF_SOMEBODY_ELSE.c", msgspec.json.encode({**advisory, "stream": "OF_SOMEBODY_ELSE"})
        )
        await nc.publish(f"{kind}.{subjects.RUN}.x", b"what is this")
        for forged in ({"stream_seq": 2**64}, {"stream_seq": -1}, {"stream": f"{subjects.RUN} x\r\nPUB y 0"}):
            await nc.publish(f"{kind}.{subjects.RUN}.d", msgspec.json.encode({**advisory, **forged}))

        await measures(running, 'infermq_advisories_total{kind="max_deliveries"} 6.0')
        [letter] = await running.client.dead_letters()
        shown, content = await running.client.dead_letter(letter.id)

    assert (letter.cause, letter.stream, letter.subject) == ("max_deliveries", subjects.RUN, subjects.run("d"))
    assert (content, shown.headers) == (b"the message", {"a": "b"})


async def test_a_message_that_was_acked_before_another_node_led_its_consumer_is_no_dead_letter(
    nats_url: str, ledger_url: str, nc: Nats
) -> None:
    async with a_broker(nats_url, ledger_url, nc) as running:
        advisory = {"stream": subjects.SUBMIT, "consumer": "c", "stream_seq": 7, "reason": DELETED}
        kind = "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED"
        await nc.publish(f"{kind}.{subjects.SUBMIT}.c", msgspec.json.encode(advisory))

        await measures(running, 'infermq_advisories_total{kind="msg_terminated"} 1.0')
        assert await running.client.dead_letters() == ()


async def test_what_a_dead_worker_had_reported_is_let_go(nats_url: str, ledger_url: str, nc: Nats) -> None:
    async with a_broker(nats_url, ledger_url, nc, later_s=0.1):
        await has_pool(nc, subjects.RUN, "d")
        attempt = an_attempt()
        async with open_ledger(ledger_url, clock=now) as ledger:
            await ledger.intake.admit([an_entry(id=attempt.job)])
        assert await Runs(nc).publish([attempt])
        pulls = await nc.jetstream().pull_subscribe_bind(subjects.pool_consumer("d"), subjects.RUN)
        [message] = await pulls.fetch(1, timeout=10)

        await report(nc, a_report(a_success(), job=attempt.job, run_ack=message.reply))

        await holds(nc, subjects.RUN, 0)
