import asyncio
import re
from collections.abc import Sequence
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

import asyncpg
import pytest

from broker.core.records import ONLY_SHARD, EndedAttempt, Entry, Ignore, Requeue, Running, Verdict
from broker.errors import Conflict, DayNotKept, Unavailable
from broker.ledger import migrate, open_ledger, pending
from broker.ledger.connection import SETTINGS, Connection
from broker.ledger.days import bounds, day_of, days_of
from broker.ledger.sql import query
from broker.ports import Ledger
from schemas.ids import uuid7
from schemas.job import Attempt, Lane
from schemas.outcome import EngineFault, Failed, Released
from schemas.units import Ms
from tests.builders import a_success, an_entry, an_id, now
from tests.holding import a_hand
from tests.settling import a_batch, a_verdict, dispatched, running, settled
from tests.sums import check_sums

pytestmark = pytest.mark.real


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
