"""One tenant's jobs, batches, results and keys are no other's."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from uuid import UUID

import msgspec
import pytest

from broker.client import Client
from schemas import subjects
from schemas.api import (
    Batch,
    BatchCreate,
    Batches,
    BatchList,
    BatchRef,
    BatchResults,
    BatchSeal,
    BatchStatus,
    CatalogApply,
    ErrorBody,
    JobCancel,
    JobRef,
    JobsCancelled,
    JobShow,
    Nothing,
    ResultPage,
    State,
)
from schemas.cancel import CancelChoice, CancelCount
from schemas.codec import ERROR, KIND, jsoned
from schemas.instructions import Instruction, InstructionList, InstructionRef, Instructions
from schemas.jetstream.client import NatsClient as Nats
from schemas.job import Lane
from schemas.listing import JobList, JobPage
from schemas.outcome import Refused
from schemas.repeats import BatchRetry, ReplayDiff, ReplayEstimate, ReplayEstimateAsk, RetryCheck
from schemas.subjects import Verb
from tests.builders import a_job, an_id
from tests.calling import called
from tests.contract.ledger.test_tenants import TENANTS
from tests.instructing import an_instruction
from tests.real.test_broker import Running, a_broker, a_worker, asked, body_of

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]


@dataclass(frozen=True, slots=True)
class Owner:
    """A tenant with an open batch, in which one job has ended, and an instruction that nobody carries out."""

    tenant: str
    batch: UUID
    job: UUID
    instruction: UUID
    retry: UUID
    """What its retry would be called."""


def about(owner: Owner) -> dict[Verb, msgspec.Struct]:
    """What can be asked of a tenant's own."""
    return {
        Verb.BATCH_CREATE: BatchCreate(id=owner.batch, metadata={"of": "another"}),
        Verb.BATCH_SHOW: BatchRef(owner.batch),
        Verb.BATCH_LIST: BatchList(),
        Verb.BATCH_RESULTS: BatchResults(owner.batch),
        Verb.BATCH_SEAL: BatchSeal(owner.batch, 1),
        Verb.JOB_SHOW: JobRef(owner.job),
        Verb.BATCH_RETRY_CHECK: RetryCheck(batch=owner.batch, custom_ids=("a",)),
        Verb.INSTRUCTION_SHOW: InstructionRef(owner.instruction),
        Verb.INSTRUCTION_LIST: InstructionList(),
        Verb.JOB_LIST: JobList(),
        Verb.REPLAY_DIFF: ReplayDiff(owner.batch),
        Verb.REPLAY_ESTIMATE: ReplayEstimateAsk(jobs=(owner.job,)),
        Verb.JOB_CANCEL: JobCancel((owner.job,)),
        Verb.CANCEL_COUNT: CancelChoice(batch=owner.batch),
        Verb.BATCH_CANCEL: BatchRef(owner.batch),
        Verb.BATCH_RETRY: BatchRetry(id=owner.retry, batch=owner.batch),
    }


SHARED = {
    Verb.CATALOG_APPLY, Verb.CATALOG_SHOW, Verb.STATUS, Verb.PAUSE, Verb.RESUME, Verb.PAUSES, Verb.AUDIT,
    Verb.DEAD_LIST, Verb.DEAD_EACH, Verb.DEAD_SHOW, Verb.DEAD_REQUEUE, Verb.DEAD_DROP,
    Verb.TENANT_CREATE, Verb.TENANT_LIST, Verb.TENANT_SHOW, Verb.TENANT_DISABLE, Verb.TENANT_ENABLE,
}  # fmt: skip
"""What these are about belongs to all tenants, or is all shown to operators: an open door's callers are such."""
ELSEWHERE = {
    Verb.REPLAY, Verb.CANCEL, Verb.JOB_CHANGE, Verb.BATCH_CHANGE,
    Verb.KEY_CREATE, Verb.KEY_LIST, Verb.KEY_SHOW, Verb.KEY_REVOKE, Verb.KEY_ROTATE,
    *(verb for verb in Verb if verb.startswith("webhook-")),
}  # fmt: skip
"""What is tried with other tenants in tests/real: test_replays, test_changes, test_cancel_orders, test_keys; and in
tests/accounts/test_walk_verbs."""
REFUSALS = {
    Verb.BATCH_CREATE: "conflict",
    Verb.BATCH_SHOW: "unknown_batch",
    Verb.BATCH_RESULTS: "unknown_batch",
    Verb.BATCH_SEAL: "unknown_batch",
    Verb.JOB_SHOW: "unknown_job",
    Verb.BATCH_RETRY_CHECK: "unknown_batch",
    Verb.BATCH_RETRY: "unknown_batch",
    Verb.BATCH_CANCEL: "unknown_batch",
    Verb.REPLAY_DIFF: "unknown_batch",
    Verb.INSTRUCTION_SHOW: "unknown_instruction",
}
"""What another tenant is told."""


