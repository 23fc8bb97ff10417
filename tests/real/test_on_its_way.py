"""A job can be looked at from the moment its submission was accepted."""

import pytest

from broker.bus.catalogs import Catalogs
from broker.bus.submitted import SubmittedJobs
from broker.client import Client, Submission
from broker.core.principal import open_principal
from broker.ports import Ledger
from broker.service import JobService
from broker.service.refusal import Refusal
from schemas.api import JobRef, State
from schemas.jetstream.client import NatsClient as Nats
from schemas.job import Lane
from tests.builders import BODY, an_entry, an_id, now
from tests.declared import declare_streams

pytestmark = pytest.mark.real
HELLO = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}


@pytest.fixture
async def service(nc: Nats, ledger: Ledger) -> JobService:
    """With no intake, so that what is submitted stays in its stream."""
    await declare_streams(nc)
    return JobService(
        ledger=ledger.jobs,
        batches=ledger.batches,
        submitted=SubmittedJobs(nc),
        catalogs=Catalogs(nc),
        pools=dict,
        clock=now,
    )


async def test_a_job_is_shown_as_accepted_before_intake_has_it(service: JobService, nats_url: str) -> None:
    async with Client.connect(nats_url, tenant="t") as client:
        alone = await client.submit("m.x", HELLO, custom_id="c", deadline_ms=now() + 60_000)
        ids = [an_id() for _ in range(50)]
        await client.submit_many([Submission.of("n", HELLO, id=one, lane=Lane.BULK) for one in ids])

    first = await service.show(open_principal("t", "k"), JobRef(alone))
    last = await service.show(open_principal("t", "k"), JobRef(ids[-1]))

    assert (first.id, first.state, first.model, first.lane, first.custom_id) == (
        alone,
        State.ACCEPTED,
        "m.x",
        Lane.STANDARD,
        "c",
    )
    assert (last.id, last.state, last.model, last.lane) == (ids[-1], State.ACCEPTED, "n", Lane.BULK)
    assert first.settled_ms is None


async def test_no_other_tenant_sees_it(service: JobService, nats_url: str) -> None:
    async with Client.connect(nats_url, tenant="t") as client:
        job = await client.submit("m", HELLO)

    with pytest.raises(Refusal, match="there is no job"):
        await service.show(open_principal("other", "k"), JobRef(job))


async def test_the_ledgers_word_counts_once_it_has_the_job(
    service: JobService, ledger: Ledger, nats_url: str
) -> None:
    async with Client.connect(nats_url, tenant="t") as client:
        job = await client.submit("m", HELLO)
    await ledger.intake.admit([an_entry(id=job, tenant="t")])

    assert (await service.show(open_principal("t", "k"), JobRef(job))).state is State.QUEUED


async def test_what_was_not_looked_into_is_said(service: JobService, nc: Nats) -> None:
    for _ in range(300):
        await nc.publish("infermq.submit.bulk.m.t.k", BODY)
    await nc.jetstream().publish("infermq.submit.bulk.m.t.k", BODY)

    with pytest.raises(Refusal, match=r"45 more messages of yours wait for intake"):
        await service.show(open_principal("t", "k"), JobRef(an_id()))


async def test_a_job_that_was_never_submitted_is_unknown(service: JobService, nats_url: str) -> None:
    async with Client.connect(nats_url, tenant="t") as client:
        await client.submit("m", HELLO)

    with pytest.raises(Refusal, match="there is no job"):
        await service.show(open_principal("t", "k"), JobRef(an_id()))
