"""Replays of settled jobs as new ones, and what both came to, side by side."""

import asyncio
import json
from typing import Any
from uuid import UUID

import pytest
from msgspec.structs import replace

from broker.core.instructions import Carried
from broker.core.keys import KeyRecord
from broker.core.records import Pick
from broker.errors import Conflict
from broker.ports import Ledger
from schemas.accounts import Role
from schemas.api import BatchStatus, State
from schemas.instructions import Instruction
from schemas.job import Lane
from schemas.listing import JobFilter
from schemas.repeats import Compared, Comparison, Replay, ReplayDiff
from schemas.units import Ms
from tests.builders import BODY, a_success, an_entry, an_id, now
from tests.contract.ledger.test_batches import results_of
from tests.contract.ledger.test_retries import (
    D,
    F,
    Places,
    S,
    a_batch_of,
    carry_out,
    end,
    jobs_of,
    lines_of,
    retried,
    shown,
    somebody,
)
from tests.settling import a_batch, a_verdict
from tests.system import CATALOG


@pytest.fixture(autouse=True)
async def _catalog(ledger: Ledger) -> None:
    other = CATALOG.partition("[deployments.d]")[0].replace("models.m", "models.other")
    await ledger.catalogs.apply((CATALOG + other).format(slots=4, options=""), "default", now())


async def a_millisecond_later() -> None:
    """Let time go on: what is replayed is older than the replay, by a millisecond at least."""
    at = now()
    while now() == at:
        await asyncio.sleep(0)


async def give(ledger: Ledger, **ask: Any) -> Instruction:
    await a_millisecond_later()
    given = await ledger.replays.give(Replay(**{"id": an_id(), **ask}), "default", somebody())
    return given.instruction


async def replayed(ledger: Ledger, **ask: Any) -> tuple[UUID, Places]:
    """Replay jobs. Returns the new batch, and the places of its jobs."""
    given = await give(ledger, **ask)
    pages = await carry_out(ledger)
    return given.id, [place for page in pages for place in page.waiting]


def of_batch(batch: UUID, **changes: Any) -> JobFilter:
    return JobFilter(batch=batch, **changes)


async def pairs_of(ledger: Ledger, batch: UUID, *, a_page: int = 200) -> dict[int | None, Compared]:
    """All pairs of a batch by their lines."""
    found, cursor = {}, None
    while True:
        page = await ledger.replays.differences(ReplayDiff(batch, cursor, a_page), "default")
        assert page is not None
        found.update({pair.line: pair for pair in page.pairs})
        if page.cursor is None:
            return found
        cursor = page.cursor


# which jobs are made


async def test_a_replay_makes_new_jobs_of_settled_ones_and_leaves_those_as_they_are(ledger: Ledger) -> None:
    batch = await a_batch_of(ledger, S, F, D, metadata={"a": "b"})

    replay, places = await replayed(ledger, filter=of_batch(batch.id), model="other")

    made, state = await jobs_of(ledger, places), await shown(ledger, replay)
    assert await lines_of(ledger, places) == [1, 2, 3]
    old = {result.line: result.job for result in await results_of(ledger, batch, a_page=10)}
    for line, job in made.items():
        assert (job.replay_of, job.batch, job.model, job.metadata) == (old[line], replay, "other", {"a": "b"})
        assert (job.custom_id, job.lane, job.state) == (f"c{line}", Lane.BULK, State.QUEUED)
    assert (state.is_replay, state.retry_of, state.jobs, state.status) == (True, None, 3, BatchStatus.IN_PROGRESS)
    assert (await shown(ledger, batch.id)).merged is None
    assert len(await results_of(ledger, batch, a_page=10)) == 3


async def test_a_replay_makes_no_job_that_its_key_could_not_submit(ledger: Ledger) -> None:
    batch = await a_batch_of(ledger, S)
    await a_millisecond_later()
    by, fields = somebody(), {"role": Role.PRODUCER, "hash": bytes(32), "created_ms": now()}
    for key, limits in (
        ("limited", {"models": frozenset({"other"})}),
        ("embeds", {"endpoints": frozenset({"/v1/embeddings"})}),
        ("hurried", {"lanes": frozenset({Lane.STANDARD})}),
    ):
        record = KeyRecord(id=key, tenant="default", **fields, **limits)  # type: ignore[arg-type]
        await ledger.api_keys.create(record, replace(by, id=an_id()))

    told = {}
    for key in ("limited", "embeds", "hurried", "anybody"):
        given = await ledger.replays.give(
            Replay(id=an_id(), filter=of_batch(batch.id)), "default", replace(by, id=an_id(), key=key)
        )
        await carry_out(ledger)
        instruction = await ledger.instructions.find(given.instruction.id, "default")
        assert instruction is not None
        told[key] = instruction.counts.get("refused", 0)

    assert told == {"limited": 1, "embeds": 1, "hurried": 1, "anybody": 0}


