"""Jobs are cancelled by what they have in common: nothing that is named starts any more, and an instruction ends it."""

import asyncio

import pytest

from broker.core.controls import Controls
from broker.core.principal import Principal, open_principal
from broker.ports import Ledger
from broker.roles.backlog import BacklogReader
from broker.service.refusal import Refusal
from schemas import subjects
from schemas.accounts import Role
from schemas.api import State
from schemas.cancel import CancelChoice, CancelMany
from schemas.jetstream.client import NatsClient as Nats
from schemas.units import Ms
from tests.builders import an_entry, an_id, now
from tests.contract.ledger.test_batch_cancels import cancel, filled
from tests.holding import a_hand
from tests.real.test_cancels import a_service

pytestmark = pytest.mark.real


def a_producer(tenant: str = "default") -> Principal:
    return Principal(tenant=tenant, key="k", role=Role.PRODUCER)


async def test_only_operators_may_name_another_tenant(nc: Nats, ledger: Ledger) -> None:
    service = a_service(nc, ledger)
    ask = CancelMany(id=an_id(), tenant="other")

    with pytest.raises(Refusal):
        await service.cancel_many(a_producer(), ask)
    with pytest.raises(Refusal):
        await service.count(a_producer(), CancelChoice(tenant="other"))
    await service.cancel_many(open_principal("default", "k"), ask)

    assert [order.tenant for order in (await ledger.controls.read()).orders] == ["other"]


async def test_jobs_that_come_after_the_order_are_not_meant(nc: Nats, ledger: Ledger) -> None:
    service, before = a_service(nc, ledger), an_entry(id=an_id())
    await ledger.intake.admit([before])
    told = await nc.subscribe(subjects.CTL_INSTRUCTIONS)

    given = await service.cancel_many(a_producer(), CancelMany(id=an_id(), until_ms=Ms(now() + 10**9)))

    await told.next_msg(timeout=5)
    [order] = (await ledger.controls.read()).orders
    assert order.until_ms is not None
    assert order.until_ms <= now()
    assert given.ended_ms is None


@pytest.mark.parametrize("state", [State.SUCCEEDED, State.CANCELLED, State.ACCEPTED])
async def test_only_what_waits_or_runs_can_be_cancelled(nc: Nats, ledger: Ledger, state: State) -> None:
    with pytest.raises(Refusal, match="only what is queued or running"):
        await a_service(nc, ledger).count(a_producer(), CancelChoice(states=(state,)))


async def test_rounds_go_on_while_the_backlog_is_read_past_what_may_not_start(
    ledger: Ledger, ledger_url: str
) -> None:
    [stopped], free = await filled(ledger, 1), an_entry()
    await ledger.intake.admit([free])
    await cancel(ledger, stopped.batch)
    controls, woken = await ledger.controls.read(), asyncio.Event()
    reader = BacklogReader(ledger.backlog)
    reader.changed = woken.set
    await reader.restart()
    async with a_hand(ledger_url) as hand:
        await hand.hold("lock table infermq.waiting")

        async with asyncio.timeout(5):
            await reader.read(now(), controls)

        assert reader.backlog.ready() == {}
        assert not reader.backlog.wants_more()
        await hand.let_go()
    async with asyncio.timeout(5):
        await woken.wait()
    await reader.read(now(), controls)
    assert [job.place.job for job in reader.backlog.ready()[free.flow]] == [free.id]
    reader.close()


async def begun_to_read(reader: BacklogReader, controls: Controls, ledger_url: str) -> None:
    """Let a round begin to read a page that takes long, and wait until that has come."""
    woken = asyncio.Event()
    reader.changed = woken.set
    await reader.restart()
    async with a_hand(ledger_url) as hand:
        await hand.hold("lock table infermq.waiting")
        await reader.read(now(), controls)
        await hand.let_go()
    await woken.wait()


async def test_what_was_read_of_a_flow_that_is_gone_is_not_taken_for_what_comes_later(
    ledger: Ledger, ledger_url: str
) -> None:
    [stopped], gone, later = await filled(ledger, 1), an_entry(model="n"), an_entry(model="n")
    await ledger.intake.admit([gone])
    await cancel(ledger, stopped.batch)
    controls, reader = await ledger.controls.read(), BacklogReader(ledger.backlog)
    await begun_to_read(reader, controls, ledger_url)
    await ledger.cancels.cancel_jobs([gone.id], gone.tenant, now())
    await reader.restart()
    await reader.read(now(), controls)

    await ledger.intake.admit([later])
    await reader.restart(is_urgent=True)
    async with asyncio.timeout(5):
        while not (found := reader.backlog.ready().get(later.flow)):
            await reader.read(now(), controls)
    reader.close()

    assert [job.place.job for job in found] == [later.id]


async def test_a_flow_that_took_long_to_be_read_past_what_may_not_start_rests(
    ledger: Ledger, ledger_url: str
) -> None:
    [stopped], late = await filled(ledger, 1), an_entry()
    await cancel(ledger, stopped.batch)
    controls, reader = await ledger.controls.read(), BacklogReader(ledger.backlog)
    await begun_to_read(reader, controls, ledger_url)
    await reader.read(now(), controls)
    await ledger.intake.admit([late])

    found = []
    for is_urgent in (False, True):
        await reader.restart(is_urgent=is_urgent)
        for _ in range(2):  # the first begins, and waits a moment for it
            await reader.read(now(), controls)
            await asyncio.sleep(0.1)
        found.append([job.place.job for job in reader.backlog.ready().get(late.flow, ())])
    reader.close()

    assert found == [[], [late.id]]
