"""Batches as the ledger keeps them: sealed once, complete when all has ended, read in order."""

from typing import Any

import pytest

from broker.core.records import Final, Requeue, Verdict
from broker.ports import Ledger
from schemas.api import Batch, BatchCreate, BatchList, BatchStatus, Result, State
from schemas.ids import uuid7
from schemas.job import Attempt, Lane
from schemas.outcome import EngineFault, Failed, Refused
from schemas.units import Ms
from tests.builders import a_success, an_entry, an_id, now
from tests.settling import a_batch, a_verdict, running


def an_end(attempt: Attempt, state: State) -> Verdict:
    if state is State.SUCCEEDED:
        return a_verdict(attempt, a_success())
    failure = EngineFault("x")
    return a_verdict(attempt, Failed(failure), transition=Final(state, None, failure))


async def status_of(ledger: Ledger, batch: Batch) -> BatchStatus:
    shown = await ledger.batches.find(batch.id, "default")
    assert shown is not None
    return shown.status


async def results_of(ledger: Ledger, batch: Batch, *, a_page: int) -> list[Result]:
    """All that are there, so many a page."""
    found: list[Result] = []
    cursor = None
    while True:
        page = await ledger.batches.results(batch.id, "default", cursor, a_page)
        assert page is not None
        found += page.results
        if not (page.more and page.results):
            return found
        cursor = page.cursor


async def test_a_batch_of_which_nothing_has_ended_says_how_many_jobs_of_others_are_ahead(ledger: Ledger) -> None:
    batch = await a_batch(ledger)
    others = [an_entry(), an_entry(batch=(await a_batch(ledger)).id, line=0), an_entry(model="other")]
    own = [an_entry(batch=batch.id, line=line) for line in range(3)]
    await ledger.intake.admit([*own, *others])
    urgent = [an_entry(batch=batch.id, line=line, priority=1) for line in (3, 4)]

    behind = await ledger.batches.find(batch.id, "default")
    await ledger.intake.admit(urgent)
    before = await ledger.batches.find(batch.id, "default")

    assert behind is not None
    assert (behind.ahead, behind.more_ahead) == (2, False)
    assert before is not None
    assert before.ahead == 0


async def test_jobs_ahead_of_a_batch_are_counted_up_to_a_thousand(ledger: Ledger) -> None:
    batch = await a_batch(ledger)
    await ledger.intake.admit([an_entry() for _ in range(1001)])
    await ledger.intake.admit([an_entry(batch=batch.id, line=0)])

    shown = await ledger.batches.find(batch.id, "default")

    assert shown is not None
    assert (shown.ahead, shown.more_ahead) == (1000, True)


async def test_a_batch_that_waits_for_nothing_or_has_ends_says_nothing_of_jobs_ahead(ledger: Ledger) -> None:
    batch = await a_batch(ledger)
    await ledger.intake.admit([an_entry()])

    empty = await ledger.batches.find(batch.id, "default")
    attempt = await running(ledger, batch=batch.id, line=0)
    runs = await ledger.batches.find(batch.id, "default")
    await ledger.settlement.settle([an_end(attempt, State.SUCCEEDED)], now=now())
    await ledger.intake.admit([an_entry(batch=batch.id, line=1)])
    begun = await ledger.batches.find(batch.id, "default")

    assert [one and one.ahead for one in (empty, runs, begun)] == [None, None, None]


async def test_sealing_again_changes_nothing(ledger: Ledger) -> None:
    batch = await a_batch(ledger)
    await ledger.settlement.settle([an_end(await running(ledger, batch=batch.id), State.SUCCEEDED)], now=now())
    sealed = await ledger.batches.seal(batch.id, "default", 2, now())

    fewer = await ledger.batches.seal(batch.id, "default", 1, Ms(now() + 1000))
    more = await ledger.batches.seal(batch.id, "default", 3, Ms(now() + 1000))

    assert sealed is not None
    assert (sealed.jobs, sealed.status) == (2, BatchStatus.IN_PROGRESS)
    assert fewer == more == sealed


