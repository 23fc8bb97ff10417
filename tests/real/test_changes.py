"""Jobs are changed while they wait: alone, or all of a batch in pages; what runs or has ended stays as it is."""

import asyncio

import pytest

from broker.core.records import Audited
from broker.ports import Ledger
from broker.service import ChangeService
from schemas.api import State
from schemas.changes import Change, JobChange
from schemas.jetstream.client import NatsClient as Nats
from tests.builders import an_entropy, an_entry, an_id, now
from tests.contract.ledger.test_changes import ME, nothing, terms, terms_of
from tests.holding import a_hand
from tests.settling import dispatched

pytestmark = pytest.mark.real


@pytest.fixture
async def service(nc: Nats, ledger: Ledger) -> ChangeService:
    return ChangeService(
        nc=nc, ledger=ledger.changes, batches=ledger.batches, tell=nothing, clock=now, entropy=an_entropy
    )


async def test_of_a_change_and_a_dispatch_at_once_one_wins(ledger: Ledger, ledger_url: str) -> None:
    """The dispatch has the job's row first: the change sees it run."""
    entry = an_entry()
    await ledger.intake.admit([entry])
    by = Audited(an_id(), now(), "default", "k")
    async with a_hand(ledger_url) as hand:
        await hand.hold("delete from infermq.waiting where job = $1", entry.id)
        changing = asyncio.create_task(ledger.changes.change_job(entry.id, "default", Change(priority=5), by))
        await hand.until_waiting(1)
        await hand.do(
            "insert into infermq.running (job, attempt, uncounted, deployment, dispatched_ms, deadline_ms, model, lane,"
            " tenant, tokens) values ($1, 1, 0, 'd', 0, $2, 'm', 'bulk', 'default', 1)",
            entry.id,
            entry.deadline_ms,
        )
        await hand.keep()
        assert await changing is State.RUNNING

    assert await terms_of(ledger, entry.id) == terms(entry)


async def test_a_job_that_is_changed_to_what_it_is_starts_once(
    ledger: Ledger, ledger_url: str, service: ChangeService
) -> None:
    """The change comes before a dispatch that had begun."""
    entry = an_entry()
    await ledger.intake.admit([entry])

    async with a_hand(ledger_url) as hand:
        await hand.hold("select from infermq.waiting where job = $1 for update", entry.id)
        same = Change(lane=entry.lane, deadline_ms=entry.deadline_ms, priority=entry.priority)
        changing = asyncio.create_task(service.change_job(ME, JobChange(entry.id, same)))
        await hand.until_waiting(1)
        starting = asyncio.create_task(dispatched(ledger, entry))
        await hand.until_waiting(2)
        await hand.let_go()
        changed, started = await changing, await starting

    assert changed.before == changed.after
    assert len(started) == 1
    assert await ledger.backlog.page(entry.flow, after=None, limit=10) == []
