"""What a broker leaves in its streams, and what it tells of results."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest
from nats.aio.msg import Msg

from broker.bus.results import announce_results
from broker.client import Client, Submission
from broker.client.nats_door import NatsDoor
from broker.core.principal import Identify, Principal, open_door
from broker.core.records import Recorded
from broker.metrics import BrokerMetrics
from broker.ports import Ledger
from broker.roles.intake import Intake
from broker.roles.settle import Settle
from schemas import subjects
from schemas.accounts import Role
from schemas.api import Result, ResultNotice, State
from schemas.codec import packed
from schemas.ids import derived_id, uuid7
from schemas.jetstream.client import NatsClient as Nats
from schemas.job import Job, Lane
from schemas.listing import JobFilter
from schemas.outcome import Refused
from schemas.subjects import Source
from schemas.units import Ms
from tests.builders import a_catalog, a_job, a_report, an_entry, an_id, now
from tests.declared import declare_streams
from tests.real.test_broker import Running, a_broker, a_worker, body_of
from tests.reporting import a_settle, report
from tests.settling import a_batch, running
from tests.system import until

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]
WORK = (subjects.SUBMIT, subjects.RUN, subjects.OUTCOME, subjects.NOW)
EMPTY_WITHIN_S = 5.0
"""Sooner than an interactive attempt that nobody took leaves its stream by age."""


@pytest.fixture
async def system(nats_url: str, ledger_url: str, nc: Nats) -> AsyncIterator[Running]:
    async with a_broker(nats_url, ledger_url, nc) as broker, a_worker(nc):
        await broker.has_a_worker()
        yield broker


async def is_empty(nc: Nats, stream: str) -> bool:
    """No message is in it, and no consumer waits for an answer to one."""
    js = nc.jetstream()
    state = (await js.stream_info(stream)).state
    return state.messages == 0 and not any(one.num_ack_pending for one in await js.consumers_info(stream))


async def emptied(nc: Nats, *streams: str) -> None:
    """Wait until something has gone through each and nothing is left."""
    for stream in streams:
        await until(lambda stream=stream: is_empty(nc, stream), f"{stream} is empty", within_s=EMPTY_WITHIN_S)  # type: ignore[misc]
        assert (await nc.jetstream().stream_info(stream)).state.last_seq > 0, stream


async def test_when_all_work_is_done_nothing_is_left_in_its_streams(system: Running) -> None:
    batch = await system.client.create_batch()
    jobs = [Submission("m", a_job(body=body_of(f"n{n}"), custom_id=str(n))) for n in range(20)]
    bad = [Submission("m", a_job(body=b"nope")), Submission("m", a_job(body=body_of("once")))]
    sent = await system.client.submit_many([*jobs, *bad], batch_id=batch.id)
    await system.client.seal(batch.id, jobs=sent)

    answers = await asyncio.gather(*(system.client.infer("m", body_of(f"i{n}")) for n in range(2)))
    results = [result async for result in system.client.results(batch.id)]

    assert len(answers) == 2
    assert len(results) == 22
    await emptied(system.nc, *WORK)


async def test_what_nobody_can_read_is_not_left_in_its_stream(system: Running) -> None:
    js = system.nc.jetstream()
    for subject in (
        subjects.submit(Source(Lane.BULK, "m", "default", "default")),
        subjects.run("d"),
        subjects.now("d"),
        subjects.outcome("d"),
    ):
        await js.publish(subject, b"\xff nonsense")

    await emptied(system.nc, *WORK)


# the live feed of results


class Feed:
    """The notices that come, by their subject."""

    def __init__(self) -> None:
        self.heard: dict[str, list[ResultNotice]] = defaultdict(list)
        self.sizes: list[int] = []

    async def take(self, message: Msg) -> None:
        notices = msgspec.json.decode(message.data, type=list[ResultNotice])
        self.heard[message.subject] += notices
        self.sizes.append(len(notices))

    async def holds(self, count: int) -> None:
        """Wait for so many."""

        async def enough() -> bool:
            return sum(map(len, self.heard.values())) >= count

        await until(enough, f"{count} notices, not {dict(self.heard)}", within_s=10)


@pytest.fixture
async def feed(nc: Nats) -> Feed:
    """All that is told from now on."""
    told = Feed()
    await nc.subscribe("infermq.result.>", cb=told.take)
    await nc.flush()
    return told


async def test_each_job_that_ends_is_announced_once_to_its_own_tenant_and_batch(feed: Feed, system: Running) -> None:
    client = system.client
    batches = [await client.create_batch() for _ in range(2)]
    first = a_job(id=an_id(), body=body_of("hello"), custom_id="a", batch=batches[0].id)
    second = a_job(id=an_id(), body=body_of("hello"), batch=batches[1].id)
    refused = a_job(id=an_id(), body=b"nope", custom_id="b", batch=batches[1].id)
    alone = a_job(id=an_id(), body=body_of("wrong"))
    late = a_job(id=an_id(), body=body_of("hello"), deadline_ms=now() - 1)
    foreign = a_job(id=an_id(), body=body_of("hello"))

    await client.submit_many([Submission("m", job) for job in (first, second, refused, alone, late)])
    source = Source(Lane.BULK, "m", "a b.*", "default")
    await system.nc.jetstream().publish(subjects.submit(source), packed(foreign))
    answered = (await client.infer("m", body_of("hello"))).job

    await feed.holds(7)
    for notices in feed.heard.values():
        notices.sort(key=lambda notice: notice.job)
    assert dict(feed.heard) == {
        f"infermq.result.default.{batches[0].id}": [_notice(first.id, State.SUCCEEDED, "a")],
        f"infermq.result.default.{batches[1].id}": [
            _notice(second.id, State.SUCCEEDED),
            _notice(refused.id, State.FAILED, "b"),
        ],
        "infermq.result.default.-": [
            _notice(alone.id, State.FAILED),
            _notice(late.id, State.FAILED),
            _notice(answered, State.SUCCEEDED),
        ],
        "infermq.result.a_20_b_2e__2a_.-": [_notice(foreign.id, State.SUCCEEDED)],
    }


def _notice(job: UUID | None, state: State, custom_id: str | None = None) -> ResultNotice:
    assert job is not None
    return ResultNotice(job=job, state=state, custom_id=custom_id)


async def test_many_results_at_once_are_announced_in_several_messages(nc: Nats, feed: Feed) -> None:
    ended = [
        Recorded(
            job=an_id(), tenant="t", batch=None, custom_id="x" * 512, state=State.SUCCEEDED, model="m", lane=Lane.BULK
        )
        for _ in range(4100)
    ]

    await announce_results(nc, ended)

    await feed.holds(len(ended))
    assert [notice.job for notice in feed.heard["infermq.result.t.-"]] == [one.job for one in ended]
    assert sum(feed.sizes) == len(ended)
    assert max(feed.sizes) <= 2000


@pytest.mark.usefixtures("system")
async def test_a_client_that_waits_for_results_reads_them_when_they_are_announced(nats_url: str) -> None:
    async with Client.connect(nats_url, tenant="a b.*") as connected:
        client = Client(NatsDoor(connected.nats, tenant="a b.*", key="default"), poll_s=60.0)
        batch = await client.create_batch()
        await client.seal(batch.id, jobs=1)
        heard = client.nats.stats["in_msgs"]

        async def has_asked() -> bool:
            return client.nats.stats["in_msgs"] > heard

        reading = asyncio.create_task(_all(client.results(batch.id)))
        await until(has_asked, "it has found none yet")
        await client.submit_many([Submission("m", a_job(body=body_of("hello")))], batch_id=batch.id)

        async with asyncio.timeout(15):
            results = await reading

    assert [result.state for result in results] == [State.SUCCEEDED]


async def _all(results: AsyncIterator[Result]) -> list[Result]:
    return [result async for result in results]


_WAITING = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"


@asynccontextmanager
async def held_up(url: str, batch: UUID) -> AsyncIterator[Callable[[], Coroutine[Any, Any, bool]]]:
    """No transaction that counts in this batch can commit; the condition that one of them waits."""
    async with (
        asyncpg.create_pool(url, min_size=1, max_size=2) as pool,
        pool.acquire() as holder,
        holder.transaction(),
    ):
        await holder.execute("select from infermq.batches where id = $1 for update", batch)

        async def is_waiting() -> bool:
            return bool(await pool.fetchval(_WAITING))

        yield is_waiting


def an_intake(nc: Nats, ledger: Ledger, *, identify: Identify = open_door) -> Intake:
    return Intake(
        nc=nc,
        ledger=ledger.intake,
        dead_letters=ledger.dead_letters,
        identify=identify,
        catalog=a_catalog,
        metrics=BrokerMetrics(),
        lane=Lane.BULK,
    )


async def test_a_job_for_a_model_that_its_key_may_not_use_is_recorded_as_failed(nc: Nats, ledger: Ledger) -> None:
    async def producer(tenant: str, key: str, _: Ms) -> Principal:
        return Principal(tenant=tenant, key=key, role=Role.PRODUCER, models=frozenset({"other"}))

    await declare_streams(nc)
    job = a_job(id=an_id())
    await submitted(nc, job)
    serving = asyncio.create_task(an_intake(nc, ledger, identify=producer).serve())

    await emptied(nc, subjects.SUBMIT)

    assert job.id is not None
    shown = await ledger.jobs.find(job.id, "default")
    assert shown is not None
    assert isinstance(shown.failure, Refused)
    assert (shown.state, shown.failure.code, shown.failure.field) == (State.FAILED, "forbidden", "model")
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


async def test_nobody_takes_the_ids_beforehand_that_jobs_without_one_are_given(nc: Nats, ledger: Ledger) -> None:
    await declare_streams(nc)
    subject = subjects.submit(Source(Lane.BULK, "m", "victim", "default"))
    acked = await nc.jetstream().publish(subject, packed(a_job(custom_id="mine")))
    stored = await nc.jetstream().get_msg(subjects.SUBMIT, acked.seq)
    assert stored.time is not None
    at_ms = Ms(round(stored.time.timestamp() * 1000 - 0.5))
    guesses = [derived_id(subjects.SUBMIT, acked.seq, Ms(at_ms + off)) for off in (-1, 0, 1)]
    await ledger.intake.admit([an_entry(id=guess, tenant="thief") for guess in guesses])
    serving = asyncio.create_task(an_intake(nc, ledger).serve())

    await emptied(nc, subjects.SUBMIT)

    [mine] = (await ledger.jobs.page("victim", JobFilter(), limit=9, before=None)).jobs
    assert (mine.state, mine.custom_id, mine.id in guesses) == (State.QUEUED, "mine", False)
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


async def test_jobs_of_days_that_never_were_are_recorded_as_failed_and_the_others_admitted(
    nc: Nats, ledger: Ledger
) -> None:
    await declare_streams(nc)
    batch, good = await a_batch(ledger), an_id()
    serving = asyncio.create_task(an_intake(nc, ledger).serve())

    for job in (UUID(int=0), good, UUID(int=2**128 - 1), uuid4()):
        await submitted(nc, a_job(id=job, batch=batch.id))
    await emptied(nc, subjects.SUBMIT)

    page = await ledger.batches.results(batch.id, "default", None, 10)
    shown = await ledger.jobs.find(good, "default")
    assert page is not None
    assert shown is not None
    assert [one.failure.code for one in page.results if isinstance(one.failure, Refused)] == ["bad_id"] * 3
    assert shown.state is State.QUEUED
    assert not serving.done()
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


async def test_a_job_of_a_day_that_was_dropped_is_a_dead_letter_and_the_others_are_admitted(
    nc: Nats, ledger: Ledger, ledger_url: str
) -> None:
    """This broker has seen the day and takes it to be there."""
    await declare_streams(nc)
    yesterday = Ms(now() - 24 * 3_600_000)
    first, late, good = uuid7(yesterday, 1), uuid7(yesterday, 2), an_id()
    await ledger.intake.admit([an_entry(id=first)])
    intake = an_intake(nc, ledger)
    async with asyncpg.create_pool(ledger_url, min_size=1, max_size=1) as pool:
        await pool.execute(f"drop table infermq.jobs_{datetime.fromtimestamp(yesterday / 1000, UTC):%Y%m%d}")
        serving = asyncio.create_task(intake.serve())

        for job in (late, good):
            await submitted(nc, a_job(id=job))
        await emptied(nc, subjects.SUBMIT)

        assert await pool.fetchval("select count(*) from infermq.dead_letters") == 1
        assert await pool.fetchval("select failure->>'code' from infermq.jobs where state = 'failed'") == "unstorable"
        await pool.execute("delete from infermq.waiting where job = $1", first)
    shown = await ledger.jobs.find(good, "default")
    assert shown is not None
    assert shown.state is State.QUEUED
    assert not serving.done()
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


async def submitted(nc: Nats, job: Job) -> None:
    await nc.jetstream().publish(subjects.submit(Source(Lane.BULK, "m", "default", "default")), packed(job))


async def test_outcomes_of_days_that_never_were_are_counted_and_dropped_and_the_others_recorded(
    nc: Nats, ledger: Ledger
) -> None:
    await declare_streams(nc)
    attempt = await running(ledger)
    settle = a_settle(nc, ledger)
    serving = asyncio.create_task(settle.serve())

    for job in (UUID(int=0), attempt.job, UUID(int=2**128 - 1), uuid4()):
        await report(nc, a_report(job=job))
    await emptied(nc, subjects.OUTCOME)

    shown = await ledger.jobs.find(attempt.job, "default")
    assert shown is not None
    assert shown.state is State.SUCCEEDED
    assert settle.metrics.registry.get_sample_value("infermq_outcomes_dropped_total") == 3
    assert not serving.done()
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


@pytest.mark.parametrize("role", [an_intake, a_settle])
async def test_a_result_is_announced_and_its_message_let_go_once_the_ledger_has_it(
    nc: Nats, ledger: Ledger, ledger_url: str, feed: Feed, role: Callable[[Nats, Ledger], Intake | Settle]
) -> None:
    await declare_streams(nc)
    batch = await a_batch(ledger)
    stream = await _given(role, nc, ledger, batch.id)

    async with held_up(ledger_url, batch.id) as is_waiting:
        serving = asyncio.create_task(role(nc, ledger).serve())
        await until(is_waiting, "the transaction waits")
        await nc.flush()
        early = dict(feed.heard)
        left = (await nc.jetstream().stream_info(stream)).state.messages
    await feed.holds(1)
    await emptied(nc, stream)

    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    assert (early, left) == ({}, 1)
    assert list(feed.heard) == [subjects.result("default", batch.id)]


async def _given(role: object, nc: Nats, ledger: Ledger, batch: UUID) -> str:
    """Something for it to do that ends a job of the batch, and the stream that it is in."""
    if role is a_settle:
        attempt = await running(ledger, batch=batch)
        await report(nc, a_report(job=attempt.job))
        return subjects.OUTCOME
    job = a_job(body=b"nope", batch=batch)
    await nc.jetstream().publish(subjects.submit(Source(Lane.BULK, "m", "default", "default")), packed(job))
    return subjects.SUBMIT
