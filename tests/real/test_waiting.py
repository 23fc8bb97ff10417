"""Requests that wait for slots: relays and a worker, over a real NATS; the test is the door."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from uuid import UUID

import msgspec
import pytest

from broker.bus.runs import Rulings, Runs
from broker.core.controls import Controls
from broker.core.line import Depth
from broker.core.records import Entry
from broker.core.relay import Answered, Erred, RequestState, Streamed
from broker.core.reserve import NoRoom, Placement
from broker.ports import Ledger
from broker.roles.daily_spend import DailySpend
from broker.roles.relay import DEPTH, Relay
from broker.roles.reserves import Reserves
from broker.roles.tasks import Tasks
from broker.roles.waiting import Waiting
from schemas import subjects
from schemas.catalog import Catalog, Retry
from schemas.control import Pause, PauseKind
from schemas.jetstream import Message, call
from schemas.jetstream.client import NatsClient as Nats
from schemas.job import Lane
from schemas.outcome import Report, Succeeded
from schemas.units import Ms
from schemas.worker import WantedNotice, WorkerBeat
from tests.builders import SEAL_KEY, a_batch_id, a_beat, a_catalog, a_chat, an_entropy, an_entry, an_id, now
from tests.real.test_worker import HANG, Bench, Pausing, a_pool
from workers.ports import EngineRequest, Step

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]
STEP = {"decode_tokens_per_s": 50.0, "failures": [HANG]}
"""A request of 8 tokens takes about 160 ms."""


class Counting(Pausing):
    """An engine that counts what is in it."""

    inside = 0
    most = 0
    began: list[tuple[float, bool]]
    """When each request began, and whether it was dispatched."""

    async def run(self, request: EngineRequest) -> AsyncGenerator[Step, None]:
        self.began = [*getattr(self, "began", []), (time.monotonic(), b"bulk" in request.body)]
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            async for step in super().run(request):
                yield step
        finally:
            self.inside -= 1


class Heard:
    """A caller, and what it was told."""

    def __init__(self, job: UUID) -> None:
        self.job = job
        self.at = time.monotonic()
        self.alives = 0
        self.last: asyncio.Future[Answered | Erred] = asyncio.get_running_loop().create_future()
        self.took_s = 0.0

    async def start(self) -> None: ...

    async def piece(self, piece: Streamed) -> None: ...

    async def alive(self) -> None:
        self.alives += 1

    async def end(self, end: Answered | Erred) -> None:
        self.took_s = time.monotonic() - self.at
        self.last.set_result(end)

    async def code(self) -> str:
        """The code of its error, or `answered`."""
        async with asyncio.timeout(20):
            end = await self.last
        return end.problem.code if isinstance(end, Erred) else "answered"


class House:
    """Relays and the worker whose slots they share."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.catalog: Catalog = a_catalog()
        self.relays: list[Relay] = []
        self.serving: list[asyncio.Task[None]] = []
        self.paused = Controls()
        self.pulled: Collection[str] = {"d"}
        self.beats: Callable[[], list[WorkerBeat]] = lambda: [bench.worker.beat()]

    @property
    def engine(self) -> Counting:
        assert isinstance(self.bench.engine, Counting)
        return self.bench.engine

    async def ask(self, text: str = "x", *, relay: int = 0, tenant: str = "default", timeout_s: float = 60) -> Heard:
        request = a_request(text, tenant=tenant, timeout_s=timeout_s)
        heard = Heard(request.id)
        await self.relays[relay].ask(request, heard)
        return heard

    async def reports(self, count: int) -> list[Report]:
        return [await self.bench.report() for _ in range(count)]


def a_request(text: str, *, tenant: str = "default", timeout_s: float = 60) -> Entry:
    body = json.dumps({"messages": [{"role": "user", "content": text}], "max_tokens": 8, "n": 1}).encode()
    return an_entry(
        id=an_id(),
        lane=Lane.INTERACTIVE,
        tenant=tenant,
        body=body,
        admitted_ms=now(),
        deadline_ms=Ms(now() + int(timeout_s * 1000)),
    )


@asynccontextmanager
async def a_house(
    nc: Nats,
    ledger: Ledger,
    *,
    relays: int = 1,
    slots: int = 8,
    reserve: int = 1,
    stale: bool = False,
    depth: Depth = DEPTH,
    finish_s: float = 0.05,
) -> AsyncIterator[House]:
    """`stale`: beats say for ever that the worker is idle."""
    async with a_pool(nc, slots=slots, reserve=reserve, options=STEP, kind=Counting) as bench:
        house = House(bench)
        if stale:
            first = bench.worker.beat()
            house.beats = lambda: [first]
        for number in range(relays):
            daily_spend = DailySpend(ledger.spend, now)
            reserves = Reserves(
                catalog=lambda: house.catalog,
                beats=lambda: house.beats(),  # noqa: PLW0108 - the test replaces it
                daily_spend=daily_spend,
                clock=now,
                entropy=an_entropy,
                controls=lambda: house.paused,
                pulled=lambda: house.pulled,
            )
            house.relays.append(
                Relay(
                    nc,
                    name=f"b{number}",
                    reserves=reserves,
                    rulings=Rulings(nc, a_batch_id, lambda: SEAL_KEY),
                    seal_key=lambda: SEAL_KEY,
                    clock=now,
                    depth=depth,
                    finish_s=finish_s,
                )
            )
        serving = house.serving = [asyncio.create_task(served(relay)) for relay in house.relays]
        await nc.flush()
        await asyncio.sleep(0)
        await nc.flush()
        try:
            yield house
        finally:
            for one in serving:
                one.cancel()
            await asyncio.gather(*serving, return_exceptions=True)


