import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest
from msgspec.structs import replace

from broker.core.admit import AdmissionContext, admit
from broker.core.backlog import lower_heads
from broker.core.principal import open_principal
from broker.core.records import Entry, Final, Ignore, Pick, Requeue
from broker.core.settle import decide, unrecordable
from broker.errors import BadData, Conflict, DayNotKept, Deposed
from broker.ports import Ledger
from schemas.api import BatchCreate, BatchList, BatchStatus, ResultPage, State
from schemas.ids import ms_of, uuid7
from schemas.job import Attempt, Lane
from schemas.outcome import EngineFault, Failed, Refused, Released, Succeeded, Usage
from schemas.ruling import EndRequest, Expire
from schemas.units import Ms
from tests.builders import a_catalog, a_job, a_success, an_attempt, an_entry, an_id, now
from tests.settling import PRICES, a_batch, a_verdict, dispatched, running, settled, state_of


async def test_a_job_is_admitted_once_however_often_it_comes(ledger: Ledger) -> None:
    entry = an_entry()

    first = await ledger.intake.admit([entry, an_entry()])
    again = await ledger.intake.admit([entry, entry])

    assert len(first.waiting) == 2
    assert not again.waiting
    assert not again.conflicts


async def test_an_id_that_is_another_jobs_is_a_conflict(ledger: Ledger) -> None:
    entry = an_entry()
    await ledger.intake.admit([entry])

    other_body = await ledger.intake.admit([an_entry(id=entry.id, body_hash=b"x" * 16)])
    other_tenant = await ledger.intake.admit([an_entry(id=entry.id, tenant="other")])

    assert [[one.id for one in answer.conflicts] for answer in (other_body, other_tenant)] == [[entry.id], [entry.id]]


async def test_a_job_whose_id_is_anothers_claims_no_key(ledger: Ledger) -> None:
    known = an_entry()
    await ledger.intake.admit([known])
    taken = an_entry(id=known.id, tenant="another", idempotency_key="k")
    mine = an_entry(tenant="another", idempotency_key="k")

    together = await ledger.intake.admit([taken, mine])

    assert together.conflicts == (taken,)
    assert [place.job for _, place in together.waiting] == [mine.id]
    assert (await ledger.intake.admit([an_entry(id=known.id, idempotency_key="l")])).conflicts == ()
    assert not (await ledger.intake.admit([an_entry(idempotency_key="l")])).waiting


async def test_a_job_whose_id_is_anothers_takes_no_key_away(ledger: Ledger) -> None:
    known = an_entry(idempotency_key="k")
    await ledger.intake.admit([known])
    changed = replace(known, body_hash=b"x" * 16)

    assert (await ledger.intake.admit([changed])).conflicts == (changed,)
    assert not (await ledger.intake.admit([an_entry(idempotency_key="k")])).waiting


async def test_an_idempotency_key_stands_for_one_job(ledger: Ledger) -> None:
    first, again, both = (an_entry(idempotency_key="k") for _ in range(3))
    other = an_entry(idempotency_key="k", body_hash=b"x" * 16)

    admitted = await ledger.intake.admit([first, both])
    repeated = await ledger.intake.admit([again, other, first, an_entry(idempotency_key="k", tenant="another")])
    shown = {entry.id: await ledger.jobs.find(entry.id, "default") for entry in (first, again, both, other)}

    assert [place.job for _, place in admitted.waiting] == [first.id]
    assert len(repeated.waiting) == 1
    assert not repeated.conflicts
    assert [one.job for one in repeated.refused] == [other.id]
    assert {shown_one and shown_one.id for shown_one in shown.values()} == {first.id, other.id}
    assert shown[again.id] == shown[both.id] == shown[first.id]
    assert await ledger.jobs.find(again.id, "another") is None
    failed = shown[other.id]
    assert failed is not None
    assert isinstance(failed.failure, Refused)
    assert (failed.failure.code, failed.failure.field) == ("key_conflict", "idempotency_key")
    assert all(str(one) in failed.failure.message for one in (first.id, other.id, "use another key"))


def another_request(entry: Entry, how: str) -> Entry:
    """A job with the key of this one, and an id of its own."""
    changes: dict[str, dict[str, Any]] = {
        "body": {"body_hash": b"x" * 16},
        "model": {"model": "other"},
        "nothing": {},
    }
    return replace(entry, id=an_id(), **changes[how])