@pytest.mark.parametrize("state", [State.CANCELLED, State.DEAD, State.EXPIRED, State.FAILED, State.SUCCEEDED])
async def test_a_batch_is_complete_once_as_many_have_ended_as_it_was_sealed_with(
    ledger: Ledger, state: State
) -> None:
    early, late = await a_batch(ledger), await a_batch(ledger)
    await ledger.batches.seal(early.id, "default", 2, now())
    seen = []

    for _ in range(2):
        seen.append(await status_of(ledger, early))
        attempts = [await running(ledger, batch=batch.id) for batch in (early, late)]
        await ledger.settlement.settle([an_end(attempt, state) for attempt in attempts], now=now())
    seen += [await status_of(ledger, early), await status_of(ledger, late)]
    sealed = await ledger.batches.seal(late.id, "default", 2, now())

    in_progress, completed = BatchStatus.IN_PROGRESS, BatchStatus.COMPLETED
    assert seen == [in_progress, in_progress, completed, BatchStatus.OPEN]
    assert sealed is not None
    assert sealed.status is completed


async def test_a_batch_sealed_with_more_than_have_ended_is_not_complete(ledger: Ledger) -> None:
    batch = await a_batch(ledger)
    await ledger.settlement.settle([an_end(await running(ledger, batch=batch.id), State.SUCCEEDED)], now=now())

    sealed = await ledger.batches.seal(batch.id, "default", 2, now())

    assert sealed is not None
    assert sealed.status is BatchStatus.IN_PROGRESS


async def test_a_job_that_is_refused_at_intake_can_be_the_last_of_its_batch(ledger: Ledger) -> None:
    batch = await a_batch(ledger)
    await ledger.batches.seal(batch.id, "default", 1, now())

    await ledger.intake.admit([an_entry(batch=batch.id, refused=Refused("code", "message"))])

    assert await status_of(ledger, batch) is BatchStatus.COMPLETED


async def test_a_batch_stays_completed_when_it_was(ledger: Ledger) -> None:
    batch = await a_batch(ledger)
    job = await running(ledger, batch=batch.id)
    await ledger.batches.seal(batch.id, "default", 1, now())
    await ledger.settlement.settle([an_end(job, State.SUCCEEDED)], now=Ms(now() + 1000))
    completed = await ledger.batches.find(batch.id, "default")

    late = an_entry(admitted_ms=now() + 9000, refused=Refused("batch_sealed", "too late"), too_late_for=batch.id)
    await ledger.intake.admit([late])

    shown = await ledger.batches.find(batch.id, "default")
    assert shown is not None
    assert completed is not None
    assert shown.completed_ms == completed.completed_ms is not None
    assert shown.refused == 1


async def test_creating_a_batch_again_answers_it_as_it_is(ledger: Ledger) -> None:
    ask = BatchCreate(id=an_id(), lane=Lane.STANDARD, deadline_ms=now() + 5000, metadata={"k": "v"})
    created = await ledger.batches.create(ask, "default", now())

    again = await ledger.batches.create(BatchCreate(id=ask.id, metadata={"k": "w"}), "default", Ms(now() + 1000))

    assert (created.lane, created.deadline_ms, created.metadata) == (Lane.STANDARD, ask.deadline_ms, {"k": "v"})
    assert again == created


async def test_results_of_one_group_come_by_id_however_their_jobs_ended(ledger: Ledger) -> None:
    batch = await a_batch(ledger)
    waits, runs = [await running(ledger, batch=batch.id) for _ in range(2)]
    back = a_verdict(waits, Failed(EngineFault("x")), transition=Requeue(now(), counted=True))
    await ledger.settlement.settle([back], now=now())

    await ledger.settlement.settle([a_verdict(one, a_success(), delivery=2) for one in (runs, waits)], now=now())

    assert [result.job for result in await results_of(ledger, batch, a_page=10)] == [waits.job, runs.job]