async def served(relay: Relay) -> None:
    async with relay.open():
        await relay.watch()


async def test_workers_hear_at_once_that_a_request_waits_no_longer_which_has_a_slot_of_another_deployment(
    nc: Nats,
) -> None:
    heard: list[tuple[str, WantedNotice]] = []

    async def hear(message: Message) -> None:
        heard.append((message.subject, decoded.decode(message.data)))

    decoded = msgspec.msgpack.Decoder(WantedNotice)
    swift, steady = subjects.wanted_order("swift"), subjects.wanted_order("steady")
    for subject in (swift, steady):
        await nc.subscribe(subject, cb=hear)
    tasks = Tasks()
    waiting = Waiting(nc, relay="b0", depth=DEPTH, clock=now, tasks=tasks, waited=lambda *_: None)
    state = RequestState(
        a_request("x"),
        Placement("swift", "t"),
        relay="b0",
        place=lambda *_: NoRoom([]),
        policy=lambda _: Retry(),
        now=now(),
        waits=True,
    )
    waiting.enter(state, ("swift", "steady"))
    await tasks.finish(5)

    assert waiting.take("swift") == state.entry.id
    await tasks.finish(5)
    await nc.flush()
    await asyncio.sleep(0)

    assert sorted(heard[:2]) == [(steady, ("b0", 1)), (swift, ("b0", 1))]
    assert heard[2:] == [(steady, ("b0", 0))]


@pytest.mark.parametrize("stale", [False, True])
async def test_fourteen_requests_at_once_on_eight_slots_are_all_answered(
    nc: Nats, ledger: Ledger, *, stale: bool
) -> None:
    async with a_house(nc, ledger, slots=7, reserve=1, stale=stale) as house:
        asked = [await house.ask() for _ in range(14)]

        assert [await one.code() for one in asked] == ["answered"] * 14

        assert house.engine.most == 8
        assert max(one.took_s for one in asked) < 2.0
        reports = await house.reports(14)
        assert all(isinstance(one.outcome, Succeeded) and one.attempt == 1 for one in reports)


@pytest.mark.parametrize("stale", [False, True])
async def test_three_brokers_share_the_slots_without_overfilling_them(
    nc: Nats, ledger: Ledger, *, stale: bool
) -> None:
    async with a_house(nc, ledger, relays=3, slots=4, reserve=1, stale=stale) as house:
        asked = [await house.ask(relay=number % 3) for number in range(60)]

        assert [await one.code() for one in asked] == ["answered"] * 60

        assert house.engine.most == 5
        reports = await house.reports(60)
        assert all(isinstance(one.outcome, Succeeded) and one.attempt == 1 for one in reports)
        ends = [max(one.took_s for one in asked[relay::3]) for relay in range(3)]
        assert max(ends) - min(ends) < 1.0


async def test_a_request_waits_for_an_offer_while_nobody_pulls_its_deployment_out_of_the_stream(
    nc: Nats, ledger: Ledger
) -> None:
    """The stream drops without a word what no consumer wants."""
    async with a_house(nc, ledger, slots=1, reserve=0) as house:
        await call(nc, f"CONSUMER.DELETE.{subjects.NOW}.d")
        house.pulled = ()

        asked = [await house.ask() for _ in range(3)]

        assert [await one.code() for one in asked] == ["answered"] * 3
        assert max(one.took_s for one in asked) < 5.0


async def test_while_requests_wait_no_job_begins_in_a_slot_that_comes_free(nc: Nats, ledger: Ledger) -> None:
    async with a_house(nc, ledger, slots=8, reserve=1) as house:
        assert await Runs(nc).publish([a_chat(f"bulk {number}") for number in range(400)])
        await house.bench.until(lambda: house.engine.inside == 8)

        asked = [await house.ask() for _ in range(20)]
        await house.bench.until(lambda: house.bench.worker.beat().wanted > 0)
        since = time.monotonic()
        assert [await one.code() for one in asked] == ["answered"] * 20

        of_requests = sorted(at for at, is_bulk in house.engine.began if not is_bulk)
        enough = of_requests[-4]
        """From then on fewer may wait than slots are free."""
        assert [at for at, is_bulk in house.engine.began if is_bulk and since < at < enough] == []
        await house.bench.until(lambda: house.engine.began[-1][1])
        assert house.engine.most == 9


