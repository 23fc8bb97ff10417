"""Jobs are cancelled by their ids: what waits ends at once, what runs is told to stop, and of two ends one is recorded."""

import asyncio
from functools import partial
from typing import Any

import asyncpg
import msgspec
import pytest

from broker.bus.notices import announce_instruction
from broker.bus.runs import Rulings
from broker.bus.submitted import SubmittedJobs
from broker.client import Client
from broker.core.principal import open_principal
from broker.metrics import BrokerMetrics
from broker.ports import Ledger
from broker.roles.cancels import EARLY_MS, Cancels
from broker.roles.controls_watch import ControlsWatch
from broker.service import CancelService
from schemas import subjects
from schemas.api import CancelAnswer, JobCancel, JobCancelled, State
from schemas.catalog import Catalog
from schemas.codec import Bundle
from schemas.jetstream.client import NatsClient as Nats
from schemas.ruling import Cancel, Ruling, Suspect
from schemas.units import Ms
from tests.builders import SEAL_KEY, a_batch_id, a_report, an_entropy, an_entry, an_id, now
from tests.contract.ledger.test_cancels import SUSPICION, cancelled, settle
from tests.declared import declare_streams
from tests.holding import a_hand
from tests.settling import running, state_of
from tests.system import until

pytestmark = pytest.mark.real


# races


async def test_a_job_that_starts_meanwhile_is_marked_instead(ledger: Ledger, ledger_url: str) -> None:
    """Its row in the backlog is locked by a dispatch that has not committed when it is to be ended."""
    entry = an_entry()
    await ledger.intake.admit([entry])
    async with a_hand(ledger_url) as hand:
        await hand.hold(
            "with gone as (delete from infermq.waiting where job = $1 returning *) "
            "insert into infermq.running select job, 1, 0, 'd', 1, deadline_ms, model, lane, tenant, tried, tokens "
            "from gone",
            entry.id,
        )
        cancelling = asyncio.create_task(cancelled(ledger, entry.id))
        await until(lambda: _some(hand.waiting()), "it waits for the dispatch")
        await hand.keep()

    assert await cancelling == {entry.id: None}
    assert [one.job for one in await ledger.cancels.marked()] == [entry.id]


async def test_a_job_that_is_marked_while_its_success_is_recorded_runs_no_more(
    ledger: Ledger, ledger_url: str
) -> None:
    """Its attempt is changed after the statement began that ends it."""
    attempt = await running(ledger)
    async with a_hand(ledger_url) as hand:
        await hand.hold("update infermq.running set cancel_ms = 1 where job = $1", attempt.job)
        ending = asyncio.create_task(settle(ledger, a_report(job=attempt.job)))
        await hand.until_waiting(1)
        await hand.keep()
        await ending

    assert await state_of(ledger, attempt.job) is State.SUCCEEDED
    assert await ledger.attempts.running() == []


async def test_a_suspect_that_is_cleared_while_it_is_cancelled_waits_no_more(ledger: Ledger, ledger_url: str) -> None:
    """What waits is changed after the statement began that ends it."""
    attempt = await running(ledger)
    await settle(ledger, Suspect(attempt.job, 1, SUSPICION))
    async with a_hand(ledger_url) as hand:
        await hand.hold("update infermq.delayed set suspicion = null, not_before_ms = 0 where job = $1", attempt.job)
        cancelling = asyncio.create_task(cancelled(ledger, attempt.job))
        await hand.until_waiting(1)
        await hand.keep()

    assert await cancelling == {attempt.job: State.CANCELLED}
    assert await ledger.backlog.move_due(Ms(now() + 1000), limit=10) == []


async def _some(found: Any) -> bool:
    return bool(await found)


# told to the workers


def a_role(nc: Nats, ledger: Ledger, **changes: Any) -> Cancels:
    rulings = Rulings(nc, a_batch_id, lambda: SEAL_KEY)
    return Cancels(nc=nc, ledger=ledger.cancels, rulings=rulings, metrics=BrokerMetrics(), clock=now, **changes)


async def told(nc: Nats) -> Any:
    return await nc.subscribe(subjects.cancel_order("d"))


