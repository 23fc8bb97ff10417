"""What a worker holds: the slots of its engine, and the attempts in them.

This module knows neither NATS nor what an engine does with a request. Dispatched attempts (from RUN) run in the engine's
slots, interactive ones (from NOW) in its reserve. Each kind has an intake of its own, and both take from this one pool.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field

import msgspec

from schemas.catalog import Deployment
from schemas.job import Attempt
from schemas.outcome import Outcome, Released
from schemas.units import Ms
from workers.core.leases import while_running
from workers.ports import Capacity, Progress

Key = tuple[bytes, int]
"""A job's id, for an interactive attempt with the subject of its reply, and the number of the attempt."""


@dataclass(slots=True, eq=False)
class HeldAttempt:
    """One delivery of an attempt that this worker holds, from its start until its outcome is durable."""

    key: Key
    attempt: Attempt
    delivery: int
    """How often the attempt had been delivered by then, this time included."""
    ack_subject: str
    """What acks its message; a redelivery replaces it. Nothing waits for an interactive one."""
    slots: "Slots" = field(repr=False)
    """Those of its kind; it holds one of them until its outcome is known."""
    started_ms: Ms
    progressed_ms: Ms
    first_ms: Ms | None = None
    """When its first token came."""
    spent: Progress | None = None
    """What it has cost so far, if the engine said so."""
    ended: Outcome | None = None
    """The outcome that it was ended with from outside."""
    has_begun: bool = False
    """A task that is cancelled before it begins never runs."""
    is_over: bool = False
    """Its outcome is known and its slot is free again."""
    task: "asyncio.Task[None] | None" = field(default=None, repr=False)

    def end(self, outcome: Outcome) -> None:
        """Stop it with this outcome, unless it has one already."""
        if self.ended is None and not self.is_over:
            self.ended = outcome
            if self.has_begun and self.task is not None:
                self.task.cancel()

    def with_spent(self, outcome: Outcome) -> Outcome:
        """The outcome together with what the engine had spent by then."""
        if self.spent is None or self.spent.usage is None:
            return outcome
        return msgspec.structs.replace(outcome, usage=self.spent.usage, charge=self.spent.charge)


class Slots:
    """The places in the engine for one kind of attempt, and the attempts of that kind that are held.

    An attempt takes a place when it starts, gives it back when its outcome is known, and is held until that outcome is
    durable. Capacity may fall while attempts run, so `free` may be negative.
    """

    def __init__(self, places: Callable[[], int]) -> None:
        self._places = places
        self.running = 0
        self.attempts: dict[Key, HeldAttempt] = {}

    def __repr__(self) -> str:
        return f"Slots({self.running} of {self._places()}, held={len(self.attempts)})"

    @property
    def free(self) -> int:
        return self._places() - self.running

    def give_back(self, held: HeldAttempt) -> None:
        """Free its place: its outcome is known."""
        held.is_over = True
        self.running -= 1


class SlotPool:
    """The slots and the reserve of one engine, and whether they may be filled. Its attempts run in `tasks`."""

    def __init__(self, capacity: Callable[[], Capacity]) -> None:
        self.leased = Slots(lambda: capacity().slots)
        self.interactive = Slots(lambda: capacity().reserve)
        self.tasks = asyncio.TaskGroup()
        self.is_draining = False
        self.died = asyncio.Event()
        """The engine is gone for good."""
        self._emptied = asyncio.Event()

    def __repr__(self) -> str:
        return f"SlotPool(leased={self.leased}, interactive={self.interactive})"

    @property
    def running(self) -> int:
        """Attempts in the engine, of both kinds."""
        return self.leased.running + self.interactive.running

    @property
    def held(self) -> list[HeldAttempt]:
        return [*self.leased.attempts.values(), *self.interactive.attempts.values()]

    def free(self, slots: Slots) -> int:
        """How many attempts may be asked for."""
        return 0 if self.is_draining or self.died.is_set() else slots.free

    def start(self, held: HeldAttempt, work: Coroutine[None, None, None]) -> None:
        """Hold an attempt, in one of its slots, while its work runs, which must end with `let_go`."""
        held.slots.attempts[held.key] = held
        held.slots.running += 1
        held.task = self.tasks.create_task(work)

    def let_go(self, held: HeldAttempt) -> None:
        if not held.is_over:
            held.slots.give_back(held)
        del held.slots.attempts[held.key]
        if not self.leased.attempts and not self.interactive.attempts:
            self._emptied.set()

    def abandon(self) -> None:
        """Let go of what was cancelled before its work began."""
        for held in self.held:
            self.let_go(held)

    def end_overdue(self, deployment: Deployment, now: Ms) -> None:
        """End what is past its deadline or one of its time-outs."""
        for held in self.held:
            outcome = while_running(
                held.attempt,
                started=held.started_ms,
                progressed=held.progressed_ms,
                attempt_timeout=Ms(int(deployment.attempt_timeout_s * 1000)),
                progress_timeout=Ms(int(deployment.progress_timeout_s * 1000)),
                now=now,
            )
            if outcome is not None:
                held.end(outcome)

    def put_back(self) -> None:
        """Stop what runs. It is reported as released, which does not count as an attempt."""
        for held in self.held:
            held.end(Released())

    async def emptied(self) -> None:
        """Wait until nothing is held: every outcome is durable, and every reply is complete."""
        while self.held:
            self._emptied.clear()
            await self._emptied.wait()
