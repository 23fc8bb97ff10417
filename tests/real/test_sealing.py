"""Nothing that no broker made ends a job, costs anything or is shown as a result."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import asyncpg
import pytest
from msgspec.structs import replace

from broker.bus.runs import Rulings
from broker.bus.seal_keys import NatsSealKeys
from broker.errors import Unavailable
from broker.metrics import BrokerMetrics
from broker.ports import Ledger
from broker.roles.seal_key import SealKey
from schemas import subjects
from schemas.api import State
from schemas.codec import bundled, packed
from schemas.jetstream.client import NatsClient as Nats
from schemas.outcome import EngineFault, Failed
from schemas.ruling import EndRequest, Expire
from tests.builders import SEAL_KEY, a_batch_id, a_report, an_attempt, sealed
from tests.declared import declare_streams
from tests.real.test_settle import settling
from tests.reporting import report
from tests.settling import running, state_of
from tests.system import until

pytestmark = pytest.mark.real
KEYS = count(100)


async def refused(metrics: BrokerMetrics, seals: int) -> None:
    """Wait until so many seals were found false."""

    async def are() -> bool:
        return metrics.registry.get_sample_value("infermq_false_seals_total") == seals

    await until(are, f"{seals} seals are false", within_s=12)


async def reasons(ledger_url: str) -> list[str]:
    connection = await asyncpg.connect(ledger_url)
    try:
        return [row["reason"] for row in await connection.fetch("select reason from infermq.dead_letters")]
    finally:
        await connection.close()


FALSE, FOREIGN, FOREIGN_ACK = (
    "the seal is false",
    "another deployment than its subject's",
    "another deployment's message",
)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"seal": b""}, FALSE),
        ({"seal": bytes(16)}, FALSE),
        ({"attempt": 2}, FALSE),
        ({"deployment": "e"}, FOREIGN),
        ({"run_ack": "$JS.ACK.INFERMQ_RUN.e.1.7.7.1.0"}, FOREIGN_ACK),
        ({"run_ack": "$JS.ACK.INFERMQ_RUN.d.INFERMQ_RUN.e.1.7.7.1.0"}, FOREIGN_ACK),
        ({"run_ack": "$JS.ACK.INFERMQ_RUN.d_2e_.1.7.7.1.0"}, FOREIGN_ACK),
    ],
    ids=[
        "no seal",
        "another seal",
        "another attempt",
        "another deployment",
        "ack",
        "ack with a domain",
        "longer name",
    ],
)
async def test_a_report_that_is_not_to_be_believed_does_nothing_and_the_others_of_its_message_count(
    nc: Nats, ledger: Ledger, ledger_url: str, change: dict[str, Any], why: str
) -> None:
    theirs, ours = await running(ledger), await running(ledger)
    forged = replace(a_report(job=theirs.job), **change)

    async with settling(nc, ledger) as metrics:
        both = bundled([packed(forged), packed(a_report(job=ours.job))])
        await nc.jetstream().publish(subjects.outcome("d"), both)
        await refused(metrics, 1)

        async def is_settled() -> bool:
            return await state_of(ledger, ours.job) is State.SUCCEEDED

        await until(is_settled, "the other report is settled")

    shown = await ledger.jobs.find(theirs.job, "default")
    assert shown is not None
    assert (shown.state, shown.executions, shown.cost_nano_usd) == (State.RUNNING, (), 0)
    [reason] = await reasons(ledger_url)
    assert f"1 of 2 reports, the first on job {theirs.job}" in reason
    assert why in reason


async def test_a_report_counts_on_the_subject_of_its_deployment_only(
    nc: Nats, ledger: Ledger, ledger_url: str
) -> None:
    theirs = await running(ledger)
    stolen = a_report(job=theirs.job, deployment="e", run_ack="$JS.ACK.INFERMQ_RUN.e.1.7.7.1.0")

    async with settling(nc, ledger) as metrics:
        await nc.jetstream().publish(subjects.outcome("d"), bundled([packed(stolen)]))
        await refused(metrics, 1)
        assert await state_of(ledger, theirs.job) is not State.SUCCEEDED
        await nc.jetstream().publish(subjects.outcome("e"), bundled([packed(stolen)]))

        async def is_settled() -> bool:
            return await state_of(ledger, theirs.job) is State.SUCCEEDED

        await until(is_settled, "it is settled as its own deployment's")

    [reason] = await reasons(ledger_url)
    assert FOREIGN in reason


async def test_a_request_that_no_relay_sealed_is_no_job(nc: Nats, ledger: Ledger) -> None:
    mine = an_attempt(reply_to="x", key="k")
    true = sealed(a_report(job=mine.job, interactive=mine))
    theirs = replace(mine, tenant="theirs")

    async with settling(nc, ledger) as metrics:
        await report(nc, replace(true, interactive=theirs))
        await refused(metrics, 1)

    assert await ledger.jobs.find(mine.job, "theirs") is None


async def test_a_ruling_that_no_broker_sealed_rules_nothing(nc: Nats, ledger: Ledger, ledger_url: str) -> None:
    attempt, request = await running(ledger), an_attempt(reply_to="x", key="k")
    forger = Rulings(nc, a_batch_id, lambda: bytes(32))

    async with settling(nc, ledger) as metrics:
        await nc.jetstream().publish(subjects.RULING, bundled([packed(Expire(attempt.job))]))
        await forger.publish([Expire(attempt.job)])
        await forger.publish([EndRequest(request, Failed(EngineFault("x")))])
        await refused(metrics, 3)

    assert await state_of(ledger, attempt.job) is State.RUNNING
    assert await ledger.jobs.find(request.job, "default") is None
    assert all("no broker of this system made" in reason for reason in await reasons(ledger_url))


# the key


class Away:
    """The ledger while Postgres is away, until it is back."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.is_back = asyncio.Event()

    async def agree(self, candidate: bytes) -> bytes:
        if not self.is_back.is_set():
            raise Unavailable("Postgres", "away")
        return await self._ledger.seal_keys.agree(candidate)