@pytest.mark.parametrize("is_together", [True, False])
@pytest.mark.parametrize("in_batch", [True, False])
@pytest.mark.parametrize(
    ("how", "code"), [("body", "key_conflict"), ("model", "key_conflict"), ("nothing", "duplicate_key")]
)
async def test_a_key_of_another_job_is_a_conflict_and_of_the_same_job_none(
    ledger: Ledger, how: str, code: str, *, in_batch: bool, is_together: bool
) -> None:
    batch = (await a_batch(ledger)).id if in_batch else None
    first = an_entry(idempotency_key="k", batch=batch)
    second = another_request(first, how)

    groups = [[first, second]] if is_together else [[first], [second]]
    admitted = [await ledger.intake.admit(group) for group in groups]
    repeated = await ledger.intake.admit([second, first])
    shown = await ledger.jobs.find(second.id, "default")

    assert [place.job for one in admitted for _, place in one.waiting] == [first.id]
    assert not repeated.waiting
    assert not [entry for one in (*admitted, repeated) for entry in one.conflicts]
    assert shown is not None
    if how == "nothing" and not in_batch:
        assert (shown.id, shown.state) == (first.id, State.QUEUED)
        return
    assert (shown.id, shown.state) == (second.id, State.FAILED)
    assert isinstance(shown.failure, Refused)
    assert shown.failure.code == code
    assert str(first.id) in shown.failure.message


async def test_an_id_that_is_used_twice_with_one_key_is_a_conflict_of_the_id(ledger: Ledger) -> None:
    first = an_entry(idempotency_key="k")
    changed = replace(first, body_hash=b"x" * 16)

    admitted = await ledger.intake.admit([first, changed])

    assert [place.job for _, place in admitted.waiting] == [first.id]
    assert admitted.conflicts == (changed,)


async def test_a_job_that_is_refused_uses_up_no_key(ledger: Ledger) -> None:
    refused = an_entry(idempotency_key="k", refused=Refused("unknown_model", "x", "model"))
    mended = replace(refused, id=an_id(), refused=None)

    await ledger.intake.admit([refused])
    admitted = await ledger.intake.admit([mended, refused])

    assert [place.job for _, place in admitted.waiting] == [mended.id]
    assert not admitted.conflicts


async def test_a_key_used_twice_in_a_batch_fails_the_second_and_the_batch_completes(ledger: Ledger) -> None:
    batch = await a_batch(ledger)
    first, second, third = (an_entry(idempotency_key="k", batch=batch.id) for _ in range(3))

    admitted = await ledger.intake.admit([first, second])
    later = await ledger.intake.admit([second, third, first])

    await settled(ledger, a_verdict((await dispatched(ledger, first))[0], a_success()))
    sealed = await ledger.batches.seal(batch.id, "default", 3, now())
    shown = await ledger.jobs.find(second.id, "default")
    assert [one.job for one in admitted.refused] == [second.id]
    assert [one.job for one in later.refused] == [third.id]
    assert not admitted.conflicts
    assert not later.conflicts
    assert shown is not None
    assert isinstance(shown.failure, Refused)
    assert shown.failure.code == "duplicate_key"
    assert str(first.id) in shown.failure.message
    assert sealed is not None
    assert (sealed.status, sealed.counts.succeeded, sealed.counts.failed) == (BatchStatus.COMPLETED, 1, 2)


async def test_a_refused_job_is_recorded_as_failed_and_never_waits(ledger: Ledger) -> None:
    entry = an_entry(refused=Refused("code", "message"))

    admitted = await ledger.intake.admit([entry])

    assert [one.state for one in admitted.refused] == [State.FAILED]
    assert not await ledger.backlog.heads()
    assert await state_of(ledger, entry.id) is State.FAILED


async def test_ids_of_other_days_find_their_partition(ledger: Ledger) -> None:
    day = 24 * 3_600_000
    entries = [an_entry(id=uuid7(Ms(now() - n * day), n)) for n in range(7)]

    admitted = await ledger.intake.admit(entries)

    assert len(admitted.waiting) == 7


async def test_a_nul_spoils_its_group_and_nothing_of_it_stays(ledger: Ledger) -> None:
    good = an_entry()

    with pytest.raises(BadData):
        await ledger.intake.admit([good, an_entry(custom_id="a\0b")])

    assert len((await ledger.intake.admit([good])).waiting) == 1


@pytest.mark.parametrize("usage", [Usage(2**63, 0), Usage(2**64, 0)], ids=str)
async def test_numbers_beyond_64_bits_spoil_an_outcome_and_not_the_broker(ledger: Ledger, usage: Usage) -> None:
    verdict = a_verdict(await running(ledger), Succeeded(b"{}", usage))

    with pytest.raises(BadData):
        await ledger.settlement.settle([verdict], now=now())

    assert await settled(ledger, unrecordable(verdict)) == [(verdict.job, State.FAILED)]


