import asyncio
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID, uuid4

import asyncpg
import pytest
from msgspec.structs import replace

from broker.core.admit import AdmissionContext, admit
from broker.core.backlog import lower_heads
from broker.core.price import Prices
from broker.core.principal import open_principal
from broker.core.records import ONLY_SHARD, EndedAttempt, Entry, Final, Ignore, Pick, Requeue, Running, Verdict
from broker.core.settle import decide, unrecordable
from broker.errors import BadData, Conflict, DayNotKept, Deposed, Unavailable
from broker.ledger import migrate, open_ledger, pending
from broker.ledger.connection import SETTINGS, Connection
from broker.ledger.days import bounds, day_of, days_of
from broker.ledger.sql import query
from broker.ports import Ledger
from schemas.api import Batch, BatchCreate, BatchList, BatchStatus, ResultPage, State
from schemas.ids import ms_of, uuid7
from schemas.job import Attempt, Lane
from schemas.outcome import EngineFault, Failed, Outcome, Refused, Released, Succeeded, Usage
from schemas.ruling import EndRequest, Expire
from schemas.units import Ms
from tests.builders import a_catalog, a_job, a_report, a_success, an_attempt, an_entry, an_id, now
from tests.holding import a_hand
from tests.sums import check_sums

pytestmark = pytest.mark.real

PRICES = Prices(catalog=a_catalog(), source="catalog:1")


async def a_batch(ledger: Ledger) -> Batch:
    return await ledger.batches.create(BatchCreate(id=an_id()), "default", now())


async def dispatched(ledger: Ledger, *entries: Entry) -> list[Attempt]:
    term = await ledger.leadership.lead("me", lease_ms=60_000)
    assert term is not None
    picks = [Pick(entry.flow, entry.place, "d") for entry in entries]
    return await ledger.attempts.dispatch(picks, term=term, controls=1, now=now())


async def running(ledger: Ledger, **changes: Any) -> Attempt:
    """A job that has been dispatched."""
    entry = an_entry(**changes)
    await ledger.intake.admit([entry])
    return (await dispatched(ledger, entry))[0]


def a_verdict(
    attempt: Attempt, outcome: Outcome, *, delivery: int = 1, transition: Any = None, **changes: Any
) -> Verdict:
    report = a_report(outcome, job=attempt.job, attempt=attempt.number, delivery=delivery, **changes)
    [verdict] = decide([report], {}, prices=PRICES, now=now(), unit=0.5)
    if transition is None:
        return verdict
    return Verdict(
        job=verdict.job,
        attempt=verdict.attempt,
        transition=transition,
        executed=verdict.executed,
        entry=verdict.entry,
    )


async def settled(ledger: Ledger, *verdicts: Verdict) -> list[tuple[UUID, State]]:
    done = await ledger.settlement.settle(verdicts, now=now())
    return [(one.job, one.state) for one in done.final]


async def state_of(ledger: Ledger, job: UUID) -> State:
    shown = await ledger.jobs.find(job, "default")
    assert shown is not None
    return shown.state


# admission


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


async def test_old_repetitions_are_forgotten_and_new_ones_are_not(ledger: Ledger, ledger_url: str) -> None:
    first, second, third = (an_entry(idempotency_key="k") for _ in range(3))
    connection = await asyncpg.connect(ledger_url)
    old = uuid7(Ms(now() - 31 * 24 * 3_600_000), 1)
    await connection.execute("insert into infermq.repeated values ($1, 'default', $2)", old, first.id)

    await ledger.intake.admit([first, second])
    await ledger.intake.admit([third])
    left = {row["id"] for row in await connection.fetch("select id from infermq.repeated")}
    await connection.close()

    assert left == {second.id, third.id}


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


