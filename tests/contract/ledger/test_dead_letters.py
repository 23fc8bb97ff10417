"""Dead letters: what a person sees of them, and what becomes of those that are requeued or dropped."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from functools import partial
from uuid import UUID

import msgspec
import pytest

from broker.core.principal import Principal, open_principal
from broker.core.records import Audited, DeadLetter, Final, RequeuedJobs
from broker.ledger.areas import STEPS
from broker.ledger.instructions import Step
from broker.ledger.requeues import requeue_page
from broker.ports import Ledger
from broker.service import DeadLetterService
from broker.service.dead_letters import PIECE
from broker.service.refusal import Refusal
from schemas import subjects
from schemas.accounts import Role
from schemas.api import State
from schemas.dead import DeadCause, DeadDrop, DeadEach, DeadFilter, DeadList, DeadRef, DeadRequeue, DeadWhat
from schemas.instructions import InstructionKind
from schemas.job import Lane
from schemas.listing import JobFilter
from schemas.outcome import EngineFault, Failed, Refused, TimedOut
from schemas.ruling import Convict
from schemas.units import Ms
from tests.builders import CHAT, a_dead_letter, an_entropy, an_id, now
from tests.contract.ledger.conftest import a_ledger
from tests.real.test_failures import settle
from tests.settling import a_batch, a_verdict, running

TWO_MODELS = """
[models.m]
route = [{ deployment = "d" }]
[models.other]
route = [{ deployment = "d" }]
[deployments.d]
engine = "simulated"
"""
OPERATOR = open_principal("ops", "k")
PRODUCER = Principal(tenant="t", key="k", role=Role.PRODUCER)


@pytest.fixture
async def ledger(ledger_server: str | None) -> AsyncIterator[Ledger]:
    """A ledger whose pages of a requeue have two jobs."""
    steps: dict[InstructionKind, Step] = {**STEPS, InstructionKind.REQUEUE: partial(requeue_page, page=2)}
    async with a_ledger(ledger_server, steps=steps) as opened:
        await opened.catalogs.apply(TWO_MODELS, "test", now())
        yield opened


@pytest.fixture
async def service(ledger: Ledger) -> DeadLetterService:
    return DeadLetterService(ledger=ledger.dead_letters, publish=taken, tell=nothing, clock=now, entropy=an_entropy)


async def taken(letters: Sequence[DeadLetter]) -> list[DeadLetter]:
    """Publish messages to a stream that takes them all."""
    return list(letters)


async def nothing() -> None:
    """Nobody carries instructions out here."""


async def a_dead_job(ledger: Ledger, *, tenant: str = "t", stage: str = "attempt", **changes: object) -> UUID:
    attempt = await running(ledger, tenant=tenant, **changes)
    failure = TimedOut(Ms(1000), stage)
    await ledger.settlement.settle(
        [a_verdict(attempt, Failed(failure), transition=Final(State.DEAD, None, failure))], now=now()
    )
    return attempt.job


async def audits(ledger: Ledger) -> list[tuple[str, str, object]]:
    entries = await ledger.audit.page(None, 99, None)
    return [(one.tenant, one.action, json.loads(bytes(one.after))) for one in reversed(entries)]


async def recorded(ledger: Ledger, *letters: DeadLetter) -> list[UUID]:
    await ledger.dead_letters.record(letters)
    return [one.id for one in letters]


def a_submission(*jobs: dict[str, object], **changes: object) -> DeadLetter:
    """Jobs that are wrong in what a newer broker, or a patch, may read."""
    usual = {"endpoint": CHAT, "body": b'{"messages":[{"role":"user","content":"x"}],"max_tokens":8}'}
    payload = msgspec.msgpack.encode([{**usual, **job} for job in jobs])
    return a_dead_letter(tenant="t", payload=payload, **changes)  # type: ignore[arg-type]


# what there is


async def test_jobs_and_messages_are_counted_by_cause_with_an_example_and_what_to_do(
    service: DeadLetterService, ledger: Ledger
) -> None:
    jobs = [await a_dead_job(ledger, model=model) for model in ("m", "n", "n")]
    convicted = await running(ledger, tenant="t")
    await settle(ledger, Convict(convicted.job, convicted.number, 2))
    letters = await recorded(ledger, *(a_dead_letter(tenant="t", reason=f"no {n}") for n in range(4)))

    groups = (await service.groups(OPERATOR, DeadList())).groups

    assert [(one.what, one.cause, one.count) for one in groups] == [
        (DeadWhat.MESSAGE, "not_a_job", 4),
        (DeadWhat.JOB, "timed_out", 3),
        (DeadWhat.JOB, "worker_lost", 1),
    ]
    assert groups[0].example == max(letters)
    assert groups[0].reason == f"no {letters.index(max(letters))}"
    assert (groups[1].models, groups[1].example) == ({"n": 2, "m": 1}, max(jobs))
    assert groups[1].reason == "the attempt was ended after 1000 ms"
    assert all(group.advice for group in groups)
    assert now() - 60_000 < groups[1].first_ms <= groups[1].last_ms <= now()


async def test_jobs_that_ended_otherwise_are_no_dead_letters(service: DeadLetterService, ledger: Ledger) -> None:
    attempt = await running(ledger)
    failure = EngineFault("m")
    await ledger.settlement.settle(
        [a_verdict(attempt, Failed(failure), transition=Final(State.FAILED, None, failure))], now=now()
    )

    assert (await service.groups(OPERATOR, DeadList())).groups == ()


async def test_filters_say_which_are_meant(service: DeadLetterService, ledger: Ledger) -> None:
    batch = (await a_batch(ledger)).id
    in_batch = await a_dead_job(ledger, tenant="default", batch=batch, model="n")
    job = await a_dead_job(ledger)
    [message] = await recorded(ledger, a_dead_letter(tenant="t", received_ms=Ms(now() - 3_600_000)))
    [nobodys] = await recorded(
        ledger, a_dead_letter(stream=subjects.OUTCOME, subject="x", cause=DeadCause.FALSE_SEAL)
    )

    async def listed(**wanted: object) -> set[UUID]:
        found = await service.each(OPERATOR, DeadEach(filter=DeadFilter(**wanted)))  # type: ignore[arg-type]
        counted = (await service.groups(OPERATOR, DeadList(filter=DeadFilter(**wanted)))).groups  # type: ignore[arg-type]
        assert sum(group.count for group in counted) == len(found.letters)
        return {letter.id for letter in found.letters}

    assert await listed() == {in_batch, job, message, nobodys}
    assert await listed(what=DeadWhat.JOB) == {in_batch, job}
    assert await listed(what=DeadWhat.MESSAGE) == {message, nobodys}
    assert await listed(causes=("timed_out", "not_a_job")) == {in_batch, job, message}
    assert await listed(causes=("false_seal",)) == {nobodys}
    assert await listed(model="n") == {in_batch}
    assert await listed(tenant="t") == {job, message}
    assert await listed(batch=batch) == {in_batch}
    assert await listed(since_ms=now() - 600_000) == {in_batch, job, nobodys}
    assert await listed(until_ms=now() - 600_000) == {message}


async def test_single_ones_come_newest_first_a_page_at_a_time(service: DeadLetterService, ledger: Ledger) -> None:
    ids = [await a_dead_job(ledger) for _ in range(3)]
    ids += await recorded(ledger, *(a_dead_letter(received_ms=Ms(now() + n)) for n in range(3)))

    first = (await service.each(OPERATOR, DeadEach(limit=4))).letters
    rest = (await service.each(OPERATOR, DeadEach(limit=4, before=first[-1].id))).letters

    assert [letter.id for letter in (*first, *rest)] == sorted(ids, reverse=True)


async def test_a_dead_letter_is_shown_with_its_original_bytes(service: DeadLetterService, ledger: Ledger) -> None:
    content = bytes(range(256)) * (2 * PIECE // 256) + b"end"
    [message] = await recorded(ledger, a_dead_letter(payload=content, headers={"a": "b"}))
    job = await a_dead_job(ledger, custom_id="c", body=b'{"messages":[]}')

    shown = await service.show(OPERATOR, DeadRef(message))
    pieces = [await service.show(OPERATOR, DeadRef(message, offset)) for offset in (PIECE, 2 * PIECE, 3 * PIECE)]
    of_job = await service.show(OPERATOR, DeadRef(job))

    assert shown.piece + b"".join(one.piece for one in pieces) == content
    assert (shown.letter.size_bytes, shown.headers, shown.letter.reason) == (len(content), {"a": "b"}, "not a job")
    assert (of_job.piece, of_job.letter.attempts, of_job.letter.custom_id) == (b'{"messages":[]}', 1, "c")
    assert of_job.letter.reason == "the attempt was ended after 1000 ms"


async def test_a_tenant_sees_and_changes_its_own_only(service: DeadLetterService, ledger: Ledger) -> None:
    mine = [await a_dead_job(ledger), *await recorded(ledger, a_dead_letter(tenant="t"))]
    others = [await a_dead_job(ledger, tenant="u"), *await recorded(ledger, a_dead_letter(tenant="u"))]
    nobodys = await recorded(ledger, a_dead_letter(stream=subjects.OUTCOME, subject="x", cause=DeadCause.FALSE_SEAL))

    letters = (await service.each(PRODUCER, DeadEach())).letters
    counted = (await service.groups(PRODUCER, DeadList())).groups
    done = [
        await service.requeue(PRODUCER, DeadRequeue(ids=(*others, *nobodys))),
        await service.drop(PRODUCER, DeadDrop(ids=(*others, *nobodys))),
    ]

    assert {letter.id for letter in letters} == set(mine)
    assert sum(group.count for group in counted) == 2
    assert [(one.jobs, one.messages, one.left) for one in done] == [(0, 0, 3), (0, 0, 3)]
    for letter in (*others, *nobodys):
        with pytest.raises(Refusal, match="there is no dead letter"):
            await service.show(PRODUCER, DeadRef(letter))
    with pytest.raises(Refusal, match="its own tenant only"):
        await service.groups(PRODUCER, DeadList(filter=DeadFilter(tenant="u")))
    assert len((await service.each(OPERATOR, DeadEach())).letters) == 5


# what becomes of them


async def test_dropped_messages_are_gone_and_dropped_jobs_stay_in_the_ledger(
    service: DeadLetterService, ledger: Ledger
) -> None:
    job = await a_dead_job(ledger)
    [message] = await recorded(ledger, a_dead_letter(tenant="t"))

    done = await service.drop(PRODUCER, DeadDrop(filter=DeadFilter()))
    again = await service.drop(PRODUCER, DeadDrop(ids=(job, message)))

    assert (done.messages, done.jobs, done.left) == (1, 1, 0)
    assert (again.messages, again.jobs, again.left) == (0, 0, 2)
    assert (await service.groups(OPERATOR, DeadList())).groups == ()
    found = await ledger.jobs.find(job, "t")
    assert found is not None
    assert found.state is State.DEAD
    assert await audits(ledger) == [("t", "drop dead letters", {"jobs": 1, "messages": 1})]


@pytest.mark.parametrize("what", ["drop", "requeue"])
async def test_one_call_is_bounded_and_says_that_there_are_more(
    service: DeadLetterService, ledger: Ledger, what: str
) -> None:
    ids = await recorded(ledger, *(a_submission({"id": n}) for n in range(5)))
    wanted = DeadFilter(what=DeadWhat.MESSAGE)

    if what == "drop":
        done = [await service.drop(OPERATOR, DeadDrop(filter=wanted, limit=3)) for _ in range(2)]
    else:
        done = [await service.requeue(OPERATOR, DeadRequeue(filter=wanted, limit=3)) for _ in range(2)]

    assert [(one.messages, one.more) for one in done] == [(3, True), (2, False)]
    assert len(ids) == 5


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (DeadRequeue(), "by their ids, or by a filter"),
        (DeadDrop(ids=(an_id(),), filter=DeadFilter()), "by their ids, or by a filter"),
        (DeadRequeue(filter=DeadFilter(), patch="[1]"), "JSON object"),
        (DeadRequeue(filter=DeadFilter(), payload=b"x"), "one message only"),
    ],
    ids=["neither", "both", "patch", "payload"],
)
async def test_what_is_not_clear_is_refused(
    service: DeadLetterService, ledger: Ledger, ask: DeadDrop | DeadRequeue, says: str
) -> None:
    await recorded(ledger, a_dead_letter(), a_dead_letter())

    with pytest.raises(Refusal, match=says):
        await (service.requeue(OPERATOR, ask) if isinstance(ask, DeadRequeue) else service.drop(OPERATOR, ask))


# jobs that run again


async def links(ledger: Ledger, *instructions: UUID, tenant: str = "t") -> dict[UUID, UUID]:
    """The job of the instructions' batches that repeats each, by the one that is repeated. Each is repeated once."""
    pairs = []
    for instruction in instructions:
        page = await ledger.jobs.page(tenant, JobFilter(batch=instruction), limit=99, before=None)
        for job in page.jobs:
            shown = await ledger.jobs.find(job.id, tenant)
            assert shown is not None
            assert shown.replay_of is not None
            pairs.append((shown.replay_of, job.id))
    found = dict(pairs)
    assert len(found) == len(pairs)
    return found