async def test_two_groups_with_the_same_jobs_admit_them_once(ledger: Ledger) -> None:
    entries = [an_entry() for _ in range(200)]

    both = await asyncio.gather(ledger.intake.admit(entries), ledger.intake.admit(entries[::-1]))

    assert sum(len(one.waiting) for one in both) == 200


async def test_groups_that_count_in_the_same_batches_never_block_each_other(ledger: Ledger) -> None:
    batches = [(await a_batch(ledger)).id for _ in range(20)]
    groups = [[an_entry(batch=batch) for batch in batches[:: 1 if n % 2 else -1]] for n in range(24)]

    async with asyncio.timeout(30):
        await asyncio.gather(*[ledger.intake.admit(group) for group in groups])

    listed = await ledger.batches.page("default", BatchList(100))
    assert [batch.counts.admitted for batch in listed] == [24] * 20


async def test_waiting_jobs_come_by_deadline_then_by_id_a_page_at_a_time(ledger: Ledger) -> None:
    at = now() + 60_000
    entries = [an_entry(deadline_ms=at + deadline) for deadline in (5, 1, 3, 1, 9)]
    await ledger.intake.admit(entries)
    flow = entries[0].flow

    first = await ledger.backlog.page(flow, after=None, limit=2)
    rest = await ledger.backlog.page(flow, after=first[-1].place, limit=10)

    assert [head.flow for head in await ledger.backlog.heads()] == [flow]
    assert [job.place for job in [*first, *rest]] == sorted(entry.place for entry in entries)


async def test_a_higher_priority_comes_first_whatever_the_deadline(ledger: Ledger) -> None:
    at = now() + 60_000
    first, soon, later, last = (
        an_entry(priority=priority, deadline_ms=at + deadline)
        for priority, deadline in ((100, 9), (0, 1), (0, 2), (-100, 0))
    )
    entries = [last, later, first, soon]
    await ledger.intake.admit(entries)

    one = await ledger.backlog.page(first.flow, after=None, limit=1)
    rest = await ledger.backlog.page(first.flow, after=one[-1].place, limit=9)
    shown = await ledger.jobs.find(last.id, "default")
    attempts = await dispatched(ledger, *entries)

    assert [job.place for job in (*one, *rest)] == [entry.place for entry in (first, soon, later, last)]
    assert shown is not None
    assert shown.waiting is not None
    assert (shown.priority, shown.waiting.ahead) == (-100, 3)
    assert [attempt.job for attempt in attempts] == [entry.id for entry in entries]


async def test_the_first_job_of_each_priority_of_each_flow_is_listed(ledger: Ledger) -> None:
    at = Ms(now() + 60_000)
    entries = [
        an_entry(tenant=tenant, priority=priority, deadline_ms=at + deadline)
        for tenant, priority, deadline in (("b", 0, 5), ("a", -3, 1), ("a", 7, 9), ("a", 7, 4), ("b", 0, 6))
    ]
    await ledger.intake.admit(entries)

    heads = await ledger.backlog.heads()

    said = [(head.flow.tenant, head.rank, head.deadline_ms - at) for head in heads]
    assert said == [("a", -7, 4), ("a", 3, 1), ("b", 0, 5)]
    assert [head.rank for head in lower_heads(heads)] == [3]


async def test_what_ends_a_job_wherever_it_stands_says_which_attempt_is_over(ledger: Ledger) -> None:
    runs, waits, later = await running(ledger), an_entry(), await delayed(ledger, Ms(now() + 60_000))
    await ledger.intake.admit([waits])
    request = an_attempt(reply_to="x", key="k")
    rulings = decide([Expire(job) for job in (runs.job, waits.id, later.job)], {}, prices=PRICES, now=now(), unit=0)

    done = await ledger.settlement.settle([*rulings, a_verdict(request, a_success(), interactive=request)], now=now())

    attempts = {(one.job, one.attempt) for one in done.ended_attempts}
    assert attempts == {(runs.job, 1), (waits.id, 0), (later.job, 1), (request.job, 1)}


async def test_a_job_is_dispatched_once_with_its_body_and_in_the_order_chosen(ledger: Ledger) -> None:
    entries = [an_entry(body=b"%d" % n) for n in range(3)]
    await ledger.intake.admit(entries)

    attempts = await dispatched(ledger, *entries[::-1])
    again = await dispatched(ledger, *entries)

    assert [attempt.body for attempt in attempts] == [b"2", b"1", b"0"]
    assert {attempt.number for attempt in attempts} == {1}
    assert not again
    assert len(await ledger.attempts.running()) == 3


async def test_a_job_that_is_picked_twice_at_once_is_a_conflict(ledger: Ledger) -> None:
    entry, other = an_entry(), an_entry()
    await ledger.intake.admit([entry, other])

    with pytest.raises(Conflict):
        await dispatched(ledger, other, entry, entry)

    assert await ledger.attempts.running() == []
    assert len(await dispatched(ledger, other, entry)) == 2