async def answer(nc: Nats, verb: Verb, tenant: str, ask: msgspec.Struct) -> bytes:
    message = await called(nc, verb, tenant, "default", ask)
    if (message.headers or {}).get(KIND) == ERROR:
        return msgspec.json.decode(message.data, type=ErrorBody).error.code.encode()
    return message.data


@pytest.fixture
async def system(nats_url: str, ledger_url: str, nc: Nats) -> AsyncIterator[Running]:
    async with a_broker(nats_url, ledger_url, nc) as broker, a_worker(nc):
        await broker.has_a_worker()
        yield broker


async def an_owner(url: str, system: Running, tenant: str) -> Owner:
    async with Client.connect(url, tenant=tenant) as client:
        batch = await client.create_batch()
        job = await submitted(system, client, tenant, batch.id)
    instruction = await an_instruction(system.ledger_url, tenant=tenant)
    return Owner(tenant, batch.id, job.id, instruction, an_id())


async def submitted(system: Running, client: Client, tenant: str, batch: UUID) -> JobShow:
    """A job of the tenant that names the batch, when it has ended."""
    job = a_job(id=an_id(), body=body_of(tenant), batch=batch)
    source = subjects.Source(Lane.BULK, "m", tenant, "default")
    await system.nc.jetstream().publish(subjects.submit(source), msgspec.msgpack.encode(job))
    assert job.id is not None
    return await Running(system.nc, client, system.ledger_url, system.url).ended(job.id)


async def test_no_verb_lets_a_tenant_see_or_touch_what_is_anothers(nats_url: str, system: Running) -> None:
    owners = [await an_owner(nats_url, system, tenant) for tenant in TENANTS]
    assert about(owners[0]).keys() | SHARED | ELSEWHERE == set(Verb), "a verb is missing here"

    for owner in owners:
        for stranger in owners:
            if stranger is not owner:
                told = {
                    verb: await answer(system.nc, verb, stranger.tenant, ask) for verb, ask in about(owner).items()
                }
                listed = msgspec.json.decode(told.pop(Verb.BATCH_LIST), type=Batches)
                assert [batch.id for batch in listed.batches] == [stranger.batch]
                instructions = msgspec.json.decode(told.pop(Verb.INSTRUCTION_LIST), type=Instructions)
                assert [one.id for one in instructions.instructions] == [stranger.instruction]
                jobs = msgspec.json.decode(told.pop(Verb.JOB_LIST), type=JobPage).jobs
                assert [job.id for job in jobs] == [stranger.job]
                [cancelled] = msgspec.json.decode(told.pop(Verb.JOB_CANCEL), type=JobsCancelled).jobs
                assert cancelled.state is None
                assert msgspec.json.decode(told.pop(Verb.CANCEL_COUNT), type=CancelCount) == CancelCount(0, 0, False)
                assert msgspec.json.decode(told.pop(Verb.REPLAY_ESTIMATE), type=ReplayEstimate) == ReplayEstimate()
                assert told == {verb: code.encode() for verb, code in REFUSALS.items()}, (owner, stranger)

    for owner in owners:
        own = {verb: await answer(system.nc, verb, owner.tenant, ask) for verb, ask in about(owner).items()}
        assert_own(owner, own)