def a_seal_key(nc: Nats, ledger: Ledger | Away) -> SealKey:
    """Of a broker of its own."""
    keys = ledger.seal_keys if isinstance(ledger, Ledger) else ledger
    return SealKey(ledger=keys, copy=NatsSealKeys(nc), random_key=lambda: next(KEYS).to_bytes(32), every_s=0.05)


@asynccontextmanager
async def kept(key: SealKey) -> AsyncIterator[SealKey]:
    """The role at work."""
    serving = asyncio.create_task(key.serve())
    try:
        yield key
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


@pytest.fixture
async def fresh(ledger: Ledger, ledger_url: str) -> Ledger:
    """A ledger that no broker has put a key into."""
    connection = await asyncpg.connect(ledger_url)
    await connection.execute("delete from infermq.seal_key")
    await connection.close()
    return ledger


async def test_the_first_broker_makes_the_key_and_all_others_have_it(nc: Nats, fresh: Ledger) -> None:
    await declare_streams(nc)
    keys = [a_seal_key(nc, fresh) for _ in range(4)]

    await asyncio.gather(*(key.learn() for key in keys))

    assert len({key() for key in keys}) == 1
    assert await NatsSealKeys(nc).read() == keys[0]()
    assert keys[0]().hex() not in repr(keys[0])


async def test_a_broker_that_starts_while_postgres_is_away_seals_with_the_copy(nc: Nats, ledger: Ledger) -> None:
    await declare_streams(nc)
    await a_seal_key(nc, ledger).learn()

    async with kept(a_seal_key(nc, Away(ledger))) as key:
        await key.known()

        assert key() == SEAL_KEY
        assert key.part().ok


async def test_without_postgres_and_a_copy_no_key_is_made_up(nc: Nats, ledger: Ledger) -> None:
    await declare_streams(nc)
    away = Away(ledger)

    async with kept(a_seal_key(nc, away)) as key:
        with pytest.raises(Unavailable):
            key()
        assert not key.part().ok
        assert await NatsSealKeys(nc).read() is None

        away.is_back.set()
        await key.known()

        assert key() == SEAL_KEY


async def test_an_empty_ledger_takes_the_key_that_is_in_use(nc: Nats, fresh: Ledger) -> None:
    await declare_streams(nc)
    await NatsSealKeys(nc).write(SEAL_KEY)

    await (key := a_seal_key(nc, fresh)).learn()

    assert key() == SEAL_KEY
    assert await fresh.seal_keys.agree(bytes(32)) == SEAL_KEY


@pytest.mark.parametrize("copy", [bytes(32), b"nonsense", None])
async def test_the_copy_follows_the_ledgers_key(nc: Nats, ledger: Ledger, copy: bytes | None) -> None:
    await declare_streams(nc)
    if copy is not None:
        await NatsSealKeys(nc).write(copy)

    async with kept(a_seal_key(nc, ledger)) as key:

        async def follows() -> bool:
            return await NatsSealKeys(nc).read() == SEAL_KEY

        await until(follows, "the copy is the ledger's")
        assert key() == SEAL_KEY
        await nc.jetstream().purge_stream(f"KV_{subjects.BROKERS_BUCKET}")
        await until(follows, "the copy is written again")


async def test_a_ledger_without_a_key_hands_nothing_out(fresh: Ledger) -> None:
    with pytest.raises(Unavailable, match="no key"):
        await running(fresh)