async def test_a_leader_whose_term_is_over_dispatches_nothing(ledger: Ledger) -> None:
    entry = an_entry()
    await ledger.intake.admit([entry])
    term = await ledger.leadership.lead("old", lease_ms=1)
    assert term is not None
    while (new := await ledger.leadership.lead("new", lease_ms=60_000)) is None:
        await asyncio.sleep(0)

    with pytest.raises(Deposed):
        await ledger.attempts.dispatch([Pick(entry.flow, entry.place, "d")], term=term, controls=1, now=now())

    assert new == term + 1
    assert len(await ledger.backlog.page(entry.flow, after=None, limit=9)) == 1


async def test_the_lease_is_one_brokers_until_it_ends_or_is_given_up(ledger: Ledger) -> None:
    term = await ledger.leadership.lead("a", lease_ms=60_000)

    assert term is not None
    assert await ledger.leadership.lead("a", lease_ms=60_000) == term
    assert await ledger.leadership.lead("b", lease_ms=60_000) is None
    await ledger.leadership.step_down("a", term)
    assert await ledger.status.leader() is None
    assert await ledger.leadership.lead("b", lease_ms=60_000) == term + 1


async def test_strays_are_given_out_again_each_with_its_own_body(ledger: Ledger) -> None:
    attempts = [await running(ledger, body=b'{"n":%d}' % n) for n in range(3)]

    again = await ledger.attempts.attempts_of(await ledger.attempts.running(), now=now())

    assert {one.job: one.body for one in again} == {one.job: one.body for one in attempts}
    assert len(again) == 3


async def test_strays_are_given_out_again_only_while_they_run(ledger: Ledger) -> None:
    attempt = await running(ledger)
    held = await ledger.attempts.running()

    assert [again.body for again in await ledger.attempts.attempts_of(held, now=now())] == [attempt.body]
    await settled(ledger, a_verdict(attempt, a_success()))
    assert not await ledger.attempts.attempts_of(held, now=now())


async def test_a_success_ends_its_job_once_however_often_it_is_reported(ledger: Ledger) -> None:
    attempt = await running(ledger)
    verdict = a_verdict(attempt, a_success(usage=Usage(10, 5)))

    first = await settled(ledger, verdict)
    again = await settled(ledger, verdict)

    job = await ledger.jobs.find(attempt.job, "default")
    assert job is not None
    assert first == again == [(attempt.job, State.SUCCEEDED)]
    assert job.cost_nano_usd == 10 * 1000 + 5 * 2000
    assert [run.waste for run in job.executions] == [False]
    assert not await ledger.attempts.running()


async def test_jobs_of_several_days_end_in_one_group(ledger: Ledger) -> None:
    entries = [an_entry(id=uuid7(Ms(now() - n * 24 * 3_600_000), n)) for n in range(3)]
    await ledger.intake.admit(entries)
    attempts = await dispatched(ledger, *entries)

    ends = await settled(ledger, *(a_verdict(attempt, a_success()) for attempt in attempts))

    assert sorted(ends) == sorted((entry.id, State.SUCCEEDED) for entry in entries)


NEVER = [
    UUID(int=0),
    uuid7(Ms(86_400_000), 1),
    uuid7(Ms(2**48 - 1), 1),
    UUID(int=2**128 - 1),
    UUID("6f1ed002-ab59-4b6e-8f2f-4d2c1c0f2b0a"),
]
"""Ids of days that the ledger never had."""


@pytest.mark.parametrize("job", NEVER, ids=str)
async def test_an_outcome_of_a_day_that_never_was_is_said_to_be_so(ledger: Ledger, job: UUID) -> None:
    attempt = an_attempt(job=job)
    request = an_attempt(job=job, admitted_ms=ms_of(job), reply_to="x", key="k")

    with pytest.raises(DayNotKept):
        await ledger.settlement.settle([a_verdict(attempt, a_success())], now=now())
    with pytest.raises(DayNotKept):
        await ledger.settlement.settle([a_verdict(request, a_success(), interactive=request)], now=now())

    assert await ledger.jobs.find(job, "default") is None


async def test_an_interactive_outcome_makes_no_day(ledger: Ledger) -> None:
    at = Ms(now() - 60 * 24 * 3_600_000)
    attempt = an_attempt(job=uuid7(at, 1), admitted_ms=at, reply_to="x", key="k")

    with pytest.raises(DayNotKept):
        await ledger.settlement.settle([a_verdict(attempt, a_success(), interactive=attempt)], now=now())