def assert_own(owner: Owner, told: Mapping[Verb, bytes]) -> None:
    """It is as its owner left it, and its owner is shown all of it."""
    created, shown, sealed = [
        msgspec.json.decode(told[verb], type=Batch) for verb in (Verb.BATCH_CREATE, Verb.BATCH_SHOW, Verb.BATCH_SEAL)
    ]
    assert created == shown
    assert (shown.id, shown.status, shown.metadata, shown.counts.succeeded) == (owner.batch, BatchStatus.OPEN, {}, 1)
    assert (sealed.id, sealed.jobs, sealed.status) == (owner.batch, 1, BatchStatus.COMPLETED)
    assert msgspec.json.decode(told[Verb.BATCH_LIST], type=Batches).batches == (shown,)
    assert [job.id for job in msgspec.json.decode(told[Verb.JOB_LIST], type=JobPage).jobs] == [owner.job]
    assert [one.job for one in msgspec.json.decode(told[Verb.BATCH_RESULTS], type=ResultPage).results] == [owner.job]
    assert msgspec.json.decode(told[Verb.JOB_SHOW], type=JobShow).batch == owner.batch
    assert msgspec.json.decode(told[Verb.REPLAY_ESTIMATE], type=ReplayEstimate).jobs == 1
    instruction = msgspec.json.decode(told[Verb.INSTRUCTION_SHOW], type=Instruction)
    assert instruction.id == owner.instruction
    assert msgspec.json.decode(told[Verb.INSTRUCTION_LIST], type=Instructions).instructions == (instruction,)


async def test_what_all_tenants_share_is_the_same_for_each(system: Running) -> None:
    [told] = {await answer(system.nc, Verb.CATALOG_SHOW, tenant, Nothing()) for tenant in TENANTS}

    assert b"toml" in told


async def test_a_catalog_is_kept_with_the_tenant_who_applied_it(system: Running) -> None:
    await answer(system.nc, Verb.CATALOG_APPLY, "a b>", CatalogApply("# mine"))

    [newest] = await system.rows("select applied_by from infermq.catalog order by number desc limit 1")
    assert newest["applied_by"] == "a b>"


async def test_no_job_gets_into_anothers_batch(nats_url: str, system: Running) -> None:
    owner = await an_owner(nats_url, system, "a.b")

    async with Client.connect(nats_url, tenant="a_2e_b") as client:
        job = await submitted(system, client, "a_2e_b", owner.batch)

    async with Client.connect(nats_url, tenant="a.b") as client:
        batch = await client.batch(owner.batch)
        results = [result.job async for result in client.results(owner.batch, wait=False)]
    assert isinstance(job.failure, Refused)
    assert (job.state, job.failure.code, job.batch) == (State.FAILED, "unknown_batch", None)
    assert batch.counts.admitted == 1
    assert results == [owner.job]


async def test_an_interactive_request_is_recorded_as_its_tenants(nats_url: str, system: Running) -> None:
    job = an_id()

    heard = await asked(system.nc, a_job(id=job, body=body_of("hello")), "a b>")
    await heard.get()

    async with Client.connect(nats_url, tenant="a b>") as client:
        shown = await Running(system.nc, client, system.ledger_url, system.url).ended(job)
    assert shown.state is State.SUCCEEDED
    assert await answer(system.nc, Verb.JOB_SHOW, "default", JobRef(job)) == b"unknown_job"


async def test_an_answer_comes_to_no_inbox_of_another_tenant(system: Running) -> None:
    victim = await system.nc.subscribe(f"{subjects.inbox_prefix('a.b')}.x")
    own = await system.nc.subscribe(f"{subjects.inbox_prefix('ü*')}.x")
    request = msgspec.msgpack.encode(a_job())

    for inbox in (victim, own):
        await system.nc.publish(subjects.infer("none", "ü*", "default"), request, inbox.subject)

    refusal = await own.next_msg(timeout=5)
    assert b"unknown_model" in refusal.data
    assert victim.pending_msgs == 0


async def test_a_call_that_may_not_be_answered_does_nothing(system: Running) -> None:
    """As when somebody has an acknowledgement of the server's sent to the API in another's name."""
    victim, batch = await system.nc.subscribe(f"{subjects.inbox_prefix('a.b')}.x"), an_id()
    subject, asked = subjects.api(Verb.BATCH_CREATE, "default", "default"), jsoned(BatchCreate(id=batch))

    for inbox in ("", victim.subject, "infermq.ctl.settled"):
        await system.nc.publish(subject, asked, inbox)

    assert await answer(system.nc, Verb.BATCH_SHOW, "default", BatchRef(batch)) == b"unknown_batch"
    assert victim.pending_msgs == 0
