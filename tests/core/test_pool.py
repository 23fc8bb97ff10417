"""Slots: never more attempts in the engine than there are, and every one comes back, whatever happens."""

import asyncio
import itertools
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from enum import Enum, auto

from hypothesis import example, given
from hypothesis import strategies as st

from schemas.catalog import Deployment, Revision
from schemas.job import Attempt
from schemas.outcome import Cancelled, EngineFault, EngineLost, Failed, Outcome, Released, TimedOut
from schemas.units import Ms
from tests.builders import a_catalog, a_success, an_attempt, an_id
from workers.catalog import ActiveCatalog
from workers.pool import HeldAttempt, SlotPool, Slots
from workers.ports import Capacity, Chunk, EngineDied, EngineRequest, Step
from workers.run import Runner

NOW = Ms(1_000_000)
FULL = Capacity(slots=2, reserve=1)


class Event(Enum):
    """What may happen to the attempts of a worker."""

    LEASED = auto()
    INTERACTIVE = auto()
    SUCCEEDS = auto()
    FAULTS = auto()
    DIES = auto()
    IS_ABORTED = auto()
    IS_OVERDUE = auto()
    A_WHILE_PASSES = auto()
    CAPACITY_FALLS = auto()
    CAPACITY_GROWS = auto()


@dataclass
class Scripted:
    """An engine that does with each request what the test tells it to, and counts those that are in it."""

    now: Capacity = FULL
    inside: int = 0
    told: dict[str, "asyncio.Future[Step]"] = field(default_factory=dict)

    async def start(self) -> Capacity:
        return self.now

    def capacity(self) -> Capacity:
        return self.now

    async def gone(self) -> str:
        await asyncio.Event().wait()
        return "never"

    async def run(self, request: EngineRequest) -> AsyncGenerator[Step, None]:
        self.inside += 1
        try:
            yield Chunk()
            yield await self.told.setdefault(request.id, asyncio.get_running_loop().create_future())
        finally:
            self.inside -= 1

    async def close(self) -> None: ...


class Case:
    """A pool at work, with an intake whose outcomes are durable at once, or never."""

    def __init__(self, *, stores: bool = True) -> None:
        self.stores = stores
        self.engine = Scripted()
        self.pool = SlotPool(self.engine.capacity)
        catalog = ActiveCatalog(Revision(1, Ms(0), a_catalog()), "d")
        entropy = itertools.count(1).__next__
        self.runner = Runner(self.engine, self.pool, catalog=catalog, clock=lambda: NOW, entropy=entropy)
        self.outcomes: dict[Attempt, Outcome] = {}

    def start(self, slots: Slots) -> HeldAttempt:
        attempt = an_attempt(deadline_ms=Ms(NOW + 3_600_000))
        key = (attempt.job.bytes, 1)
        held = HeldAttempt(key, attempt, 1, "", slots, execution=an_id(), started_ms=NOW, progressed_ms=NOW)
        if self.pool.free(slots) <= 0:
            held.ended = Released()
        self.pool.start(held, self._run(held))
        return held

    async def _run(self, held: HeldAttempt) -> None:
        try:
            self.outcomes[held.attempt] = await self.runner.outcome(held)
            if not self.stores:
                await asyncio.Event().wait()
        finally:
            self.pool.let_go(held)

    async def serve(self) -> None:
        try:
            async with self.pool.tasks:
                await asyncio.Event().wait()
        finally:
            self.pool.abandon()

    def happen(self, event: Event) -> None:
        told = [answer for answer in self.engine.told.values() if not answer.done()]
        match event:
            case Event.LEASED:
                self.start(self.pool.leased)
            case Event.INTERACTIVE:
                self.start(self.pool.interactive)
            case Event.SUCCEEDS if told:
                told[0].set_result(a_success())
            case Event.FAULTS if told:
                told[0].set_exception(RuntimeError("scripted"))
            case Event.DIES if told:
                told[0].set_exception(EngineDied("scripted"))
            case Event.IS_ABORTED if self.pool.held:
                self.pool.held[-1].end(Cancelled())
            case Event.IS_OVERDUE:
                self.pool.end_overdue(Deployment(engine="simulated", attempt_timeout_s=0.5), Ms(NOW + 500))
            case Event.CAPACITY_FALLS:
                self.engine.now = Capacity(0, 0)
            case Event.CAPACITY_GROWS:
                self.engine.now = FULL
            case _:
                pass

    def check(self) -> None:
        all_of_it = 0
        for slots, most in ((self.pool.leased, FULL.slots), (self.pool.interactive, FULL.slots + FULL.reserve)):
            with_slot = [held for held in slots.attempts.values() if not held.is_over]
            assert slots.running == len(with_slot)
            takes = sum(held.ended != Released() for held in with_slot)
            assert takes <= most
            all_of_it += takes
        assert all_of_it <= FULL.slots + FULL.reserve
        assert self.engine.inside <= min(self.pool.running, FULL.slots + FULL.reserve)