async def test_a_second_delivery_is_waste_that_costs(ledger: Ledger) -> None:
    attempt = await running(ledger)
    await settled(ledger, a_verdict(attempt, a_success(usage=Usage(1, 0))))

    await settled(ledger, a_verdict(attempt, a_success(usage=Usage(2, 0)), delivery=2))

    job = await ledger.jobs.find(attempt.job, "default")
    assert job is not None
    assert [run.waste for run in job.executions] == [False, True]
    assert job.cost_nano_usd == sum(run.cost_nano_usd for run in job.executions) == 3000


async def test_a_job_that_is_put_back_waits_and_runs_again(ledger: Ledger) -> None:
    attempt = await running(ledger)

    done = await ledger.settlement.settle(
        [a_verdict(attempt, Failed(EngineFault("x")), transition=Requeue(now(), counted=True))], now=now()
    )

    [requeued] = done.requeued
    [job] = await ledger.backlog.page(requeued.flow, after=None, limit=9)
    assert requeued.due_ms is None
    assert job.attempt == 1
    term = await ledger.leadership.lead("me", lease_ms=60_000)
    assert term is not None
    [second] = await ledger.attempts.dispatch(
        [Pick(requeued.flow, requeued.place, "d")], term=term, controls=1, now=now()
    )
    assert second.number == 2
    assert await settled(ledger, a_verdict(second, a_success())) == [(attempt.job, State.SUCCEEDED)]


async def delayed(ledger: Ledger, due_ms: Ms, *, counted: bool = True, **changes: Any) -> Attempt:
    """A job that has failed, and waits for its time."""
    attempt = await running(ledger, **changes)
    again = Requeue(due_ms, counted=counted, tried=("d",))
    await ledger.settlement.settle([a_verdict(attempt, Failed(EngineFault("x")), transition=again)], now=now())
    return attempt


async def test_a_job_that_waits_for_its_time_is_not_in_the_backlog_before(ledger: Ledger) -> None:
    """However many do, they are in nobody's way."""
    later = Ms(now() + 60_000)
    flow = an_entry().flow
    entries = [an_entry(deadline_ms=Ms(now() + 3_600_000)) for _ in range(300)]
    await ledger.intake.admit(entries)
    back = [
        a_verdict(one, Failed(EngineFault("x")), transition=Requeue(later, counted=True))
        for one in await dispatched(ledger, *entries)
    ]
    done = await ledger.settlement.settle(back, now=now())
    fresh = an_entry(deadline_ms=Ms(now() + 7_200_000))
    before = await ledger.backlog.heads()
    await ledger.intake.admit([fresh])

    jobs = await ledger.backlog.page(flow, after=None, limit=9)

    assert {one.due_ms for one in done.requeued} == {later}
    assert before == []
    assert [job.place.job for job in jobs] == [fresh.id]
    assert await ledger.backlog.next_due() == later
    assert await ledger.backlog.move_due(Ms(later - 1), limit=1000) == []
    [lane] = await ledger.status.backlog(now())
    assert lane.waiting == 301


async def test_jobs_whose_time_has_come_are_moved_into_the_backlog_the_earliest_first(ledger: Ledger) -> None:
    at = now() + 60_000
    attempts = {n: await delayed(ledger, Ms(at + n)) for n in (3, 1, 4, 0, 2)}

    moved = [await ledger.backlog.move_due(Ms(at + 3), limit=2) for _ in range(3)]

    assert [{place.job for _, place in page} for page in moved] == [
        {attempts[0].job, attempts[1].job},
        {attempts[2].job, attempts[3].job},
        set(),
    ]
    assert await ledger.backlog.next_due() == at + 4
    jobs = await ledger.backlog.page(moved[0][0][0], after=None, limit=9)
    assert {job.place.job for job in jobs} == {attempts[n].job for n in range(4)}
    assert [(job.attempt, job.tried) for job in jobs] == [(1, ("d",))] * 4


async def test_two_leaders_that_move_the_same_jobs_move_each_once(ledger: Ledger) -> None:
    """One of them does not know yet that it is deposed."""
    due = Ms(now() + 60_000)
    attempts = [await delayed(ledger, due) for _ in range(30)]

    moved = await asyncio.gather(*(ledger.backlog.move_due(due, limit=10) for _ in range(6)))
    moved.append(await ledger.backlog.move_due(due, limit=100))

    assert sorted(place.job for page in moved for _, place in page) == [one.job for one in attempts]


async def test_a_job_that_waits_for_its_time_is_moved_when_its_deadline_passes(ledger: Ledger) -> None:
    deadline = Ms(now() + 60_000)
    attempt = await delayed(ledger, Ms(deadline + 60_000), deadline_ms=deadline)

    assert await ledger.backlog.next_due() == deadline
    [(_, place)] = await ledger.backlog.move_due(deadline, limit=10)

    assert place.job == attempt.job


