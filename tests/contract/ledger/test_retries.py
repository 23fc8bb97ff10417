"""Retries of what failed in a batch: each line once, whatever was retried before, and one merged view of the results."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
from msgspec.structs import replace

from broker.core.instructions import Carried
from broker.core.records import Audited, Flow, Pick, Place
from broker.errors import Conflict
from broker.ports import Ledger
from schemas.api import Batch, BatchStatus, Counts, JobShow, Result, State
from schemas.changes import BatchChange, Change
from schemas.dead import DeadFilter
from schemas.instructions import Instruction
from schemas.job import Lane
from schemas.outcome import Refused
from schemas.repeats import BatchRetry, FixedBody, RetryCheck
from schemas.units import Ms
from tests.builders import BODY, an_entry, an_id, now
from tests.contract.ledger.test_batches import an_end, results_of
from tests.settling import a_batch
from tests.system import CATALOG

S, F, E, D, C = State.SUCCEEDED, State.FAILED, State.EXPIRED, State.DEAD, State.CANCELLED
Places = Sequence[tuple[Flow, Place]]


@pytest.fixture(autouse=True)
async def _catalog(ledger: Ledger) -> None:
    await ledger.catalogs.apply(CATALOG.format(slots=4, options=""), "default", now())


async def end(ledger: Ledger, places: Places, *states: State) -> None:
    """Dispatch jobs, and let each end so: those with the lowest lines first."""
    term = await ledger.leadership.lead("me", lease_ms=60_000)
    assert term is not None
    picks = [Pick(flow, place, "d") for flow, place in places]
    attempts = await ledger.attempts.dispatch(picks, term=term, controls=1, now=now())
    shown = {attempt.job: await ledger.jobs.find(attempt.job, attempt.tenant) for attempt in attempts}
    attempts.sort(key=lambda attempt: ((found := shown[attempt.job]) and found.line) or 0)
    verdicts = [an_end(attempt, state) for attempt, state in zip(attempts, states, strict=True)]
    await ledger.settlement.settle(verdicts, now=now())


async def a_batch_of(ledger: Ledger, *states: State, **changes: Any) -> Batch:
    """A sealed batch whose lines, from 1, have ended so; each with its custom id."""
    batch = await a_batch(ledger)
    entries = [
        an_entry(
            **{"batch": batch.id, "line": line, "custom_id": f"c{line}", "body": a_body(line), **changes},
        )
        for line in range(1, len(states) + 1)
    ]
    await ledger.intake.admit(entries)
    await ledger.batches.seal(batch.id, "default", len(states), now())
    await end(ledger, [(entry.flow, entry.place) for entry in entries], *states)
    return batch


def a_body(line: int) -> bytes:
    return BODY.replace(b"hello", b"hello to %d" % line)


async def give(ledger: Ledger, batch: UUID, **changes: Any) -> Instruction:
    ask = BatchRetry(**{"id": an_id(), "batch": batch, **changes})
    given = await ledger.retries.give(ask, "default", somebody())
    assert given is not None
    return given.instruction


async def carry_out(ledger: Ledger) -> list[Carried]:
    """Do all pages that are due."""
    pages = []
    while (carried := await ledger.instructions.carry_on(now())) is not None:
        pages.append(carried)
    return pages


async def retried(ledger: Ledger, batch: UUID, **changes: Any) -> tuple[UUID, Places]:
    """Retry what failed in a batch. Returns the new batch, and the places of its jobs."""
    given = await give(ledger, batch, **changes)
    pages = await carry_out(ledger)
    return given.id, [place for page in pages for place in page.waiting]


async def shown(ledger: Ledger, batch: UUID) -> Batch:
    found = await ledger.batches.find(batch, "default")
    assert found is not None
    return found


async def jobs_of(ledger: Ledger, places: Places) -> dict[int | None, JobShow]:
    """Jobs by their lines."""
    found = [await ledger.jobs.find(place.job, "default") for _, place in places]
    return {job.line: job for job in found if job is not None}


async def lines_of(ledger: Ledger, places: Places) -> list[int]:
    return sorted([job.line or 0 for job in (await jobs_of(ledger, places)).values()])


def somebody() -> Audited:
    return Audited(an_id(), now(), "default", "k")


def states_of(results: Sequence[Result]) -> list[State]:
    return [result.state for result in sorted(results, key=lambda result: result.line or 0)]


# which jobs are made


async def test_a_retry_is_a_batch_of_only_what_failed(ledger: Ledger) -> None:
    batch = await a_batch_of(ledger, S, F, E, D, C, metadata={"a": "b"}, max_attempts=7)

    retry, places = await retried(ledger, batch.id)

    made, state = await jobs_of(ledger, places), await shown(ledger, retry)
    assert await lines_of(ledger, places) == [2, 3, 4]
    for line, job in made.items():
        assert (job.custom_id, job.batch, job.metadata, job.max_attempts) == (f"c{line}", retry, {"a": "b"}, 7)
        assert (job.state, job.lane, job.model, job.endpoint) == (
            State.QUEUED,
            Lane.BULK,
            "m",
            "/v1/chat/completions",
        )
    assert (state.retry_of, state.root, state.jobs, state.status) == (batch.id, batch.id, 3, BatchStatus.IN_PROGRESS)
    assert (await shown(ledger, batch.id)).counts == Counts(
        admitted=5, succeeded=1, failed=1, expired=1, cancelled=1, dead=1
    )


async def test_dead_jobs_that_are_retried_are_no_dead_letters_any_more(ledger: Ledger) -> None:
    batch, other = await a_batch_of(ledger, D, D, F), await a_batch_of(ledger, D)

    before = {letter.batch for letter in await ledger.dead_letters.page(DeadFilter(), limit=9)}
    _, places = await retried(ledger, batch.id)
    left = [letter.batch for letter in await ledger.dead_letters.page(DeadFilter(), limit=9)]
    await end(ledger, places, D, S, S)
    again = [letter.batch for letter in await ledger.dead_letters.page(DeadFilter(), limit=9)]

    assert before == {batch.id, other.id}
    assert left == [other.id]
    assert len(again) == 2


async def test_a_retried_job_has_the_bytes_of_the_first(ledger: Ledger) -> None:
    body = '{"messages": [ {"role":"user","content":"é 😀 \\u00e9 %s"} ],  "max_tokens":8.0}'.encode()
    body = body.replace(b"%s", b"x" * 200_000)
    batch = await a_batch_of(ledger, F, body=body)

    _, places = await retried(ledger, batch.id)

    [request] = (await ledger.attempts.requests_of([place.job for _, place in places])).values()
    assert request.body == body


@pytest.mark.parametrize(
    ("choice", "lines"),
    [
        ({"states": (C,)}, [5]),
        ({"states": (F, C)}, [2, 5]),
        ({"kinds": ("engine_fault",)}, [2, 3, 4]),
        ({"kinds": ("timed_out",)}, []),
        ({"states": (D,), "kinds": ("engine_fault", "timed_out")}, [4]),
    ],
)
async def test_states_and_failures_choose_what_is_retried(
    ledger: Ledger, choice: dict[str, Any], lines: list[int]
) -> None:
    batch = await a_batch_of(ledger, S, F, E, D, C)

    retry, places = await retried(ledger, batch.id, **choice)

    assert await lines_of(ledger, places) == lines
    assert (await shown(ledger, retry)).jobs == len(lines)


async def test_what_is_changed_of_a_retry_holds_for_the_jobs_that_it_makes_later(ledger: Ledger) -> None:
    batch = await a_batch_of(ledger, State.FAILED, priority=3)

    given = await give(ledger, batch.id)
    change = BatchChange(an_id(), given.id, Change(lane=Lane.STANDARD, priority=-7))
    await ledger.changes.give(change, "default", somebody())
    await give(ledger, (await a_batch_of(ledger, State.FAILED, priority=3)).id)
    await carry_out(ledger)

    heads = {(head.flow.lane, head.rank) for head in await ledger.backlog.heads()}
    assert heads == {(Lane.STANDARD, 7), (Lane.BULK, -3)}


async def test_a_retry_of_nothing_is_complete(ledger: Ledger) -> None:
    batch = await a_batch_of(ledger, S, S)

    retry, places = await retried(ledger, batch.id)

    assert (places, (await shown(ledger, retry)).status) == ([], BatchStatus.COMPLETED)


async def test_a_retry_goes_to_another_model_if_it_is_told_to(ledger: Ledger) -> None:
    batch = await a_batch_of(ledger, F, model="gone")

    _, places = await retried(ledger, batch.id, model="m")

    assert [job.model for job in (await jobs_of(ledger, places)).values()] == ["m"]


async def test_what_cannot_be_admitted_fails_in_the_new_batch_and_stops_nothing(ledger: Ledger) -> None:
    bad = await a_batch_of(ledger, F, F, model="gone")

    retry, places = await retried(ledger, bad.id)

    state = await shown(ledger, retry)
    [first, _] = await results_of(ledger, state, a_page=10)
    assert (places, state.counts.failed, state.status) == ([], 2, BatchStatus.COMPLETED)
    assert isinstance(first.failure, Refused)
    assert first.failure.code == "unknown_model"


async def test_bodies_that_were_sent_replace_those_that_failed(ledger: Ledger) -> None:
    batch = await a_batch_of(ledger, F, F, F)
    fixed = BODY.replace(b"hello", b"goodbye")
    bodies = (FixedBody("c1", fixed.decode()), FixedBody("c3", fixed.decode(), model="other"))
    ask = BatchRetry(id=an_id(), batch=batch.id, fixed_bodies=2, bodies=bodies[:1])

    first = await ledger.retries.give(ask, "default", somebody())
    before = await carry_out(ledger)
    last = await ledger.retries.give(replace(ask, bodies=bodies[1:]), "default", somebody())
    pages = await carry_out(ledger)

    assert first is not None
    assert last is not None
    assert (first.is_begun, before, last.is_begun) == (False, [], True)
    requests = await ledger.attempts.requests_of([place.job for page in pages for _, place in page.waiting])
    assert sorted(request.body for request in requests.values()) == sorted([fixed, a_body(2)])
    [refused] = [job for page in pages for job in page.ended]
    assert refused.custom_id == "c3", "no model has this name"


async def test_a_retry_whose_bodies_do_not_come_ends_and_retries_nothing(ledger: Ledger) -> None:
    batch = await a_batch_of(ledger, F)
    given = await give(ledger, batch.id, fixed_bodies=1)

    pages = [await ledger.instructions.carry_on(Ms(now() + 3_700_000))]
    _, places = await retried(ledger, batch.id)

    ended = await ledger.instructions.find(given.id, "default")
    assert [page and page.waiting for page in pages] == [()]
    assert ended is not None
    assert ended.failure is not None
    assert (await shown(ledger, given.id)).status is BatchStatus.COMPLETED
    assert len(places) == 1


async def test_custom_ids_of_which_no_job_would_be_retried_are_named(ledger: Ledger) -> None:
    batch = await a_batch_of(ledger, S, F, C)
    ask = RetryCheck(batch=batch.id, custom_ids=("c1", "c2", "c3", "none"))

    assert await ledger.retries.not_retried(ask, "default") == ("c1", "c3", "none")
    assert await ledger.retries.not_retried(ask, "another") is None


# more than once


async def test_what_is_open_or_has_succeeded_in_a_retry_is_not_retried_again(ledger: Ledger) -> None:
    batch = await a_batch_of(ledger, F, F, F)
    _, places = await retried(ledger, batch.id)

    _, none = await retried(ledger, batch.id)
    await end(ledger, places, S, F, S)
    _, again = await retried(ledger, batch.id)

    assert none == []
    assert await lines_of(ledger, again) == [2]


async def test_the_same_request_twice_is_one_retry(ledger: Ledger) -> None:
    batch = await a_batch_of(ledger, F)
    ask = BatchRetry(id=an_id(), batch=batch.id)

    for _ in range(2):
        await ledger.retries.give(ask, "default", somebody())
        await carry_out(ledger)

    assert len((await shown(ledger, batch.id)).retries) == 1


async def test_the_id_of_a_retry_can_be_no_batchs(ledger: Ledger) -> None:
    batch, other = await a_batch_of(ledger, F), await a_batch(ledger)

    with pytest.raises(Conflict):
        await ledger.retries.give(BatchRetry(id=other.id, batch=batch.id), "default", somebody())

    assert await ledger.instructions.find(other.id, "default") is None


async def test_a_retry_of_a_retry_belongs_to_the_first_batch(ledger: Ledger) -> None:
    batch = await a_batch_of(ledger, F, F, F)
    retry, places = await retried(ledger, batch.id)
    await end(ledger, places, S, F, F)

    again, places = await retried(ledger, retry)
    await end(ledger, places, S, F)

    first = await shown(ledger, batch.id)
    assert (await shown(ledger, again)).root == batch.id
    assert first.retries == (retry, again)
    assert states_of(await results_of(ledger, first, a_page=2)) == [S, S, F]


# the merged view


@pytest.mark.parametrize("a_page", [1, 2, 100])
async def test_each_line_has_one_merged_result_with_its_newest_end(ledger: Ledger, a_page: int) -> None:
    batch = await a_batch_of(ledger, S, F, F, E, D, C)
    _, places = await retried(ledger, batch.id)
    await end(ledger, places, S, D, F, S)
    _, places = await retried(ledger, batch.id)
    await end(ledger, places, S, E)

    state = await shown(ledger, batch.id)
    merged = await results_of(ledger, state, a_page=a_page)

    assert states_of(merged) == [S, S, S, E, S, C]
    assert sorted(result.line or 0 for result in merged) == [1, 2, 3, 4, 5, 6]
    assert all(bytes(result.body) != b"null" for result in merged if result.state is S)
    assert state.merged is not None
    assert state.merged.counts == Counts(admitted=6, succeeded=4, expired=1, cancelled=1)
    assert state.merged.is_completed


async def test_its_own_results_stay_to_be_read(ledger: Ledger) -> None:
    batch = await a_batch_of(ledger, S, F)
    _, places = await retried(ledger, batch.id)
    await end(ledger, places, S)

    page = await ledger.batches.results(batch.id, "default", None, 10, own=True)

    assert page is not None
    assert states_of(page.results) == [S, F]
    assert page.completed


async def test_jobs_without_a_custom_id_or_a_line_are_merged_too(ledger: Ledger) -> None:
    batch = await a_batch_of(ledger, F, F, line=None, custom_id=None)
    _, places = await retried(ledger, batch.id)
    await end(ledger, places, S, S)

    assert states_of(await results_of(ledger, batch, a_page=10)) == [S, S]


async def test_merged_counts_and_costs_add_up_while_a_retry_is_open(ledger: Ledger) -> None:
    batch = await a_batch_of(ledger, S, F, F)
    _, places = await retried(ledger, batch.id)
    await end(ledger, places[:1], S)

    state = await shown(ledger, batch.id)

    assert state.merged is not None
    assert state.merged.counts == Counts(admitted=3, succeeded=2)
    assert not state.merged.is_completed
    assert state.merged.cost_nano_usd > state.cost_nano_usd


async def test_a_reader_that_waits_is_given_no_failure_that_an_open_retry_may_replace(ledger: Ledger) -> None:
    batch = await a_batch_of(ledger, S, F, S)
    _, places = await retried(ledger, batch.id)

    now_ = await ledger.batches.results(batch.id, "default", None, 10)
    early = await ledger.batches.results(batch.id, "default", None, 10, final=True)
    assert early is not None
    await end(ledger, places, S)
    late = await ledger.batches.results(batch.id, "default", early.cursor, 10, final=True)

    assert now_ is not None
    assert late is not None
    assert (states_of(now_.results), now_.completed) == ([S, F, S], False)
    assert (states_of(early.results), early.completed, early.more) == ([S], False, False)
    assert (states_of(late.results), late.completed) == ([S, S], True)
