"""A batch is cancelled at once, before any row of a job is touched; its jobs are ended afterwards, a page at a time."""

import asyncio
from functools import partial
from typing import Any

import msgspec
import pytest

from broker.bus.results import hearing_results
from broker.core.principal import open_principal
from broker.core.records import Requeue
from broker.core.settle import decide
from broker.metrics import BrokerMetrics
from broker.ports import Ledger
from broker.roles.batch_cancels import BatchCancels
from broker.service import BatchService
from broker.service.refusal import Refusal
from schemas import subjects
from schemas.api import BatchCreate, BatchRef, BatchSeal, BatchStatus, State
from schemas.jetstream.client import NatsClient as Nats
from schemas.job import Attempt, Lane
from schemas.outcome import Cancelled, Released
from schemas.units import Ms
from tests.builders import a_report, an_entry, an_id, now
from tests.contract.ledger.test_batch_cancels import cancel, filled, shown, started
from tests.contract.ledger.test_cancels import settle
from tests.declared import declare_streams
from tests.holding import a_hand
from tests.real.test_cancels import a_service, told
from tests.settling import PRICES, a_batch, dispatched, running, state_of
from tests.system import until

pytestmark = pytest.mark.real


async def a_role(nc: Nats, ledger: Ledger, **changes: Any) -> BatchCancels:
    """Of a leader that knows the controls as they are now."""
    controls = await ledger.controls.read()
    fields: dict[str, Any] = {"is_busy": lambda: False, "metrics": BrokerMetrics(), "clock": now, **changes}
    return BatchCancels(nc=nc, ledger=ledger.cancels, controls=lambda: controls, **fields)


async def ended(nc: Nats, ledger: Ledger, *, page: int = 100) -> int:
    """Let the leader end all there is to end. Return how many pages it took."""
    role, pages = await a_role(nc, ledger, page=page), 0
    while await role.look():
        pages += 1
    return pages


async def test_its_rows_are_ended_in_pages_with_results_in_order(nc: Nats, ledger: Ledger) -> None:
    entries = await filled(ledger, 25)
    await cancel(ledger, entries[0].batch)
    news = await nc.subscribe(subjects.result("default", entries[0].batch))

    assert await ended(nc, ledger, page=10) == 3

    state = await shown(ledger, entries[0].batch)
    assert (state.status, state.counts.cancelled) == (BatchStatus.CANCELLED, 25)
    assert state.id == entries[0].batch
    page = await ledger.batches.results(state.id, "default", None, 100)
    assert page is not None
    assert {result.job for result in page.results} == {entry.id for entry in entries}
    assert (page.cursor, page.completed) == ("25", True)
    heard = [msgspec.json.decode((await news.next_msg(timeout=5)).data) for _ in range(3)]
    assert sum(map(len, heard)) == 25
    assert (await ledger.controls.read()).cancelling == frozenset()


async def test_what_waits_for_its_time_is_ended_too(nc: Nats, ledger: Ledger) -> None:
    batch = (await a_batch(ledger)).id
    attempt = await running(ledger, batch=batch)
    later = Requeue(Ms(now() + 60_000), counted=True)
    [verdict] = decide([a_report(Released(), job=attempt.job)], {}, prices=PRICES, now=now(), unit=0.5)
    await ledger.settlement.settle([msgspec.structs.replace(verdict, transition=later)], now=now())

    await cancel(ledger, batch)
    await ended(nc, ledger)

    assert await state_of(ledger, attempt.job) is State.CANCELLED


async def test_what_runs_of_it_is_told_to_stop_and_nothing_else(nc: Nats, ledger: Ledger) -> None:
    batch = (await a_batch(ledger)).id
    mine, other = await running(ledger, batch=batch), await running(ledger)
    service, notices = a_service(nc, ledger), await told(nc)

    await service.cancel_batch(open_principal("default", "k"), BatchRef(batch))

    assert msgspec.msgpack.decode((await notices.next_msg(timeout=5)).data) == [[mine.job.bytes, 1]]
    assert [one.job for one in await ledger.cancels.marked()] == [mine.job]
    await settle(ledger, a_report(Cancelled(), job=mine.job), a_report(job=other.job))
    assert (await shown(ledger, batch)).status is BatchStatus.CANCELLED


async def test_what_was_being_started_when_it_was_cancelled_is_told_to_stop_soon(nc: Nats, ledger: Ledger) -> None:
    """A dispatch that began before the cancel may commit after it."""
    [entry, *_] = await filled(ledger, 1)
    other = await running(ledger)
    await cancel(ledger, entry.batch)
    [late] = await started(ledger, entry, controls=(await ledger.controls.read()).version)

    await ended(nc, ledger)

    assert [one.job for one in await ledger.cancels.marked()] == [late.job]
    assert await state_of(ledger, other.job) is State.RUNNING