async def test_the_leader_names_what_is_to_be_cancelled_again_and_again(nc: Nats, ledger: Ledger) -> None:
    await declare_streams(nc)
    attempt, role, hears = await running(ledger), a_role(nc, ledger), await told(nc)
    await cancelled(ledger, attempt.job)

    for _ in range(2):
        await role.look()
        notice = msgspec.msgpack.decode((await hears.next_msg(timeout=5)).data)
        assert notice == [[attempt.job.bytes, 1]]


async def test_the_leader_rules_once_on_what_nobody_reports(nc: Nats, ledger: Ledger) -> None:
    await declare_streams(nc)
    early, late = await running(ledger), await running(ledger)
    await ledger.cancels.cancel_jobs([early.job], "default", Ms(now() - 5_000))
    await ledger.cancels.cancel_jobs([late.job], "default", now())
    role = a_role(nc, ledger)

    await role.look()
    await role.look()

    state = (await nc.jetstream().stream_info(subjects.OUTCOME)).state
    assert state.messages == 1
    message = await nc.jetstream().get_msg(subjects.OUTCOME, 1)
    rulings: Bundle[Ruling] = Bundle(Ruling)
    assert rulings.unpack(message.data or b"")[0] == [Cancel(early.job, 1)]


# asked for by its tenant


def a_service(nc: Nats, ledger: Ledger) -> CancelService:
    watch = ControlsWatch(nc, ledger.controls)
    return CancelService(
        nc=nc,
        ledger=ledger.cancels,
        orders=ledger.cancel_orders,
        batches=ledger.batches,
        submitted=SubmittedJobs(nc),
        catalog=Catalog,
        announce=watch.announce,
        tell=partial(announce_instruction, nc),
        metrics=BrokerMetrics(),
        clock=now,
        entropy=an_entropy,
    )


async def test_each_answer_says_what_the_cancel_came_to(nc: Nats, ledger: Ledger) -> None:
    await declare_streams(nc)
    waits, runs, over = an_entry(), await running(ledger), await running(ledger)
    await ledger.intake.admit([waits])
    await settle(ledger, a_report(job=over.job))
    unknown, service = an_id(), a_service(nc, ledger)
    notice, news = await told(nc), await nc.subscribe(subjects.result("default", None))

    ask = JobCancel((runs.job, waits.id, unknown, over.job))
    answer = await service.cancel_jobs(open_principal("default", "k"), ask)

    assert answer.jobs == (
        JobCancelled(runs.job, CancelAnswer.CANCELLING, State.RUNNING),
        JobCancelled(waits.id, CancelAnswer.CANCELLED, State.CANCELLED),
        JobCancelled(unknown, CancelAnswer.UNKNOWN),
        JobCancelled(over.job, CancelAnswer.ENDED, State.SUCCEEDED),
    )
    assert runs.job.bytes in (await notice.next_msg(timeout=5)).data
    assert str(waits.id).encode() in (await news.next_msg(timeout=5)).data


async def test_a_job_on_its_way_is_cancelled_when_it_comes(nc: Nats, ledger: Ledger, nats_url: str) -> None:
    await declare_streams(nc)
    async with Client.connect(nats_url, tenant="t") as client:
        job = await client.submit("m", {"messages": []})
    service, role = a_service(nc, ledger), a_role(nc, ledger)

    mine = await service.cancel_jobs(open_principal("t", "k"), JobCancel((job,)))
    others = await service.cancel_jobs(open_principal("other", "k"), JobCancel((job,)))
    await role.look()
    await ledger.intake.admit([an_entry(id=job, tenant="t")])
    await role.look()

    assert mine.jobs == (JobCancelled(job, CancelAnswer.ON_ARRIVAL, State.ACCEPTED),)
    assert others.jobs == (JobCancelled(job, CancelAnswer.UNKNOWN),)
    shown = await ledger.jobs.find(job, "t")
    assert shown is not None
    assert shown.state is State.CANCELLED
    assert await ledger.cancels.early_cancels() == []


async def test_a_job_that_never_comes_is_not_waited_for_for_ever(ledger: Ledger, ledger_url: str) -> None:
    await ledger.cancels.cancel_early([an_id()], "t", Ms(now() - EARLY_MS - 1000))
    await ledger.cancels.cancel_early([an_id()], "t", now())

    await ledger.cancels.forget_early([], made_before=Ms(now() - EARLY_MS))

    connection = await asyncpg.connect(ledger_url)
    assert await connection.fetchval("select count(*) from infermq.early_cancels") == 1
    await connection.close()