async def test_a_page_of_results_holds_its_own_batchs_only(ledger: Ledger) -> None:
    batches = [await a_batch(ledger) for _ in range(3)]
    sizes = (1, 3, 2)
    attempts = [
        [await running(ledger, batch=batch.id) for _ in range(size)]
        for batch, size in zip(batches, sizes, strict=True)
    ]
    ends = [an_end(attempt, State.SUCCEEDED) for theirs in attempts for attempt in theirs]
    await ledger.settlement.settle(ends, now=now())

    pages = [await ledger.batches.results(batch.id, "default", None, 10) for batch in batches]

    found = [[result.job for result in page.results] for page in pages if page]
    assert found == [[one.job for one in theirs] for theirs in attempts]
    assert [page.more for page in pages if page] == [False] * 3


async def test_batches_are_listed_newest_first_a_page_at_a_time(ledger: Ledger) -> None:
    asks = [BatchCreate(id=uuid7(Ms(now() + n), n)) for n in (3, 0, 4, 1, 2)]
    for ask in asks:
        await ledger.batches.create(ask, "default", now())

    first = await ledger.batches.page("default", BatchList(2))
    rest = await ledger.batches.page("default", BatchList(10, first[-1].id))

    newest_first = sorted((ask.id for ask in asks), reverse=True)
    assert [batch.id for batch in first] == newest_first[:2]
    assert [batch.id for batch in rest] == newest_first[2:]


async def test_batches_are_listed_by_status_lane_time_and_metadata(ledger: Ledger) -> None:
    start = now()
    made = [
        await ledger.batches.create(
            BatchCreate(id=an_id(), lane=lane, metadata=metadata), "default", Ms(start + 1000 * n)
        )
        for n, (lane, metadata) in enumerate(
            [(Lane.BULK, {"team": "a"}), (Lane.STANDARD, {"team": "a", "run": "1"}), (Lane.BULK, {"team": "b"})]
        )
    ]
    other = await ledger.batches.create(BatchCreate(id=an_id()), "other", start)
    await ledger.batches.seal(made[0].id, "default", 0, start)
    await ledger.batches.seal(made[1].id, "default", 1, start)

    async def listed(**wanted: Any) -> list[int]:
        found = await ledger.batches.page("default", BatchList(**wanted))
        return [[batch.id for batch in made].index(batch.id) for batch in found]

    assert await listed() == [2, 1, 0]
    assert await listed(statuses=(BatchStatus.COMPLETED,)) == [0]
    assert await listed(statuses=(BatchStatus.IN_PROGRESS, BatchStatus.OPEN)) == [2, 1]
    assert await listed(lane=Lane.BULK) == [2, 0]
    assert await listed(since_ms=start + 1000) == [2, 1]
    assert await listed(until_ms=start + 1000) == [0]
    assert await listed(metadata={"team": "a"}) == [1, 0]
    assert await listed(metadata={"team": "a", "run": "1"}, lane=Lane.STANDARD, before=made[2].id) == [1]
    assert [batch.id for batch in await ledger.batches.page("other", BatchList())] == [other.id]


async def test_a_page_of_an_open_batch_is_not_its_last(ledger: Ledger) -> None:
    batch = await a_batch(ledger)
    first = await ledger.batches.results(batch.id, "default", None, 10)
    await ledger.settlement.settle([an_end(await running(ledger, batch=batch.id), State.SUCCEEDED)], now=now())

    second = await ledger.batches.results(batch.id, "default", first.cursor if first else None, 10)
    third = await ledger.batches.results(batch.id, "default", second.cursor if second else None, 10)

    pages = [page for page in (first, second, third) if page]
    assert [(len(page.results), page.completed, page.more) for page in pages] == [
        (0, False, False),
        (1, False, False),
        (0, False, False),
    ]
    assert [page.cursor is None for page in pages] == [True, False, False]