async def carried_out(ledger: Ledger) -> None:
    """Do the pages of all instructions."""
    while await ledger.instructions.carry_on(now()) is not None:
        pass


async def test_requeued_jobs_run_again_as_new_ones_and_are_no_dead_letters_any_more(
    service: DeadLetterService, ledger: Ledger
) -> None:
    dead = [await a_dead_job(ledger, custom_id=f"c{n}") for n in range(5)]

    done = await service.requeue(PRODUCER, DeadRequeue(filter=DeadFilter(causes=("timed_out",))))
    await carried_out(ledger)

    [instruction] = done.instructions
    shown = await ledger.instructions.find(instruction, "t")
    batch = await ledger.batches.find(instruction, "t")
    new = await links(ledger, *done.instructions)
    assert (done.jobs, done.left) == (5, 0)
    assert shown is not None
    assert (shown.counts, shown.failure, shown.ended_ms is None) == ({"requeued": 5}, None, False)
    assert batch is not None
    assert (batch.jobs, batch.counts.admitted) == (5, 5)
    assert new.keys() == set(dead)
    for n, old in enumerate(dead):
        job = await ledger.jobs.find(new[old], "t")
        assert job is not None
        assert (job.state, job.lane, job.custom_id, job.batch) == (State.QUEUED, Lane.BULK, f"c{n}", instruction)
    assert (await service.groups(OPERATOR, DeadList())).groups == ()
    assert (await service.requeue(PRODUCER, DeadRequeue(ids=tuple(dead)))).left == 5
    assert await audits(ledger) == [("t", "requeue dead letters", {"jobs": 5})]