async def test_a_request_that_waits_is_told_that_it_lives_and_ends_at_its_deadline(nc: Nats, ledger: Ledger) -> None:
    async with a_house(nc, ledger, slots=1, reserve=0) as house:
        await house.ask("hang")
        await house.bench.until(lambda: house.engine.inside == 1)

        waits = await house.ask(timeout_s=1.5)

        assert await waits.code() == "timed_out"
        assert waits.alives == 1
        assert not len(house.relays[0].waiting.line)


async def held(house: House, count: int) -> list[Heard]:
    """Requests that take all slots, and end only when they are cancelled."""
    asked = [await house.ask("hang") for _ in range(count)]
    await house.bench.until(lambda: house.engine.inside == count)
    return asked


async def test_a_request_takes_no_slot_for_which_others_wait(nc: Nats, ledger: Ledger) -> None:
    async with a_house(nc, ledger, slots=1, reserve=0) as house:
        [first] = await held(house, 1)
        waits = await house.ask("hang")
        house.beats = lambda: [a_beat(slots=2, reserve=0)]  # a slot seems to be free

        late = await house.ask()

        assert len(house.relays[0].waiting.line) == 2
        await cancel(house, first)
        await house.bench.until(lambda: len(house.relays[0].waiting.line) == 1)
        assert late.job in house.relays[0].waiting.line
        await cancel(house, waits)
        assert await late.code() == "answered"


async def cancel(house: House, *asked: Heard) -> None:
    for one in asked:
        await house.relays[0].caller_left(one.job)


async def test_tenants_take_turns(nc: Nats, ledger: Ledger) -> None:
    async with a_house(nc, ledger, slots=1, reserve=0) as house:
        first = await house.ask()
        many = [await house.ask(tenant="many") for _ in range(10)]

        one = await house.ask(tenant="one")

        assert await one.code() == "answered"
        assert sum(other.last.done() for other in many) <= 1
        await cancel(house, first, *many)


async def test_a_request_beyond_the_depth_is_told_how_many_wait_and_when_to_come_back(
    nc: Nats, ledger: Ledger
) -> None:
    async with a_house(nc, ledger, slots=1, reserve=0, depth=Depth(2, 1_000_000)) as house:
        await held(house, 1)
        waiting = [await house.ask() for _ in range(2)]

        refused = await house.ask()

        end = await refused.last
        assert isinstance(end, Erred)
        assert (end.problem.code, end.problem.retry_after_ms) == ("busy", 5_000)
        assert "2 requests wait" in end.problem.message
        assert not any(one.last.done() for one in waiting)
        from_another = await house.ask(tenant="another")
        assert await waiting[1].code() == "busy"
        assert not from_another.last.done()


async def test_a_caller_that_leaves_the_line_takes_no_slot(nc: Nats, ledger: Ledger) -> None:
    async with a_house(nc, ledger, slots=1, reserve=0) as house:
        [first] = await held(house, 1)
        leaves, stays = await house.ask(), await house.ask()

        await cancel(house, leaves, first)

        assert await stays.code() == "answered"
        await house.bench.until(lambda: house.engine.inside == 0)
        assert len(house.engine.began) == 2


async def test_a_broker_that_stops_tells_those_that_wait(nc: Nats, ledger: Ledger) -> None:
    async with a_house(nc, ledger, slots=1, reserve=0) as house:
        running = await held(house, 1)
        waits = await house.ask()
        for one in house.serving:
            one.cancel()

        assert await waits.code() == "broker_stopped"
        assert await running[0].code() == "broker_stopped"


async def test_a_model_that_is_paused_keeps_nobody_waiting(nc: Nats, ledger: Ledger) -> None:
    async with a_house(nc, ledger, slots=1, reserve=0) as house:
        await held(house, 1)
        waits = await house.ask()

        house.paused = Controls(1, (Pause(kind=PauseKind.MODEL, name="m", paused_ms=now(), tenant="ops", key="k"),))

        assert await waits.code() == "paused"


async def test_where_the_last_worker_leaves_nobody_waits(nc: Nats, ledger: Ledger) -> None:
    async with a_house(nc, ledger, slots=1, reserve=0) as house:
        await held(house, 1)
        waits = await house.ask()

        house.beats = list

        assert await waits.code() == "no_worker"


async def test_requests_run_where_a_slot_is_offered_although_the_beats_know_of_none(nc: Nats, ledger: Ledger) -> None:
    async with a_house(nc, ledger, slots=4, reserve=0) as house:
        house.beats = lambda: [a_beat(slots=4, reserve=0, running=4)]

        asked = [await house.ask() for _ in range(8)]

        assert [await one.code() for one in asked] == ["answered"] * 8