async def test_what_ends_a_job_ends_it_while_it_waits_for_its_time(ledger: Ledger) -> None:
    due = Ms(now() + 60_000)
    expires, succeeds, fails_late, stays = [await delayed(ledger, due) for _ in range(4)]
    older = Final(State.DEAD, None, EngineFault("x"))
    newer = replace(stays, number=2)

    ends = await settled(
        ledger,
        *decide([Expire(expires.job)], {}, prices=PRICES, now=now(), unit=0.0),
        a_verdict(succeeds, a_success(), delivery=2),
        a_verdict(fails_late, Failed(EngineFault("x")), transition=older, delivery=2),
        a_verdict(newer, Failed(EngineFault("x")), transition=older, delivery=2),
    )

    assert dict(ends) == {
        expires.job: State.EXPIRED,
        succeeds.job: State.SUCCEEDED,
        fails_late.job: State.DEAD,
    }
    assert [place.job for _, place in await ledger.backlog.move_due(due, limit=9)] == [stays.job]
    shown = [await ledger.jobs.find(one.job, "default") for one in (expires, succeeds, fails_late)]
    assert [job and job.attempt for job in shown] == [1, 1, 1]


async def test_a_job_that_waits_for_its_time_is_queued_with_all_that_is_known_of_it(ledger: Ledger) -> None:
    attempt = await delayed(ledger, Ms(now() + 60_000), counted=False)

    job = (await ledger.settlement.open_jobs([attempt.job]))[attempt.job]

    assert (job.state, job.attempt, job.uncounted, job.tried) == (State.QUEUED, 1, 1, ("d",))


async def test_attempts_that_were_released_are_counted_apart(ledger: Ledger) -> None:
    attempt = await running(ledger)

    await ledger.settlement.settle(
        [a_verdict(attempt, Released(), transition=Requeue(now(), counted=False))], now=now()
    )

    job = (await ledger.settlement.open_jobs([attempt.job]))[attempt.job]
    assert (job.state, job.attempt, job.uncounted) == (State.QUEUED, 1, 1)


async def test_a_late_success_counts_while_its_job_waits_and_while_it_runs_again(ledger: Ledger) -> None:
    first, second = await running(ledger), await running(ledger)
    back = [
        a_verdict(one, Failed(EngineFault("x")), transition=Requeue(now(), counted=True)) for one in (first, second)
    ]
    done = await ledger.settlement.settle(back, now=now())
    term = await ledger.leadership.lead("me", lease_ms=60_000)
    assert term is not None
    place = next(one for one in done.requeued if one.place.job == second.job)
    await ledger.attempts.dispatch([Pick(place.flow, place.place, "d")], term=term, controls=1, now=now())

    ends = await settled(
        ledger, a_verdict(first, a_success(), delivery=2), a_verdict(second, a_success(), delivery=2)
    )

    assert sorted(ends) == [(first.job, State.SUCCEEDED), (second.job, State.SUCCEEDED)]
    assert not await ledger.attempts.running()
    assert not await ledger.backlog.page(place.flow, after=None, limit=9)


async def test_racing_settlements_end_a_job_once(ledger: Ledger) -> None:
    attempts = [await running(ledger) for _ in range(20)]
    ways = [[a_verdict(one, a_success(), delivery=d) for one in attempts] for d in (1, 2, 3)]

    await asyncio.gather(*(ledger.settlement.settle(way, now=now()) for way in ways))

    for attempt in attempts:
        job = await ledger.jobs.find(attempt.job, "default")
        assert job is not None
        assert sorted(run.waste for run in job.executions) == [False, True, True]


async def test_an_expiry_ends_a_job_wherever_it_stands(ledger: Ledger) -> None:
    waiting, dispatched_one = an_entry(), await running(ledger)
    await ledger.intake.admit([waiting])
    reports = [Expire(waiting.id), Expire(dispatched_one.job)]

    ends = await settled(ledger, *decide(reports, {}, prices=PRICES, now=now(), unit=0.0))

    assert {state for _, state in ends} == {State.EXPIRED}
    assert len(ends) == 2
    assert not await ledger.attempts.running()
    assert not await ledger.backlog.heads()


async def test_an_interactive_job_is_first_heard_of_at_its_end(ledger: Ledger) -> None:
    attempt = an_attempt(reply_to="x", key="k", custom_id="c")
    verdict = a_verdict(attempt, a_success(), interactive=attempt)

    first = await settled(ledger, verdict)
    again = await settled(ledger, verdict)

    job = await ledger.jobs.find(attempt.job, "default")
    assert job is not None
    assert first == again == [(attempt.job, State.SUCCEEDED)]
    assert bytes(job.body) == b'{"choices":[]}'
    assert len(job.executions) == 1