async def turn() -> None:
    """Let every task that can go on do so."""
    for _ in range(10):
        await asyncio.sleep(0)


events = st.lists(st.sampled_from(Event), max_size=30)


async def lived(happened: list[Event], *, stores: bool = True) -> tuple[Case, "asyncio.Task[None]"]:
    case = Case(stores=stores)
    serving = asyncio.create_task(case.serve())
    await asyncio.sleep(0)
    for event in happened:
        if event is Event.A_WHILE_PASSES:
            await turn()
        case.happen(event)
        case.check()
    return case, serving


async def ended(serving: "asyncio.Task[None]") -> None:
    serving.cancel()
    await turn()
    assert serving.cancelled()


@given(events)
def test_every_slot_comes_back_after_what_runs_was_put_back(happened: list[Event]) -> None:
    async def scenario() -> None:
        case, serving = await lived(happened)

        case.pool.put_back()
        await case.pool.emptied()

        assert (case.pool.running, case.pool.held, case.engine.inside) == (0, [], 0)
        starts = sum(event in {Event.LEASED, Event.INTERACTIVE} for event in happened)
        assert len(case.outcomes) == starts
        await ended(serving)

    asyncio.run(scenario())


@example([], [Event.LEASED])
@example([Event.LEASED, Event.A_WHILE_PASSES], [Event.IS_ABORTED])
@given(events, events)
def test_every_slot_comes_back_when_the_worker_is_ended_at_any_moment(
    happened: list[Event], meanwhile: list[Event]
) -> None:
    async def scenario() -> None:
        case, serving = await lived(happened, stores=False)

        serving.cancel()
        for event in meanwhile:
            case.happen(event)
        await ended(serving)

        assert (case.pool.running, case.pool.held, case.engine.inside) == (0, [], 0)

    asyncio.run(scenario())


async def test_the_first_end_of_an_attempt_is_its_outcome() -> None:
    case, serving = await lived([Event.LEASED, Event.A_WHILE_PASSES])
    [held] = case.pool.held

    held.end(Cancelled())
    held.end(Released())
    await case.pool.emptied()

    assert case.outcomes == {held.attempt: Cancelled()}
    await ended(serving)


async def test_an_end_that_comes_after_the_outcome_changes_nothing() -> None:
    case, serving = await lived([Event.LEASED, Event.A_WHILE_PASSES])
    [held] = case.pool.held
    case.happen(Event.FAULTS)
    await turn()

    held.end(Cancelled())

    assert case.outcomes == {held.attempt: Failed(EngineFault("RuntimeError in the engine"))}
    await ended(serving)


async def test_an_attempt_ended_before_it_began_never_reaches_the_engine() -> None:
    case, serving = await lived([Event.LEASED])
    [held] = case.pool.held

    held.end(Cancelled())
    await case.pool.emptied()

    assert case.outcomes == {held.attempt: Cancelled()}
    assert case.engine.told == {}
    await ended(serving)


def test_requests_take_every_slot_and_jobs_all_but_the_reserve() -> None:
    case = Case()

    def free() -> tuple[int, int]:
        return case.pool.leased.free, case.pool.interactive.free

    assert free() == (2, 3)
    case.pool.leased.running = 2
    assert free() == (0, 1)
    case.pool.leased.running, case.pool.interactive.running = 0, 1
    assert free() == (2, 2)
    case.pool.interactive.running = 2
    assert free() == (1, 1)
    case.pool.interactive.running = 3
    assert (free(), case.pool.to_request()) == ((0, 0), 1)


async def test_nothing_is_asked_for_once_the_engine_died_or_the_worker_drains() -> None:
    case, serving = await lived([Event.LEASED, Event.INTERACTIVE, Event.A_WHILE_PASSES])
    assert (case.pool.free(case.pool.leased), case.pool.free(case.pool.interactive)) == (1, 1)

    case.happen(Event.DIES)
    await turn()

    assert (case.pool.free(case.pool.leased), case.pool.to_request()) == (0, 0)
    assert list(case.outcomes.values()) == [Failed(EngineLost("scripted"))]
    draining = Case()
    draining.pool.is_draining = True
    assert draining.pool.free(draining.pool.leased) == 0
    await ended(serving)


async def test_what_is_overdue_ends_with_the_time_it_took() -> None:
    case, serving = await lived([Event.LEASED, Event.A_WHILE_PASSES])
    [held] = case.pool.held

    case.happen(Event.IS_OVERDUE)
    await case.pool.emptied()

    assert case.outcomes == {held.attempt: Failed(TimedOut(Ms(500), "attempt"))}
    await ended(serving)


def test_each_execution_of_an_attempt_has_an_id_of_its_own() -> None:
    case = Case()
    attempt = an_attempt()

    held = [case.runner.hold(attempt, case.pool.leased, (attempt.job.bytes, 1)) for _ in range(2)]

    assert len({one.execution for one in held}) == 2