async def test_a_key_whose_job_is_gone_is_free_again(ledger: Ledger, ledger_url: str) -> None:
    old = an_entry(id=uuid7(Ms(now() - 2 * 24 * 3_600_000), 1), idempotency_key="k")
    await ledger.intake.admit([old])
    connection = await asyncpg.connect(ledger_url)
    day = await connection.fetchval("select tableoid::regclass::text from infermq.jobs")
    await connection.execute(f"drop table {day}")
    await connection.execute("delete from infermq.waiting")  # a day with an open job would not be dropped
    await connection.close()
    new, again = (an_entry(idempotency_key="k") for _ in range(2))

    admitted = await ledger.intake.admit([new])
    repeated = await ledger.intake.admit([again, new])

    assert [place.job for _, place in admitted.waiting] == [new.id]
    assert not repeated.waiting
    assert not repeated.conflicts


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


# dispatch


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


async def test_a_priority_goes_with_its_job_wherever_it_waits(ledger: Ledger, ledger_url: str) -> None:
    entry, due = an_entry(priority=5), Ms(now() + 60_000)
    await ledger.intake.admit([entry])

    for not_before_ms in (now(), due):
        [attempt] = await dispatched(ledger, entry)
        again = Requeue(Ms(not_before_ms), counted=True)
        done = await ledger.settlement.settle([a_verdict(attempt, Released(), transition=again)], now=now())
        assert [one.place for one in done.requeued] == [entry.place]
    moved = await ledger.backlog.move_due(due, limit=9)
    await check_sums(ledger_url)
    late = a_verdict(attempt, a_success(), delivery=2)
    ended = await ledger.settlement.settle([late], now=now())

    assert moved == [(entry.flow, entry.place)]
    assert [one.job for one in ended.final] == [entry.id]
    assert not await ledger.backlog.heads()


async def test_what_a_job_counts_for_goes_with_it_wherever_it_stands(ledger: Ledger, ledger_url: str) -> None:
    entry, due = an_entry(tenant="t", lane=Lane.STANDARD), Ms(now() + 60_000)
    await ledger.intake.admit([entry])
    connection = await asyncpg.connect(ledger_url)
    await connection.execute("update infermq.waiting set tokens = 7")
    await connection.close()

    async def put_back(not_before_ms: Ms) -> Sequence[EndedAttempt]:
        [attempt] = await dispatched(ledger, entry)
        assert await ledger.attempts.running() == [Running(entry.id, attempt.number, "d", entry.flow, 7)]
        again = Requeue(not_before_ms, counted=True)
        return (
            await ledger.settlement.settle([a_verdict(attempt, Released(), transition=again)], now=now())
        ).ended_attempts

    [waits] = await ledger.backlog.page(entry.flow, after=None, limit=9)
    over = [*await put_back(now()), *await put_back(due)]
    await ledger.backlog.move_due(due, limit=9)
    [waits_again] = await ledger.backlog.page(entry.flow, after=None, limit=9)
    [last] = await dispatched(ledger, entry)
    ends = [a_verdict(last, a_success())]
    over += (await ledger.settlement.settle(ends, now=now())).ended_attempts
    over += (await ledger.settlement.settle(ends, now=now())).ended_attempts

    assert (waits.tokens, waits_again.tokens) == (7, 7)
    assert over == [
        EndedAttempt(entry.id, number, entry.flow, tokens) for number, tokens in ((1, 7), (2, 7), (3, 7), (3, 1))
    ]


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


async def test_the_usual_way_of_a_job_plans_over_its_own_days_only(ledger: Ledger, ledger_url: str) -> None:
    job = an_id()
    await ledger.intake.admit([an_entry(id=uuid7(Ms(now() - n * 24 * 3_600_000), n)) for n in range(5)])
    flow: list[object] = [["m"], ["bulk"], ["default"], [0], [job], ["d"], now()]
    end: list[object] = [[job], [1], ["succeeded"], [None], [0], [0], [0], [0], now(), *bounds(day_of(job))]
    connection = await asyncpg.connect(ledger_url, server_settings=SETTINGS)

    plans = {
        "dispatch": await connection.fetch(f"explain {query('dispatch')}", *flow, job, job, 1, ONLY_SHARD, 1, [0]),
        "attempts_of": await connection.fetch(f"explain {query('attempts_of')}", [job], [1], job, job),
        "finish": await connection.fetch(f"explain {query('finish')}", *end),
    }

    await connection.close()
    for name, plan in plans.items():
        days = set(re.findall(r"(?:jobs|bodies)_(\d{8})", "\n".join(row[0] for row in plan)))
        assert len(days) == 1, (name, days)