async def test_what_a_relay_gave_up_on_costs_what_was_run(ledger: Ledger) -> None:
    attempt = an_attempt(reply_to="x", key="k")
    await settled(ledger, a_verdict(attempt, Failed(EngineFault("x"), Usage(7, 0)), interactive=attempt))

    [verdict] = decide([EndRequest(attempt, Failed(EngineFault("x")))], {}, prices=PRICES, now=now(), unit=0.5)
    ends = await settled(ledger, verdict)

    job = await ledger.jobs.find(attempt.job, "default")
    assert job is not None
    assert ends == [(attempt.job, State.FAILED)]
    assert job.cost_nano_usd == sum(run.cost_nano_usd for run in job.executions) == 7000


@pytest.mark.parametrize("tenant", ["default", "bob"])
async def test_an_interactive_answer_ends_no_job_that_was_there_before(ledger: Ledger, tenant: str) -> None:
    attempt = await running(ledger, lane=Lane.INTERACTIVE)
    request = an_attempt(job=attempt.job, tenant=tenant, reply_to="x", key="k", admitted_ms=now())
    verdict = a_verdict(request, a_success(body=b'"other"'), interactive=request)

    [(own, _)] = await settled(ledger, verdict)
    again = await settled(ledger, verdict)
    untouched = await ledger.jobs.find(attempt.job, "default")
    await settled(ledger, a_verdict(attempt, a_success()))

    first, second = await ledger.jobs.find(attempt.job, "default"), await ledger.jobs.find(own, tenant)
    assert untouched is not None
    assert first is not None
    assert second is not None
    assert again == [(own, State.SUCCEEDED)]
    assert (untouched.state, untouched.executions) == (State.RUNNING, ())
    assert bytes(first.body) == b'{"choices":[]}'
    assert bytes(second.body) == b'"other"'
    for job in (first, second):
        assert job.cost_nano_usd == sum(run.cost_nano_usd for run in job.executions) > 0


async def test_a_report_that_decides_nothing_still_costs(ledger: Ledger) -> None:
    attempt = await running(ledger)

    await settled(ledger, a_verdict(attempt, Failed(EngineFault("x"), Usage(7, 0)), transition=Ignore()))

    job = await ledger.jobs.find(attempt.job, "default")
    assert job is not None
    assert (job.state, job.cost_nano_usd) == (State.RUNNING, 7000)


async def test_a_batch_is_complete_when_all_its_sealed_jobs_have_ended(ledger: Ledger) -> None:
    batch = await a_batch(ledger)
    attempts = [await running(ledger, batch=batch.id) for _ in range(3)]
    await settled(ledger, a_verdict(attempts[0], a_success(usage=Usage(1, 1))))
    sealed = await ledger.batches.seal(batch.id, "default", 4, now())
    await ledger.intake.admit([an_entry(batch=batch.id, refused=Refused("c", "m"))])
    await settled(ledger, a_verdict(attempts[1], a_success(usage=Usage(1, 1))))
    before = await ledger.batches.find(batch.id, "default")

    await settled(
        ledger, a_verdict(attempts[2], Failed(EngineFault("x")), transition=Final(State.DEAD, None, EngineFault("x")))
    )

    after = await ledger.batches.find(batch.id, "default")
    assert sealed is not None
    assert before is not None
    assert after is not None
    assert (sealed.status, before.status, after.status) == (
        BatchStatus.IN_PROGRESS,
        BatchStatus.IN_PROGRESS,
        BatchStatus.COMPLETED,
    )
    assert (after.counts.admitted, after.counts.succeeded, after.counts.failed, after.counts.dead) == (4, 2, 1, 1)
    assert after.cost_nano_usd == 2 * 3000


async def test_sealing_after_the_last_job_completes_the_batch(ledger: Ledger) -> None:
    batch = await a_batch(ledger)
    await settled(ledger, a_verdict(await running(ledger, batch=batch.id), a_success()))

    sealed = await ledger.batches.seal(batch.id, "default", 1, now())

    assert sealed is not None
    assert sealed.status is BatchStatus.COMPLETED


async def test_a_batch_is_its_tenants_alone(ledger: Ledger) -> None:
    batch = await a_batch(ledger)

    assert await ledger.batches.find(batch.id, "other") is None
    assert await ledger.batches.results(batch.id, "other", None, 10) is None
    with pytest.raises(Conflict):
        await ledger.batches.create(BatchCreate(id=batch.id), "other", now())
    assert await ledger.batches.create(BatchCreate(id=batch.id), "default", now()) == batch