async def test_jobs_that_are_requeued_twice_at_once_run_once(service: DeadLetterService, ledger: Ledger) -> None:
    dead = [await a_dead_job(ledger) for _ in range(5)]
    ask = DeadRequeue(ids=tuple(dead))

    done = [await service.requeue(OPERATOR, ask) for _ in range(2)]
    await asyncio.gather(*[carried_out(ledger) for _ in range(3)])

    assert [one.jobs for one in done] == [5, 5]
    instructions = [one for answer in done for one in answer.instructions]
    assert (await links(ledger, *instructions)).keys() == set(dead)
    batches = [await ledger.batches.find(one, "t") for one in instructions]
    assert sum(batch.counts.admitted for batch in batches if batch is not None) == 5
    assert all(batch is not None and batch.jobs == batch.counts.admitted for batch in batches)


async def test_requeued_jobs_are_edited(service: DeadLetterService, ledger: Ledger) -> None:
    job = await a_dead_job(ledger, body=b'{"messages":[{"role":"user","content":"x"}],"max_tokens":99,"n":1}')
    ask = DeadRequeue(ids=(job,), model="other", max_tokens=5, patch='{"n":null,"seed":7}', lane=Lane.STANDARD)

    done = await service.requeue(OPERATOR, ask)
    await carried_out(ledger)

    new = (await links(ledger, *done.instructions))[job]
    shown = await ledger.jobs.find(new, "t")
    body = (await ledger.attempts.requests_of({new}))[new].body
    assert shown is not None
    assert (shown.model, shown.lane, shown.failure) == ("other", Lane.STANDARD, None)
    assert json.loads(body) == {"messages": [{"role": "user", "content": "x"}], "max_tokens": 5, "seed": 7}