async def test_a_group_of_any_kind_plans_over_its_own_days_only(ledger: Ledger, ledger_url: str) -> None:
    one, other = an_id(), an_id()
    await ledger.intake.admit([an_entry(id=uuid7(Ms(now() - n * 24 * 3_600_000), n)) for n in range(5)])
    jobs, between, ones = [one, other], (one, other), [1, 1]
    values: dict[str, tuple[object, ...]] = {
        "open_jobs": (jobs, *between),
        "lock_jobs": (jobs, *between),
        "lock_waiting": (jobs, *between),
        "finish_any": (jobs, ones, ["failed", "failed"], [None, None], now(), *days_of(jobs)),
        "settled_by": (jobs, ones, ["failed", "failed"], *between),
        "requeue": (jobs, ones, ones, ones, ["[]", "[]"], now(), [None, None], *between),
        "take_estimates_back": (jobs, jobs, *between),
        "spent_on": (jobs, *between),
        "charge": (jobs, ones, ones, ones, ones, *days_of(jobs)),
    }
    connection = await asyncpg.connect(ledger_url, server_settings=SETTINGS)

    plans = {name: await connection.fetch(f"explain {query(name)}", *values[name]) for name in values}

    await connection.close()
    for name, plan in plans.items():
        days = set(re.findall(r"(?:jobs|bodies|executions)_(\d{8})", "\n".join(row[0] for row in plan)))
        assert len(days) == 1, (name, days)


@pytest.mark.parametrize("analyzed", [False, True])
async def test_statistics_that_know_no_new_job_spoil_no_plan(
    ledger: Ledger,
    ledger_url: str,
    analyzed: bool,  # noqa: FBT001
) -> None:
    connection = await asyncpg.connect(ledger_url, server_settings=SETTINGS)
    if analyzed:
        before = [an_entry() for _ in range(1000)]
        await ledger.intake.admit(before)
        attempts = await dispatched(ledger, *before)
        await settled(ledger, *(a_verdict(attempt, a_success()) for attempt in attempts))
        await connection.execute("analyze")
    others, entries = ([an_entry() for _ in range(1000)] for _ in range(2))
    await ledger.intake.admit(others)
    await ledger.intake.admit(entries)
    runs = await dispatched(ledger, *others)

    trying = connection.transaction()
    await trying.start()
    plans = await the_usual_way(ledger, connection, entries, runs)
    await trying.rollback()

    await connection.close()
    for plan in plans:
        assert "rows=1000" in plan, plan
        assert "Removed by Join Filter" not in plan, plan


@pytest.mark.parametrize("analyzed", ["never", "before", "after"])
async def test_a_group_of_any_kind_finds_each_of_its_rows_by_key(
    ledger: Ledger, ledger_url: str, analyzed: str
) -> None:
    connection = await asyncpg.connect(ledger_url, server_settings=SETTINGS)
    await ledger.intake.admit([an_entry() for _ in range(5)])
    if analyzed == "before":
        await connection.execute("analyze")
    entries = [an_entry() for _ in range(1500)]
    await ledger.intake.admit(entries)
    runs = await dispatched(ledger, *entries[1000:])
    if analyzed == "after":
        await connection.execute("analyze")
    jobs = [entry.id for entry in entries[500:]]
    between, days, ones, none = (jobs[0], jobs[-1]), days_of(jobs), [1] * len(jobs), [None] * len(jobs)
    running, ended = sorted(one.job for one in runs), ["failed"] * len(jobs)
    few, back = [1] * len(running), ["[]"] * len(running)
    values: dict[str, tuple[object, ...]] = {
        "open_jobs": (jobs, *between),
        "lock_running": (jobs,),
        "lock_jobs": (jobs, *between),
        "lock_waiting": (jobs, *between),
        "finish_any": (jobs, none, ended, none, now(), *days),
        "settled_by": (jobs, ones, ended, *between),
        "requeue": (running, few, few, few, back, now(), [None] * len(running), running[0], running[-1]),
        "take_estimates_back": (jobs, jobs, *between),
        "spent_on": (jobs, *between),
        "charge": (jobs, ones, ones, ones, ones, *days),
    }

    plans = {}
    for name, value in values.items():
        trying = connection.transaction()
        await trying.start()
        plans[name] = await connection.fetch(f"explain analyze {query(name)}", *value)
        await trying.rollback()

    await connection.close()
    for name, plan in plans.items():
        text = "\n".join(row[0] for row in plan)
        assert "Removed by Join Filter" not in text, f"{name}:\n{text}"