async def test_a_repeated_group_numbers_no_result_again(ledger: Ledger) -> None:
    batch = await a_batch(ledger)
    first, second = [a_verdict(await running(ledger, batch=batch.id), a_success()) for _ in range(2)]
    await settled(ledger, first)
    before = await ledger.batches.results(batch.id, "default", None, 10)

    await settled(ledger, first)
    await settled(ledger, first, second)

    assert before is not None
    after = await ledger.batches.results(batch.id, "default", before.cursor, 10)
    assert after is not None
    assert [[result.job for result in page.results] for page in (before, after)] == [[first.job], [second.job]]
    assert (before.cursor, after.cursor) == ("1", "2")


async def test_the_results_of_refused_jobs_are_numbered_with_the_others(ledger: Ledger) -> None:
    batch = await a_batch(ledger)
    attempt = await running(ledger, batch=batch.id)
    refused = [an_entry(batch=batch.id, refused=Refused("code", "message")) for _ in range(3)]

    await ledger.intake.admit(refused[:2])
    await settled(ledger, a_verdict(attempt, a_success()))
    await ledger.intake.admit([*refused, an_entry(batch=batch.id)])

    page = await ledger.batches.results(batch.id, "default", None, 10)
    assert page is not None
    assert [result.job for result in page.results] == [refused[0].id, refused[1].id, attempt.job, refused[2].id]
    assert page.cursor == "4"


async def test_pages_of_results_end_with_the_batch(ledger: Ledger) -> None:
    batch = await a_batch(ledger)
    for _ in range(5):
        await settled(ledger, a_verdict(await running(ledger, batch=batch.id), a_success()))
    await ledger.batches.seal(batch.id, "default", 5, now())

    first = await ledger.batches.results(batch.id, "default", None, 3)
    assert first is not None
    last = await ledger.batches.results(batch.id, "default", first.cursor, 3)
    assert last is not None

    assert [len(first.results), len(last.results)] == [3, 2]
    assert (first.completed, last.completed) == (False, True)
    assert (first.more, last.more) == (True, False)


async def test_a_page_of_results_fits_a_message_and_always_goes_on(ledger: Ledger) -> None:
    batch = await a_batch(ledger)
    sizes_mb = [1.5, 1.5, 1.5, 6, 0.1, 0.1]
    for size in sizes_mb:
        body = b'"%s"' % (b"x" * int(size * 1_000_000))
        await settled(ledger, a_verdict(await running(ledger, batch=batch.id), a_success(body=body)))
    await ledger.batches.seal(batch.id, "default", len(sizes_mb), now())

    pages: list[ResultPage] = []
    while not pages or not pages[-1].completed:
        page = await ledger.batches.results(batch.id, "default", pages[-1].cursor if pages else None, 500)
        assert page is not None
        assert page.results
        pages.append(page)

    assert [len(page.results) for page in pages] == [2, 1, 1, 2]
    assert len({result.job for page in pages for result in page.results}) == len(sizes_mb)


@pytest.mark.parametrize("cursor", ["x", "", "-1", "1-2", "9" * 30, "\u00b2"])
async def test_a_cursor_that_is_none_is_said(ledger: Ledger, cursor: str) -> None:
    with pytest.raises(ValueError, match="not a cursor"):
        await ledger.batches.results(an_id(), "default", cursor, 10)


async def test_catalogs_are_numbered_and_the_newest_is_active(ledger: Ledger) -> None:
    first = await ledger.catalogs.apply("", "me", now())
    second = await ledger.catalogs.apply("# two", "me", now())

    active = await ledger.catalogs.active()

    assert (first.number, second.number) == (1, 2)
    assert active == (second, "# two")


async def test_the_backlog_is_counted_by_lane(ledger: Ledger) -> None:
    await ledger.intake.admit([an_entry(), an_entry(), an_entry(model="n")])

    lanes = await ledger.status.backlog(Ms(now() + 1000))

    assert {(lane.model, lane.waiting) for lane in lanes} == {("m", 2), ("n", 1)}
    assert all(lane.oldest_ms >= 900 for lane in lanes)


async def test_a_whole_admission_fits_the_ledger(ledger: Ledger) -> None:
    """What admission makes of the worst of jobs can be stored."""
    job = a_job(id=uuid4(), custom_id="a\0", metadata={"k\0": "v\0"}, body=b"\0\xff", endpoint="\0")
    context = AdmissionContext(
        principal=open_principal("t\0", "k\0"),
        lane=Lane.BULK,
        model="m\0",
        catalog=a_catalog(),
        now=now(),
        new_id=lambda _: an_id(),
        traceparent="\0",
    )

    admitted = await ledger.intake.admit([admit(job, context)])

    assert len(admitted.refused) == 1