async def test_a_job_that_comes_while_it_is_cancelled_waits_for_no_page(ledger: Ledger, ledger_url: str) -> None:
    """Whichever has the batch's row first: the job ends when it comes, or it is found by the pages."""
    batch = (await a_batch(ledger)).id
    late = an_entry(batch=batch)
    async with a_hand(ledger_url) as hand:
        await hand.hold(
            "update infermq.batches set cancel_ms = 1, sealed_ms = 1, jobs = 0, completed_ms = 1 where id = $1", batch
        )
        coming = asyncio.create_task(ledger.intake.admit([late]))
        await until(lambda: _some(hand.waiting()), "it waits for the batch")
        await hand.keep()

    assert [one.job for one in (await coming).cancelled] == [late.id]


async def _some(found: Any) -> bool:
    return bool(await found)


async def test_a_batch_ends_without_lost_jobs_once_nothing_older_is_on_its_way(nc: Nats, ledger: Ledger) -> None:
    await declare_streams(nc)
    [entry] = await filled(ledger, 1)
    assert entry.batch is not None
    await ledger.batches.seal(entry.batch, "default", 2, now())
    await nc.jetstream().publish(subjects.submit(subjects.Source(Lane.BULK, "m", "default", "k")), b"on its way")
    await cancel(ledger, entry.batch)
    soon = await a_role(nc, ledger)
    late = await a_role(nc, ledger, slack_ms=Ms(0), clock=lambda: Ms(now() + 1000))

    assert [await soon.look(), await soon.look(), await late.look()] == [1, 0, 0]
    before = await shown(ledger, entry.batch)
    await nc.jetstream().purge_stream(subjects.SUBMIT)
    await late.look()

    after = await shown(ledger, entry.batch)
    assert (before.status, after.status) == (BatchStatus.CANCELLING, BatchStatus.CANCELLED)
    assert after.without_success() == 2


async def test_nobody_cancels_another_tenants_batch(nc: Nats, ledger: Ledger) -> None:
    batch = (await a_batch(ledger)).id

    with pytest.raises(Refusal, match="there is no batch"):
        await a_service(nc, ledger).cancel_batch(open_principal("another", "k"), BatchRef(batch))

    assert (await shown(ledger, batch)).status is BatchStatus.OPEN


async def test_a_producer_that_goes_on_may_seal_it_with_its_own_number(nc: Nats, ledger: Ledger) -> None:
    await declare_streams(nc)
    batches = BatchService(
        ledger=ledger.batches, webhooks=ledger.webhooks, clock=now, hearing=partial(hearing_results, nc)
    )
    principal = open_principal("default", "k")
    batch = (await batches.create(principal, BatchCreate(id=an_id()))).id
    await cancel(ledger, batch)

    sealed = await batches.seal(principal, BatchSeal(batch, 20_000))

    assert (sealed.jobs, sealed.status) == (0, BatchStatus.CANCELLED)


async def test_who_cancelled_it_is_kept(nc: Nats, ledger: Ledger) -> None:
    batch = (await a_batch(ledger)).id

    await a_service(nc, ledger).cancel_batch(open_principal("default", "key-7"), BatchRef(batch))

    [entry] = await ledger.audit.page("default", 10, None)
    assert (entry.action, entry.key, msgspec.json.decode(entry.target)) == (
        "cancel",
        "key-7",
        {"kind": "batch", "name": str(batch)},
    )


async def test_pages_race_with_dispatch_settlement_and_each_other(nc: Nats, ledger: Ledger) -> None:
    entries = await filled(ledger, 300)
    attempts = await dispatched(ledger, *entries[:100])
    await cancel(ledger, entries[0].batch)

    async def report(some: list[Attempt]) -> None:
        for one in some:
            await settle(ledger, a_report(Released(), job=one.job))

    await asyncio.gather(
        ended(nc, ledger, page=20),
        ended(nc, ledger, page=30),
        report(attempts[:50]),
        report(attempts[50:]),
    )
    await ended(nc, ledger)

    state = await shown(ledger, entries[0].batch)
    assert (state.status, state.counts.cancelled) == (BatchStatus.CANCELLED, 300)


async def test_pages_leave_postgres_to_others_while_jobs_are_started(nc: Nats, ledger: Ledger) -> None:
    busy, idle = [await a_role(nc, ledger, is_busy=lambda is_busy=is_busy: is_busy) for is_busy in (True, False)]

    assert busy.rest_s(0.1) >= 0.9
    assert idle.rest_s(0.1) < 0.1