async def the_usual_way(
    ledger: Ledger, connection: Connection, waiting: Sequence[Entry], runs: Sequence[Attempt]
) -> list[str]:
    """The plans of the statements that every job takes."""
    jobs, running = [entry.id for entry in waiting], sorted(one.job for one in runs)
    ones, zeros = [1] * len(jobs), [0] * len(jobs)
    flow = [[entry.model for entry in waiting], ["bulk"] * len(jobs), ["default"] * len(jobs)]
    deadlines = [entry.deadline_ms for entry in waiting]
    leadership = await ledger.status.leader()
    assert leadership is not None
    ends = ["succeeded"] * len(jobs), [None] * len(jobs), zeros, zeros, zeros, zeros, now()
    found = [
        await connection.fetch(
            f"explain analyze {query('dispatch')}",
            *flow, deadlines, jobs, ["d"] * len(jobs), now(), jobs[0], jobs[-1], leadership.term, ONLY_SHARD,
            1, zeros,
        ),
        await connection.fetch(f"explain analyze {query('attempts_of')}", running, ones, running[0], running[-1]),
        await connection.fetch(
            f"explain analyze {query('finish')}", running, ones, *ends, *bounds(day_of(running[0]))
        ),
    ]  # fmt: skip
    return ["\n".join(row[0] for row in plan) for plan in found]


async def test_what_is_due_is_found_by_its_time_however_many_wait(ledger: Ledger, ledger_url: str) -> None:
    entries = [an_entry() for _ in range(2000)]
    await ledger.intake.admit(entries)
    later = Requeue(Ms(now() + 600_000), counted=True)
    attempts = await dispatched(ledger, *entries)
    await ledger.settlement.settle(
        [a_verdict(one, Failed(EngineFault("x")), transition=later) for one in attempts], now=now()
    )
    connection = await asyncpg.connect(ledger_url, server_settings=SETTINGS)

    for statistics in ("select", "analyze"):
        await connection.execute(statistics)
        plans = [
            await connection.fetch(f"explain (analyze, buffers) {query('move_due')}", now(), 1000),
            await connection.fetch(f"explain (analyze, buffers) {query('next_due')}"),
        ]
        for plan in plans:
            text = "\n".join(row[0] for row in plan)
            assert "delayed_due" in text, text
            assert "Removed by Filter" not in text, text
    await connection.close()


# settlement


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


async def test_an_outcome_of_a_day_that_was_dropped_is_said_to_be_so(ledger: Ledger, ledger_url: str) -> None:
    attempt = await running(ledger, id=uuid7(Ms(now() - 24 * 3_600_000), 1))
    connection = await asyncpg.connect(ledger_url)
    days = "select inhrelid::regclass::text as day from pg_inherits where inhparent::regclass::text like 'infermq.%'"
    for row in await connection.fetch(days):
        await connection.execute(f"drop table if exists {row['day']}")
    await connection.execute("delete from infermq.running")  # a day with an open job would not be dropped
    await connection.close()

    for verdict in (
        a_verdict(attempt, a_success()),
        a_verdict(attempt, Failed(EngineFault("x")), transition=Ignore()),
    ):
        with pytest.raises(DayNotKept):
            await ledger.settlement.settle([verdict], now=now())


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


# batches and results


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


