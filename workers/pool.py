"""Holds the slots of a worker's engine, and the attempts in them.

This module knows neither NATS nor what an engine does with a request. Interactive attempts (from NOW) run in any slot of the
engine, dispatched ones (from RUN) in all but the reserve. Each kind has an intake of its own, and both take from this pool.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from uuid import UUID

import msgspec

from schemas.catalog import Deployment
from schemas.job import Attempt
from schemas.outcome import Cancelled, Outcome, Released
from schemas.units import Ms
from workers.core.leases import while_running
from workers.ports import Capacity, Progress, SoFar

log = logging.getLogger(__name__)

Key = tuple[bytes, int]
"""The job's id and the number of the attempt. An interactive one's id is followed by the subject of its reply."""


@dataclass(slots=True, eq=False)
class HeldAttempt:
    """One delivery of an attempt that this worker holds, from its start until its outcome is durable."""

    key: Key
    attempt: Attempt
    delivery: int
    """How often the attempt had been delivered, this time included."""
    ack_subject: str
    """Where to ack its message; a redelivery replaces it. Interactive attempts are not acked."""
    slots: "Slots" = field(repr=False)
    """The slots for its kind of attempt. It takes one of them until its outcome is known."""
    execution: UUID
    """The execution's own id, made when it started. A redelivery that runs again is another execution."""
    started_ms: Ms
    progressed_ms: Ms
    first_ms: Ms | None = None
    """When its first token came. None: not yet."""
    usage_so_far: Progress | None = None
    """What it has used and cost so far. None: the engine did not say."""
    so_far: Callable[[], SoFar] | None = field(default=None, repr=False)
    """Asks the engine what it has come to. None: the engine does not say."""
    ended: Outcome | None = None
    """The outcome that the worker ended it with. None: its engine decides."""
    has_begun: bool = False
    """Whether its task has begun to run. One that is cancelled before that never runs, so it cannot report."""
    is_over: bool = False
    """Whether its outcome is known; its slot is free again then."""
    task: "asyncio.Task[None] | None" = field(default=None, repr=False)

    def end(self, outcome: Outcome) -> None:
        """End it with this outcome, unless it has one already."""
        if self.ended is None and not self.is_over:
            self.ended = self._with_what_came(outcome)
            if self.has_begun and self.task is not None:
                self.task.cancel()

    def _with_what_came(self, outcome: Outcome) -> Outcome:
        """Add to the outcome what the attempt has come to; what it has answered only if it was cancelled."""
        if self.so_far is None:
            return outcome
        try:
            came = self.so_far()
        except Exception:
            log.exception("what an attempt came to is unknown job=%s", self.attempt.job)
            return outcome
        if came.usage is not None:
            self.usage_so_far = Progress(came.usage, came.charge)
        if came.body is None or not isinstance(outcome, Cancelled):
            return outcome
        return msgspec.structs.replace(outcome, body=came.body)

    def with_usage(self, outcome: Outcome) -> Outcome:
        """Add to the outcome what the attempt has used and cost so far."""
        if self.usage_so_far is None or self.usage_so_far.usage is None:
            return outcome
        return msgspec.structs.replace(outcome, usage=self.usage_so_far.usage, charge=self.usage_so_far.charge)


class Slots:
    """The engine's slots for one kind of attempt, and the attempts of that kind that the worker holds.

    An attempt takes a slot when it starts, gives it back when its outcome is known, and is held until that outcome is
    durable. Capacity may fall while attempts run, so `free` may be negative.
    """

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count
        self.running = 0
        self.attempts: dict[Key, HeldAttempt] = {}

    def __repr__(self) -> str:
        return f"Slots({self.running} of {self._count()}, held={len(self.attempts)})"

    @property
    def free(self) -> int:
        return self._count() - self.running

    def give_back(self, held: HeldAttempt) -> None:
        """Free the slot of an attempt whose outcome is known."""
        held.is_over = True
        self.running -= 1


class SlotPool:
    """All slots of one engine, of both kinds, and whether they may be filled. The attempts run in `tasks`."""

    def __init__(self, capacity: Callable[[], Capacity]) -> None:
        self._capacity = capacity
        self.leased = Slots(self._for_leased)
        self.interactive = Slots(self._for_interactive)
        self.tasks = asyncio.TaskGroup()
        self.is_draining = False
        self.is_apart = False
        """Whether a group of suspects runs or is to run, so that nothing else is taken."""
        self.died = asyncio.Event()
        """Is set once the engine is gone for good."""
        self._emptied = asyncio.Event()

    def __repr__(self) -> str:
        return f"SlotPool(leased={self.leased}, interactive={self.interactive})"

    def _for_leased(self) -> int:
        """Count the slots that are not of the reserve, less those in which interactive attempts run."""
        now = self._capacity()
        borrowed = self.interactive.running - now.reserve
        return now.slots - borrowed if borrowed > 0 else now.slots

    def _for_interactive(self) -> int:
        """Count all slots in which no dispatched attempt runs."""
        now = self._capacity()
        return now.slots + now.reserve - self.leased.running

    @property
    def running(self) -> int:
        """How many attempts of both kinds the engine runs."""
        return self.leased.running + self.interactive.running

    @property
    def held(self) -> list[HeldAttempt]:
        return [*self.leased.attempts.values(), *self.interactive.attempts.values()]

    def free(self, slots: Slots) -> int:
        """Return how many attempts may be pulled for these slots."""
        return 0 if self.is_draining or self.is_apart or self.died.is_set() else slots.free

    def to_request(self) -> int:
        """Return for how many interactive attempts to ask: one even if no slot is free, so as to turn it back at once."""
        return 0 if self.is_draining or self.is_apart or self.died.is_set() else max(1, self.interactive.free)

    def start(self, held: HeldAttempt, work: Coroutine[None, None, None]) -> None:
        """Hold an attempt, in one of its slots, while `work` runs. The work must end with `let_go`."""
        held.slots.attempts[held.key] = held
        held.slots.running += 1
        held.task = self.tasks.create_task(work)

    def let_go(self, held: HeldAttempt) -> None:
        """Hold an attempt no longer."""
        if not held.is_over:
            held.slots.give_back(held)
        del held.slots.attempts[held.key]
        if not self.leased.attempts and not self.interactive.attempts:
            self._emptied.set()

    def abandon(self) -> None:
        """Let go of the attempts whose tasks were cancelled before they began."""
        for held in self.held:
            self.let_go(held)

    def end_overdue(self, deployment: Deployment, now: Ms) -> None:
        """End every attempt that is past its deadline or one of its time-outs."""
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
        """Stop everything that runs, and report it as released: it does not count as an attempt."""
        for held in self.held:
            held.end(Released())

    async def emptied(self) -> None:
        """Wait until nothing is held: every outcome is durable, and every reply is complete."""
        while self.held:
            self._emptied.clear()
            await self._emptied.wait()