async def test_a_job_that_is_dropped_before_its_page_does_not_run_again(
    service: DeadLetterService, ledger: Ledger
) -> None:
    dead = [await a_dead_job(ledger) for _ in range(3)]
    done = await service.requeue(OPERATOR, DeadRequeue(ids=tuple(dead)))

    await service.drop(OPERATOR, DeadDrop(ids=(dead[1],)))
    await carried_out(ledger)

    assert (await links(ledger, *done.instructions)).keys() == {dead[0], dead[2]}
    shown = await ledger.instructions.find(done.instructions[0], "t")
    assert shown is not None
    assert shown.counts == {"requeued": 2, "left out": 1}


async def test_jobs_of_several_tenants_run_again_each_for_its_own(service: DeadLetterService, ledger: Ledger) -> None:
    dead = {tenant: await a_dead_job(ledger, tenant=tenant) for tenant in ("t", "u")}

    done = await service.requeue(OPERATOR, DeadRequeue(filter=DeadFilter()))
    await carried_out(ledger)

    assert len(done.instructions) == 2
    for tenant, job in dead.items():
        assert (await links(ledger, *done.instructions, tenant=tenant)).keys() == {job}


async def test_a_requeued_job_that_cannot_be_admitted_fails_in_the_new_batch(
    service: DeadLetterService, ledger: Ledger
) -> None:
    job = await a_dead_job(ledger)

    done = await service.requeue(OPERATOR, DeadRequeue(ids=(job,), model="nowhere"))
    await carried_out(ledger)

    shown = await ledger.jobs.find((await links(ledger, *done.instructions))[job], "t")
    batch = await ledger.batches.find(done.instructions[0], "t")
    assert shown is not None
    assert isinstance(shown.failure, Refused)
    assert shown.failure.code == "unknown_model"
    assert batch is not None
    assert batch.completed_ms is not None


async def test_an_instruction_requeues_jobs_of_its_own_tenant_only(ledger: Ledger) -> None:
    others = await a_dead_job(ledger, tenant="u")
    by = Audited(an_id(), now(), "t", "k")

    ask = RequeuedJobs(id=an_id(), tenant="t", jobs=(others,))
    await ledger.dead_letters.requeue_jobs(ask, by, {})
    await carried_out(ledger)

    assert await links(ledger, ask.id) == {}
