"""Retries of what failed in a batch: each line once, whatever was retried before, and one merged view of the results."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from functools import partial
from uuid import UUID

import asyncpg
import pytest

from broker.client import Client, Submission
from broker.config import Keep
from broker.ledger import open_ledger
from broker.ports import Ledger
from broker.roles.upkeep import Upkeep
from schemas.api import State
from schemas.control import PauseKind
from schemas.jetstream.client import NatsClient
from schemas.job import Lane
from schemas.repeats import FixedBody
from schemas.units import Ms
from tests.builders import BODY, a_job, now
from tests.contract.ledger.test_retries import (
    F,
    _catalog,  # noqa: F401 - a fixture
    a_batch_of,
    carry_out,
    give,
    jobs_of,
    retried,
    shown,
)
from tests.real.test_batches import DAY_MS
from tests.real.test_broker import a_broker, a_worker
from tests.system import until

pytestmark = pytest.mark.real


async def test_two_retries_at_once_take_each_line_once(ledger_url: str, ledger: Ledger) -> None:
    batch = await a_batch_of(ledger, *[F] * 20)
    given = [await give(ledger, batch.id) for _ in range(4)]

    async with open_ledger(ledger_url, clock=now) as other:
        pages = await asyncio.gather(*(carry_out(one) for one in (ledger, other, ledger, other)))

    lines = Counter(
        [job.line for done in pages for page in done for job in (await jobs_of(ledger, page.waiting)).values()]
    )
    assert lines == dict.fromkeys(range(1, 21), 1)
    assert sum([(await shown(ledger, one.id)).jobs or 0 for one in given]) == 20


# what is kept


def upkeep(ledger: Ledger, *, later_ms: int) -> Upkeep:
    """As a broker does it so much later."""
    return Upkeep(days=ledger.days, retention=ledger.retention, keep=Keep(), clock=lambda: Ms(now() + later_ms))


async def test_what_is_over_is_forgotten_in_time_and_what_is_open_is_not(ledger_url: str, ledger: Ledger) -> None:
    batch = await a_batch_of(ledger, F, F)
    done, _ = await retried(ledger, batch.id)
    goes_on = await give(ledger, batch.id, fixed_bodies=2, bodies=(FixedBody("c1", "{}"),))
    connection = await asyncpg.connect(ledger_url)
    try:
        await connection.execute("insert into infermq.replays (job, source) values ($1, $1)", UUID(int=7 << 76))
        await connection.execute("insert into infermq.instruction_bodies values ($1, 'late', 'x')", done)

        await upkeep(ledger, later_ms=0).drop()
        early = [await ledger.instructions.find(one, "default") is not None for one in (done, goes_on.id)]
        await upkeep(ledger, later_ms=91 * DAY_MS).drop()
        late = [await ledger.instructions.find(one, "default") is not None for one in (done, goes_on.id)]

        assert (early, late) == ([True, True], [False, True])
        assert await connection.fetchval("select count(*) from infermq.replays") == 2
        [body] = await connection.fetch("select custom_id from infermq.instruction_bodies")
        assert body["custom_id"] == "c1"
    finally:
        await connection.close()


# beside others


async def test_retried_work_takes_turns_with_other_tenants_fresh_work(
    nats_url: str, ledger_url: str, nc: NatsClient
) -> None:
    async with (
        a_broker(nats_url, ledger_url, nc) as broker,
        a_worker(nc),
        Client.connect(nats_url, tenant="b") as other,
    ):
        batch = await broker.client.create_batch()
        wrong = [a_job(custom_id=f"c{n}", body=BODY.replace(b"hello", b"wrong %d" % n)) for n in range(200)]
        await broker.client.submit_many([Submission("m", job) for job in wrong], batch_id=batch.id)
        await broker.client.seal(batch.id, jobs=200)
        await until(partial(_is_complete, broker.client, batch.id, 200), "the batch is complete")
        await broker.client.pause(PauseKind.LANE, "bulk")

        retry = await broker.client.retry(batch.id)
        await until(partial(_admitted, broker.client, retry.id, 200), "all is to be retried")
        body = {"messages": [{"role": "user", "content": "x"}]}
        fresh = [await other.submit("m", body, lane=Lane.BULK) for _ in range(20)]
        await until(partial(_are_queued, other, fresh), "the other tenant's jobs wait too")
        await broker.client.resume(PauseKind.LANE, "bulk")
        await until(partial(_is_complete, broker.client, retry.id, 200), "the retry is complete")

        first = await broker.rows(
            "select j.tenant from infermq.executions e join infermq.jobs j on j.id = e.job"
            " where j.tenant = 'b' or j.id in (select job from infermq.replays) order by e.started_ms, e.id limit 60"
        )
    assert [row["tenant"] for row in first].count("b") == 20


async def _is_complete(client: Client, batch: UUID, jobs: int) -> bool:
    return (await client.batch(batch)).counts.settled() == jobs


async def _admitted(client: Client, batch: UUID, jobs: int) -> bool:
    return (await client.batch(batch)).counts.admitted == jobs


async def _are_queued(client: Client, jobs: Sequence[UUID]) -> bool:
    return {(await client.job(job)).state for job in jobs} == {State.QUEUED}
