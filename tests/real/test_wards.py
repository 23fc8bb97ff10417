"""The leader keeps suspects apart: whom it blames for a death, which groups it hands out, and what it puts back."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import msgspec
import pytest

from broker.bus.runs import Rulings
from broker.core.presence import DEAD_MS, Presence
from broker.metrics import BrokerMetrics
from broker.ports import Ledger
from broker.roles.wards import Wards
from schemas import subjects
from schemas.codec import Bundle
from schemas.jetstream import Message
from schemas.jetstream.client import NatsClient as Nats
from schemas.job import Attempt
from schemas.ruling import Convict, PutBack, Ruling, Suspect, Suspicion
from schemas.worker import BEGINNING, NOT_BEGUN, HeldExecution, held_bytes
from tests.builders import SEAL_KEY, a_batch_id, a_beat, a_catalog, a_report, a_worker, an_id, now
from tests.contract.ledger.test_suspects import dispatched, lead, run_apart, settle, suspected
from tests.declared import declare_streams
from tests.reporting import report

pytestmark = pytest.mark.real
_rulings: Bundle[Ruling] = Bundle(Ruling)
Key = tuple[UUID, int]


class Case:
    def __init__(self, nc: Nats, ledger: Ledger, wards: Wards) -> None:
        self.nc = nc
        self.ledger = ledger
        self.wards = wards
        self.presence = wards.presence
        self.sent: asyncio.Queue[Attempt] = asyncio.Queue()

    async def heard(self, message: Message) -> None:
        await self.sent.put(msgspec.msgpack.decode(message.data, type=Attempt))

    def beat(self, name: str = "w", *holds: Attempt, execution: UUID | None = None, **changes: Any) -> None:
        held = held_bytes(HeldExecution(one.job, one.number, execution or an_id()) for one in holds)
        fields = {"started_ms": 1, "held": held, **changes}
        self.presence.heard(a_beat(name, **fields), now())

    def die(self) -> None:
        """All that were there are dead."""
        self.presence.passed(DEAD_MS)

    async def blame(self, *unheld: Attempt) -> Collection[Key]:
        return await self.wards.blame("d", [(one.job, one.number) for one in unheld])

    async def rulings(self) -> list[Ruling]:
        """What has been ruled so far, and settle it."""
        js = self.nc.jetstream()
        state = (await js.stream_info(subjects.OUTCOME)).state
        if not state.messages:
            return []
        messages = [await js.get_msg(subjects.OUTCOME, seq) for seq in range(state.first_seq, state.last_seq + 1)]
        found = [
            one
            for each in messages
            if each.subject == subjects.RULING
            for one in _rulings.unpack(each.data or b"")[0]
        ]
        await js.purge_stream(subjects.OUTCOME)
        for one in found:
            await settle(self.ledger, one)
        return found

    async def look(self) -> None:
        await self.wards.look()
        await self.nc.flush()


@asynccontextmanager
async def a_case(nc: Nats, ledger: Ledger, **changes: Any) -> AsyncIterator[Case]:
    await declare_streams(nc)
    catalog = a_catalog()
    wards = Wards(
        nc=nc,
        presence=Presence(),
        suspects=ledger.suspects,
        rulings=Rulings(nc, a_batch_id, lambda: SEAL_KEY),
        catalog=lambda: catalog,
        metrics=BrokerMetrics(),
        clock=now,
        new_group=an_id,
        term=await lead(ledger),
        **{"rest_s": 0.0, "lost_s": 0.0, **changes},
    )
    case = Case(nc, ledger, wards)
    await nc.subscribe(subjects.ward(a_worker()), cb=case.heard)
    yield case


async def test_what_a_dead_worker_may_have_run_is_suspected_and_goes_to_nobody(nc: Nats, ledger: Ledger) -> None:
    async with a_case(nc, ledger) as case:
        named, unnamed = await dispatched(ledger), await dispatched(ledger)
        case.beat("w", named)
        case.die()

        assert await case.blame(named, unnamed) == ()

        ruled = await case.rulings()
        assert {one.job for one in ruled if isinstance(one, Suspect)} == {named.job, unnamed.job}
        assert len({one.suspicion.group for one in ruled if isinstance(one, Suspect)}) == 1
        assert {one.job for one in await ledger.suspects.waiting()} == {named.job, unnamed.job}


async def test_without_a_death_nobody_is_suspected(nc: Nats, ledger: Ledger) -> None:
    """What a cut connection or a restart of NATS has delivered to nobody is delivered again."""
    async with a_case(nc, ledger) as case:
        attempt = await dispatched(ledger)
        case.beat("w")
        case.beat("other", deployment="e")
        case.presence.said_goodbye(a_worker())
        case.die()

        assert list(await case.blame(attempt)) == [(attempt.job, 1)]
        assert await case.rulings() == []


async def test_a_death_is_blamed_once_and_what_turns_up_later_is_suspected_too(nc: Nats, ledger: Ledger) -> None:
    async with a_case(nc, ledger) as case:
        suspicion = Suspicion(an_id(), 0)
        [ran] = await run_apart(ledger, suspicion, await suspected(ledger, suspicion))
        case.beat("w", ran, execution=BEGINNING)
        case.die()

        await case.blame()
        [first] = await case.rulings()
        [again] = await run_apart(ledger, suspicion, ran)
        assert list(await case.blame(other := await dispatched(ledger))) == [(other.job, 1)]

        assert isinstance(first, Suspect)
        assert first.suspicion.deaths_alone == 1
        assert await case.rulings() == []
        assert (again.number, await ledger.suspects.waiting()) == (3, [])


async def test_two_deaths_alone_convict(nc: Nats, ledger: Ledger) -> None:
    async with a_case(nc, ledger) as case:
        suspicion = Suspicion(an_id(), 1)
        [ran] = await run_apart(ledger, suspicion, await suspected(ledger, suspicion))
        case.beat("w", ran, execution=BEGINNING)
        case.die()

        await case.blame()

        assert await case.rulings() == [Convict(ran.job, 2, 2)]


async def test_a_group_that_waited_at_a_dead_worker_is_not_blamed(nc: Nats, ledger: Ledger) -> None:
    async with a_case(nc, ledger) as case:
        suspicion = Suspicion(an_id(), 1)
        [waits] = await run_apart(ledger, suspicion, await suspected(ledger, suspicion))
        case.beat("w", waits, execution=NOT_BEGUN)
        case.die()

        await case.blame()

        assert await case.rulings() == [Suspect(waits.job, 2, suspicion)]


async def test_one_that_has_reported_is_not_blamed(nc: Nats, ledger: Ledger) -> None:
    async with a_case(nc, ledger) as case:
        suspicion = Suspicion(an_id(), 1)
        both = [await suspected(ledger, suspicion) for _ in range(2)]
        over, ran = await run_apart(ledger, suspicion, *both)
        await report(nc, a_report(job=over.job, attempt=over.number))
        case.beat("w", over, ran)
        case.die()

        await case.blame()

        [convict] = await case.rulings()
        assert isinstance(convict, Convict)
        assert convict.job == ran.job


async def test_a_group_is_handed_to_a_worker_that_has_rested(nc: Nats, ledger: Ledger) -> None:
    async with a_case(nc, ledger, rest_s=0.05) as case:
        suspicion = Suspicion(an_id())
        both = [await suspected(ledger, suspicion) for _ in range(2)]
        case.beat()

        await case.look()
        assert case.sent.empty()
        await asyncio.sleep(0.1)  # the rest
        await case.look()

        sent = [await asyncio.wait_for(case.sent.get(), 5) for _ in both]
        assert {one.job for one in sent} == {one.job for one in both}
        assert {(one.number, one.group) for one in sent} == {(2, suspicion.group)}
        assert case.wards.metrics.registry.get_sample_value("infermq_suspects") == 2


async def test_no_group_is_handed_out_before_a_death_is_judged(nc: Nats, ledger: Ledger) -> None:
    async with a_case(nc, ledger) as case:
        await suspected(ledger, Suspicion(an_id()))
        case.beat("gone")
        case.die()
        case.beat()

        await case.look()
        assert case.sent.empty()
        await case.blame()
        await case.look()

        assert (await asyncio.wait_for(case.sent.get(), 5)).number == 2


@pytest.mark.parametrize("changes", [{"draining": True}, {"slots": 0}])
async def test_a_worker_that_takes_nothing_gets_no_group(nc: Nats, ledger: Ledger, changes: dict[str, Any]) -> None:
    async with a_case(nc, ledger) as case:
        await suspected(ledger, Suspicion(an_id()))
        case.beat("w", **changes)

        await case.look()

        assert len(await ledger.suspects.waiting()) == 1


async def test_a_deployment_that_a_daily_cap_holds_gets_no_group(nc: Nats, ledger: Ledger) -> None:
    async with a_case(nc, ledger, held=lambda: {"d"}) as case:
        await suspected(ledger, Suspicion(an_id()))
        case.beat("w")

        await case.look()

        assert len(await ledger.suspects.waiting()) == 1


async def test_a_worker_that_runs_a_group_gets_no_other(nc: Nats, ledger: Ledger) -> None:
    async with a_case(nc, ledger, lost_s=60.0) as case:
        first, second = Suspicion(an_id()), Suspicion(an_id())
        await suspected(ledger, first)
        await suspected(ledger, second)
        case.beat()

        await case.look()
        await case.look()

        assert [one.suspicion for one in await ledger.suspects.running()] == [first]
        assert [one.suspicion for one in await ledger.suspects.waiting()] == [second]


async def test_a_suspect_that_no_beat_names_is_put_back_and_one_that_is_named_is_not(
    nc: Nats, ledger: Ledger
) -> None:
    async with a_case(nc, ledger) as case:
        suspicion = Suspicion(an_id())
        both = [await suspected(ledger, suspicion) for _ in range(2)]
        named, unnamed = await run_apart(ledger, suspicion, *both)
        case.beat("w", named, execution=NOT_BEGUN)

        await case.look()

        assert await case.rulings() == [PutBack(unnamed.job, 2)]
        assert [one.suspicion for one in await ledger.suspects.waiting()] == [suspicion]


async def test_a_suspect_whose_report_waits_to_be_settled_is_not_put_back(nc: Nats, ledger: Ledger) -> None:
    async with a_case(nc, ledger) as case:
        suspicion = Suspicion(an_id())
        [ran] = await run_apart(ledger, suspicion, await suspected(ledger, suspicion))
        await report(nc, a_report(job=ran.job, attempt=ran.number))
        case.beat()

        await case.look()

        assert await case.rulings() == []


async def test_a_worker_of_the_same_name_elsewhere_is_another(nc: Nats, ledger: Ledger) -> None:
    """Neither its death nor what it claims has to do with what this deployment's worker of that name runs apart."""
    async with a_case(nc, ledger) as case:
        attempt = await dispatched(ledger)
        case.beat("w", attempt)
        case.die()
        await case.blame(attempt)
        await case.rulings()
        case.beat("w", attempt, deployment="e")
        case.beat("w", attempt, key="k", draining=True)
        await case.look()

        assert [one.job for one in await ledger.suspects.waiting()] == [attempt.job]


async def test_a_worker_that_was_only_cut_off_clears_those_it_held(nc: Nats, ledger: Ledger) -> None:
    async with a_case(nc, ledger) as case:
        attempt = await dispatched(ledger)
        case.beat("w", attempt)
        case.die()
        await case.blame(attempt)
        assert len(await case.rulings()) == 1

        case.beat("w", attempt)
        await case.look()

        assert await ledger.suspects.waiting() == []
        assert [place.job for _, place in await ledger.backlog.move_due(now(), limit=9)] == [attempt.job]