async def test_results_are_read_whatever_else_the_server_is_writing(ledger: Ledger, ledger_url: str) -> None:
    batch = await a_batch(ledger)
    attempt = await running(ledger, batch=batch.id)
    other = await asyncpg.connect(urlunsplit(urlsplit(ledger_url)._replace(path="/postgres")))
    writing = other.transaction()
    await writing.start()
    await other.execute("select pg_current_xact_id()")
    await settled(ledger, a_verdict(attempt, a_success()))

    page = await ledger.batches.results(batch.id, "default", None, 10)

    await writing.rollback()
    await other.close()
    assert page is not None
    assert [result.job for result in page.results] == [attempt.job]
    assert not page.more


async def test_results_are_read_once_each_while_two_brokers_record_them(ledger: Ledger, ledger_url: str) -> None:
    """Whoever reads sees the numbers grow without a gap: each is committed after all before it."""
    batch = await a_batch(ledger)
    entries = [an_entry(batch=batch.id) for _ in range(200)]
    await ledger.intake.admit(entries)
    verdicts = [a_verdict(attempt, a_success()) for attempt in await dispatched(ledger, *entries)]
    groups = [verdicts[n : n + 5] for n in range(0, len(verdicts), 5)]
    numbers = list[int]()
    read = list[UUID]()

    async def record(broker: Ledger, groups: Sequence[Sequence[Verdict]]) -> None:
        for group in groups:
            await broker.settlement.settle(group, now=now())

    async def read_on(watching: Connection) -> None:
        cursor = None
        while len(read) < len(entries):
            seen = "select ordinal from infermq.results where batch = $1 order by ordinal"
            numbers[:] = [row["ordinal"] for row in await watching.fetch(seen, batch.id)]
            assert numbers == list(range(1, len(numbers) + 1))
            page = await ledger.batches.results(batch.id, "default", cursor, 7)
            assert page is not None
            cursor = page.cursor
            read.extend(result.job for result in page.results)

    watching = await asyncpg.connect(ledger_url)
    async with open_ledger(ledger_url, clock=now) as other, asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(read_on(watching))
        for n in range(4):
            group.create_task(record(other if n % 2 else ledger, groups[n::4]))
    await watching.close()

    assert sorted(read) == sorted(entry.id for entry in entries)


async def test_a_result_is_read_only_after_those_that_were_recorded_before_it(
    ledger: Ledger, ledger_url: str
) -> None:
    """The second waits for the first, which has its number already, and is not committed yet."""
    batch = await a_batch(ledger)
    first, second = [a_verdict(await running(ledger, batch=batch.id), a_success()) for _ in range(2)]
    async with a_hand(ledger_url) as hand:
        await hand.hold("insert into infermq.results (job) values ($1)", first.job)
        numbered = asyncio.create_task(ledger.settlement.settle([first], now=now()))
        await hand.until_waiting(1)
        behind = asyncio.create_task(ledger.settlement.settle([second], now=now()))
        await hand.until_waiting(2)
        before = await ledger.batches.results(batch.id, "default", None, 10)

        await hand.let_go()
        await asyncio.gather(numbered, behind)

    after = await ledger.batches.results(batch.id, "default", None, 10)
    assert before is not None
    assert after is not None
    assert not before.results
    assert [result.job for result in after.results] == [first.job, second.job]


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


# the rest


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


async def test_migrations_are_applied_once_and_side_by_side(ledger_url: str) -> None:
    connection = await asyncpg.connect(ledger_url)
    await connection.execute("drop schema infermq cascade")

    applied = await asyncio.gather(migrate(ledger_url), migrate(ledger_url))

    assert sorted(map(len, applied)) == [0, 1]
    assert await pending(ledger_url) == []
    await connection.execute("update infermq.migrations set checksum = 'other'")
    with pytest.raises(Conflict, match="other contents"):
        await migrate(ledger_url)
    await connection.close()


async def test_a_database_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        async with open_ledger("postgresql://postgres@/x?host=/nowhere", clock=now) as ledger:
            await ledger.status.database_now()


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