async def test_a_replay_asked_for_twice_makes_two_sets(ledger: Ledger) -> None:
    batch = await a_batch_of(ledger, S, F)

    first, places = await replayed(ledger, filter=of_batch(batch.id))
    second, more = await replayed(ledger, filter=of_batch(batch.id))

    assert first != second
    assert len({place.job for _, place in [*places, *more]}) == 4


async def test_one_request_is_one_replay_however_often_it_comes(ledger: Ledger) -> None:
    batch = await a_batch_of(ledger, S)
    ask = Replay(id=an_id(), filter=of_batch(batch.id))
    await a_millisecond_later()

    for _ in range(2):
        await ledger.replays.give(ask, "default", somebody())
        await carry_out(ledger)

    assert (await shown(ledger, ask.id)).counts.admitted == 1


async def test_the_id_of_a_replay_can_be_no_batchs_and_no_other_tenants(ledger: Ledger) -> None:
    taken = await a_batch(ledger)
    mine = Replay(id=an_id(), filter=of_batch(taken.id))
    await ledger.replays.give(mine, "another", somebody())

    with pytest.raises(Conflict):
        await ledger.replays.give(Replay(id=taken.id, filter=of_batch(taken.id)), "default", somebody())
    with pytest.raises(Conflict):
        await ledger.replays.give(mine, "default", somebody())


async def test_what_a_replay_makes_it_does_not_choose_again(ledger: Ledger) -> None:
    await a_batch_of(ledger, F)
    given = await give(ledger, filter=JobFilter(model="m"), rate_per_s=1.0)

    pages: list[Carried] = []
    at = now()
    while (page := await ledger.instructions.carry_on(at)) is not None:
        pages.append(page)
        if page.waiting:
            await end(ledger, page.waiting, *[F] * len(page.waiting))
        at = Ms(at + 10_000)

    state = await shown(ledger, given.id)
    assert (state.counts.admitted, state.status) == (1, BatchStatus.COMPLETED)


async def test_open_jobs_and_other_tenants_are_left_out(ledger: Ledger) -> None:
    await ledger.intake.admit([an_entry()])
    foreign = await a_batch_of(ledger, S)

    _, places = await replayed(ledger, filter=JobFilter(model="m", states=(F, State.EXPIRED)))
    given = await ledger.replays.give(Replay(id=an_id(), filter=of_batch(foreign.id)), "another", somebody())
    await carry_out(ledger)

    assert places == []
    assert (await ledger.batches.find(given.instruction.id, "another")) is not None
    assert (await shown_of(ledger, given.instruction.id, "another")) == 0


async def shown_of(ledger: Ledger, batch: UUID, tenant: str) -> int:
    found = await ledger.batches.find(batch, tenant)
    assert found is not None
    return found.counts.admitted


async def test_jobs_can_be_named_one_by_one(ledger: Ledger) -> None:
    batch = await a_batch_of(ledger, S, F, S)
    jobs = [result.job for result in await results_of(ledger, batch, a_page=10)]
    waiting = an_entry()
    await ledger.intake.admit([waiting])

    _, places = await replayed(ledger, jobs=(jobs[2], jobs[0], jobs[2], waiting.id, an_id()))

    assert await lines_of(ledger, places) == [1, 3]


async def test_bodies_are_kept_byte_by_byte_or_changed_as_asked(ledger: Ledger) -> None:
    body = '{"messages":[ {"role":"user","content":"é \\u00e9 😀 '.encode() + b"x" * 250_000 + b'"} ],"top_p":1.0}'
    batch = await a_batch_of(ledger, S, body=body)

    _, same = await replayed(ledger, filter=of_batch(batch.id))
    _, changed = await replayed(ledger, filter=of_batch(batch.id), patch='{"temperature":0}', max_tokens=9)

    [as_it_was], [edited] = [
        [request.body for request in (await ledger.attempts.requests_of([place.job for _, place in places])).values()]
        for places in (same, changed)
    ]
    assert as_it_was == body
    assert edited == body.removesuffix(b"}") + b',"temperature":0,"max_tokens":9}'


async def test_a_replay_that_cannot_be_admitted_is_recorded_as_refused(ledger: Ledger) -> None:
    batch = await a_batch_of(ledger, S, S)

    replay, places = await replayed(ledger, filter=of_batch(batch.id), patch='{"max_tokens":999999}')

    state = await shown(ledger, replay)
    assert (places, state.counts.failed, state.status) == ([], 2, BatchStatus.COMPLETED)


async def test_a_replay_to_a_deployment_waits_for_that_one(ledger: Ledger) -> None:
    batch = await a_batch_of(ledger, S)

    _, places = await replayed(ledger, filter=of_batch(batch.id), deployment="d")

    assert [flow.model for flow, _ in places] == ["m@d"]


