"""What a producer sees of each way in which its job can be refused after SUBMIT has acknowledged it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import msgspec
import pytest

from broker.ports import Ledger
from schemas import subjects
from schemas.api import Batch, BatchCreate, BatchStatus, Result, ResultNotice, State
from schemas.codec import CONTENT_TYPE, JSON, packed
from schemas.jetstream.client import NatsClient as Nats
from schemas.job import Job, Lane
from schemas.outcome import Refused
from schemas.subjects import DEFAULT, Source
from tests.builders import BODY, CHAT, a_job, an_id, now
from tests.declared import declare_streams
from tests.real.test_streams import an_intake, emptied

OTHER = BODY.replace(b"hello", b"goodbye")
pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]


class Door:
    """SUBMIT, with an intake behind it, and what a producer can see."""

    def __init__(self, nc: Nats, ledger: Ledger) -> None:
        self.nc = nc
        self.ledger = ledger
        self.notices: list[ResultNotice] = []

    async def send(self, *jobs: Job, tenant: str = DEFAULT) -> None:
        await self.send_bytes(packed(list(jobs)), tenant=tenant)

    async def send_bytes(self, data: bytes, *, tenant: str = DEFAULT, **headers: str) -> None:
        """Publish, and wait until it is taken in."""
        subject = subjects.submit(Source(Lane.BULK, "m", tenant, DEFAULT))
        await self.nc.jetstream().publish(subject, data, headers=headers or None)
        await emptied(self.nc, subjects.SUBMIT)

    async def batch(self) -> UUID:
        return (await self.ledger.batches.create(BatchCreate(id=an_id()), DEFAULT, now())).id

    async def shown(self, batch: UUID) -> Batch:
        found = await self.ledger.batches.find(batch, DEFAULT)
        assert found is not None
        return found

    async def seal(self, batch: UUID, jobs: int) -> None:
        await self.ledger.batches.seal(batch, DEFAULT, jobs, now())

    async def results(self, batch: UUID) -> list[Result]:
        page = await self.ledger.batches.results(batch, DEFAULT, None, 100)
        assert page is not None
        return list(page.results)

    async def failure(self, job: UUID, *, tenant: str = DEFAULT) -> Refused:
        found = await self.ledger.jobs.find(job, tenant)
        assert found is not None
        assert found.state is State.FAILED
        assert isinstance(found.failure, Refused)
        return found.failure

    async def announced(self, count: int) -> list[ResultNotice]:
        async with asyncio.timeout(10):
            while len(self.notices) < count:
                await asyncio.sleep(0.01)
        return self.notices


@pytest.fixture
async def door(nc: Nats, ledger: Ledger) -> AsyncIterator[Door]:
    await declare_streams(nc)
    made = Door(nc, ledger)

    async def hear(message: Any) -> None:
        made.notices += msgspec.json.decode(message.data, type=list[ResultNotice])

    await nc.subscribe(subjects.result(DEFAULT, None).replace("-", "*"), cb=hear)
    async with taking(nc, ledger):
        yield made


@asynccontextmanager
async def taking(nc: Nats, ledger: Ledger) -> AsyncIterator[None]:
    serving = asyncio.create_task(an_intake(nc, ledger).serve())
    try:
        yield
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


def in_batch(batch: UUID, **changes: Any) -> Job:
    return a_job(**{"id": an_id(), "batch": batch, **changes})


def broken(**fields: Any) -> dict[str, Any]:
    """A job whose deadline is no number."""
    return {"endpoint": CHAT, "body": b"{}", "deadline_ms": "soon", **fields}


# bytes that are no job


async def test_a_job_that_cannot_be_decoded_fails_in_its_batch_by_its_line_and_completes_it(door: Door) -> None:
    batch = await door.batch()

    await door.send_bytes(msgspec.msgpack.encode([broken(batch=str(batch), line=7, custom_id="c7")]))
    await door.seal(batch, 1)

    [result] = await door.results(batch)
    assert (result.state, result.line, result.custom_id) == (State.FAILED, 7, "c7")
    assert isinstance(result.failure, Refused)
    assert (result.failure.code, "deadline_ms" in result.failure.message) == ("unreadable_job", True)
    assert (await door.shown(batch)).status is BatchStatus.COMPLETED


async def test_a_job_that_cannot_be_decoded_is_shown_under_its_own_id(door: Door) -> None:
    job = an_id()

    await door.send_bytes(msgspec.msgpack.encode(broken(id=job.bytes)))

    assert (await door.failure(job)).code == "unreadable_job"


@pytest.mark.parametrize(
    "data", [b"\xff\0nope", b"", b"\x90", b"[" * 100_000], ids=["bytes", "none", "no job", "deep"]
)
async def test_bytes_of_which_nothing_can_be_read_are_announced_as_a_failed_job(door: Door, data: bytes) -> None:
    await door.send_bytes(data)

    [notice] = await door.announced(1)
    assert (await door.failure(notice.job)).code == "unreadable_job"


async def test_every_job_of_too_long_an_array_fails_in_its_batch(door: Door) -> None:
    batch = await door.batch()

    await door.send(*[in_batch(batch, line=line, custom_id=f"c{line}") for line in range(1, 1002)])

    assert (await door.shown(batch)).counts.failed == 1000


async def test_a_job_in_json_that_cannot_be_decoded_fails_in_its_batch(door: Door) -> None:
    batch = await door.batch()
    fields = {"endpoint": CHAT, "body": {}, "batch": str(batch), "line": 3, "custom_id": 5}

    await door.send_bytes(msgspec.json.encode([fields]), **{CONTENT_TYPE: JSON})

    [result] = await door.results(batch)
    assert (result.line, result.custom_id) == (3, None)


async def test_a_message_that_comes_again_fails_its_jobs_once(nc: Nats, ledger: Ledger) -> None:
    """The broker was killed before it could acknowledge it."""
    await declare_streams(nc)
    door = Door(nc, ledger)
    batch, taken = await door.batch(), an_id()
    async with taking(nc, ledger):
        await door.send(in_batch(batch, id=taken))
    intake = an_intake(nc, ledger)
    subject = subjects.submit(Source(Lane.BULK, "m", DEFAULT, DEFAULT))
    again = [in_batch(batch, id=taken, body=b"{}"), in_batch(batch, deadline_ms=1)]
    await nc.jetstream().publish(subject, packed(again))
    pulled = await nc.jetstream().pull_subscribe_bind(subjects.intake_consumer(Lane.BULK), subjects.SUBMIT)
    messages = await pulled.fetch(1)

    for _ in range(2):
        await intake.take(messages)

    assert (await door.shown(batch)).counts.admitted == 3
    assert [result.state for result in await door.results(batch)] == [State.FAILED] * 2


# ids


async def test_a_job_whose_id_is_anothers_fails_in_its_batch_and_leaves_the_other_alone(door: Door) -> None:
    batch, taken = await door.batch(), an_id()
    await door.send(in_batch(batch, id=taken, line=1))

    await door.send(in_batch(batch, id=taken, line=1, custom_id="again", body=OTHER))

    [result] = await door.results(batch)
    assert (result.custom_id, result.job == taken) == ("again", False)
    failure = await door.failure(result.job)
    assert (failure.code, str(taken) in failure.message) == ("id_in_use", True)
    other = await door.ledger.jobs.find(taken, DEFAULT)
    assert other is not None
    assert other.state is State.QUEUED


async def test_of_two_jobs_of_one_id_in_a_message_the_second_fails(door: Door) -> None:
    batch, job = await door.batch(), an_id()

    await door.send(
        in_batch(batch, id=job, custom_id="first"), in_batch(batch, id=job, custom_id="second", body=OTHER)
    )

    [result] = await door.results(batch)
    assert result.custom_id == "second"
    assert (await door.failure(result.job)).code == "id_in_use"


async def test_the_id_of_another_tenants_job_tells_nothing_of_it(door: Door) -> None:
    theirs = an_id()
    await door.send(a_job(id=theirs), tenant="other")

    await door.send(a_job(id=theirs))

    [notice] = await door.announced(1)
    assert (await door.failure(notice.job)).code == "id_in_use"
    assert await door.ledger.jobs.find(theirs, DEFAULT) is None


# batches


async def complete(door: Door) -> tuple[UUID, Job]:
    """A batch of one job that has failed, and the job."""
    batch = await door.batch()
    job = in_batch(batch, line=1, deadline_ms=1)
    await door.send(job)
    await door.seal(batch, 1)
    return batch, job


async def test_a_job_for_a_complete_batch_fails_outside_of_it_and_is_counted_there(door: Door) -> None:
    batch, _ = await complete(door)
    before, late = await door.shown(batch), an_id()

    await door.send(in_batch(batch, id=late, line=2))

    failure = await door.failure(late)
    assert (failure.code, failure.field) == ("batch_sealed", "batch")
    assert failure.message == f"the batch {batch} was sealed with its job: submit this one in another"
    assert await door.shown(batch) == msgspec.structs.replace(before, refused=1)
    assert len(await door.results(batch)) == 1


async def test_another_job_on_a_line_of_a_complete_batch_is_refused_too(door: Door) -> None:
    batch, job = await complete(door)
    assert job.id is not None

    await door.send(msgspec.structs.replace(job, deadline_ms=None, body=b'{"messages":[]}'))

    notice = (await door.announced(2))[-1]
    assert (await door.failure(notice.job)).code == "batch_sealed"
    assert (await door.shown(batch)).refused == 1
    assert (await door.failure(job.id)).code == "deadline_past"


async def test_a_job_that_comes_late_is_counted_once_however_often_it_comes(door: Door) -> None:
    batch, _ = await complete(door)
    late = in_batch(batch, line=2)

    for _ in range(2):
        await door.send(late)

    assert (await door.shown(batch)).refused == 1


async def test_what_was_taken_in_may_be_sent_again_after_the_batch_is_complete(door: Door) -> None:
    batch, job = await complete(door)
    before = await door.shown(batch)

    await door.send(job)

    assert await door.shown(batch) == before


async def test_jobs_on_their_way_when_their_batch_is_sealed_are_taken_in(door: Door) -> None:
    batch = await door.batch()
    await door.send(in_batch(batch))
    await door.seal(batch, 2)

    await door.send(in_batch(batch))
    await door.send(in_batch(batch))

    shown = await door.shown(batch)
    assert (shown.counts.admitted, shown.refused) == (2, 1)


async def test_a_batch_is_not_complete_while_a_job_of_it_is_open(door: Door) -> None:
    """More were taken in at once than it was sealed with."""
    batch = await door.batch()
    await door.send(in_batch(batch, deadline_ms=1), in_batch(batch))

    await door.seal(batch, 1)

    assert (await door.shown(batch)).status is BatchStatus.IN_PROGRESS


@pytest.mark.parametrize("tenant", [DEFAULT, "other"])
async def test_a_job_for_a_batch_that_is_not_there_or_not_its_tenants_fails(door: Door, tenant: str) -> None:
    batch = an_id() if tenant == DEFAULT else await door.batch()
    job = an_id()

    await door.send(in_batch(batch, id=job), tenant=tenant)

    assert (await door.failure(job, tenant=tenant)).code == "unknown_batch"
    if tenant != DEFAULT:
        assert (await door.shown(batch)).counts.admitted == 0