async def test_pages_keep_to_the_rate(ledger: Ledger) -> None:
    batch = await a_batch_of(ledger, *[S] * 5)
    await give(ledger, filter=of_batch(batch.id), rate_per_s=2.0)
    at = now()

    first = await ledger.instructions.carry_on(at)
    early = await ledger.instructions.carry_on(Ms(at + 999))
    second = await ledger.instructions.carry_on(Ms(at + 1000))

    assert [page and len(page.waiting) for page in (first, early, second)] == [2, None, 2]


async def test_large_bodies_make_small_pages_and_none_is_left_out(ledger: Ledger) -> None:
    batch = await a_batch_of(ledger, *[S] * 40, body=BODY.replace(b"hello", b"x" * 250_000))

    given = await give(ledger, filter=of_batch(batch.id))
    pages = await carry_out(ledger)

    assert [len(page.waiting) for page in pages] == [33, 7]
    assert (await shown(ledger, given.id)).counts.admitted == 40


async def test_a_replay_whose_batch_somebody_sealed_goes_on_no_more(ledger: Ledger) -> None:
    batch = await a_batch_of(ledger, S, S)
    given = await give(ledger, filter=of_batch(batch.id), rate_per_s=1.0)
    await ledger.instructions.carry_on(now())
    await ledger.batches.seal(given.id, "default", 1, now())

    await ledger.instructions.carry_on(Ms(now() + 60_000))

    state = await ledger.instructions.find(given.id, "default")
    assert state is not None
    assert (state.failure is None, (await shown(ledger, given.id)).counts.admitted) == (False, 1)


async def test_a_replay_whose_batch_somebody_cancelled_makes_no_more_jobs(ledger: Ledger) -> None:
    batch = await a_batch_of(ledger, S, S, S)
    given = await give(ledger, filter=of_batch(batch.id), rate_per_s=1.0)
    await ledger.instructions.carry_on(now())
    await ledger.cancels.cancel_batch(given.id, "default", somebody())

    at = now()
    for later in range(0, 120_000, 10_000):
        while await ledger.instructions.carry_on(Ms(at + later)) is not None:
            pass

    state = await ledger.instructions.find(given.id, "default")
    made = await shown(ledger, given.id)
    assert state is not None
    assert state.failure is not None
    assert made.counts.admitted == 1


async def test_a_retry_of_a_replay_merges_into_the_replay_and_not_into_what_it_repeats(ledger: Ledger) -> None:
    batch = await a_batch_of(ledger, F, S)
    replay, places = await replayed(ledger, filter=of_batch(batch.id))
    await end(ledger, places, F, S)
    _, places = await retried(ledger, replay)
    await end(ledger, places, S)

    first, second = await shown(ledger, batch.id), await shown(ledger, replay)
    assert first.merged is None
    assert second.merged is not None
    assert second.merged.counts.succeeded == 2


# side by side


@pytest.mark.parametrize("a_page", [1, 2, 200])
async def test_each_new_job_is_put_beside_the_one_that_it_repeats(ledger: Ledger, a_page: int) -> None:
    batch = await a_batch_of(ledger, S, S, F, F)
    replay, places = await replayed(ledger, filter=of_batch(batch.id))
    before = await pairs_of(ledger, replay)
    await end(ledger, places, S, D, S, F)

    pairs = await pairs_of(ledger, replay, a_page=a_page)

    assert before == {}
    assert {line: pair.comparison for line, pair in pairs.items()} == {
        1: Comparison.SAME,
        2: Comparison.NOW_FAILS,
        3: Comparison.NOW_SUCCEEDS,
        4: Comparison.BOTH_FAIL,
    }
    assert pairs[2].old is not None
    assert pairs[3].old is not None
    assert (pairs[2].old.failure, pairs[2].new.failure) == (None, "engine_fault")
    assert (pairs[3].old.failure, pairs[3].new.deployment, pairs[3].new.run_ms) == ("engine_fault", "d", 50)
    assert pairs[1].new.usage.output_tokens == 5


async def test_answers_that_differ_are_shown(ledger: Ledger) -> None:
    batch = await a_batch_of(ledger, S)
    replay, [(flow, place)] = await replayed(ledger, filter=of_batch(batch.id))
    term = await ledger.leadership.lead("me", lease_ms=60_000)
    assert term is not None
    attempts = await ledger.attempts.dispatch([Pick(flow, place, "d")], term=term, controls=1, now=now())
    body = json.dumps({"choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}}]}).encode()
    await ledger.settlement.settle([a_verdict(attempts[0], a_success(body=body))], now=now())

    pairs = await pairs_of(ledger, replay)

    assert pairs[1].comparison is Comparison.DIFFERENT
    assert pairs[1].new.text == "hi"


async def test_another_tenant_compares_nothing(ledger: Ledger) -> None:
    batch = await a_batch_of(ledger, S)
    replay, _ = await replayed(ledger, filter=of_batch(batch.id))

    assert await ledger.replays.differences(ReplayDiff(replay), "another") is None
    assert (await ledger.replays.select(of_batch(batch.id), (), "another", None)).jobs == ()
