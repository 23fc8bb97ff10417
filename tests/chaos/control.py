"""People who cancel, pause, change, retry and replay what the producers have submitted, while everything is killed."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar
from uuid import UUID

from broker.client import Client, RequestRefused
from schemas.api import CancelAnswer, State
from schemas.cancel import CancelChoice
from schemas.changes import Change
from schemas.control import PauseKind
from schemas.dead import DeadFilter, DeadRequeue, DeadWhat
from schemas.instructions import Instruction
from schemas.job import Lane
from schemas.listing import JobFilter
from schemas.repeats import FAILED_STATES, ReplayChoice

T = TypeVar("T")
UntilDone = Callable[[Callable[[], Awaitable[T]]], Awaitable[T]]
_SHARED = (
    (PauseKind.MODEL, "quick"),
    (PauseKind.MODEL, "slow"),
    (PauseKind.LANE, "bulk"),
    (PauseKind.LANE, "standard"),
    (PauseKind.DEPLOYMENT, "steady"),
    (PauseKind.DEPLOYMENT, "fast"),
)


@dataclass(slots=True)
class Ordered:
    """What people were told of what they ordered."""

    cancelled: dict[UUID, CancelAnswer] = field(default_factory=dict)
    swept: set[tuple[str, str]] = field(default_factory=set)
    """The tenants and models of which all was cancelled."""
    retried: dict[UUID, tuple[str, UUID]] = field(default_factory=dict)
    """The retries and replays, each with its tenant and the batch that it repeats."""
    settled: list[tuple[str, UUID]] = field(default_factory=list)
    """Batches that were complete when all was compared: each with its tenant."""
    counts: dict[str, int] = field(default_factory=dict)

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1


class Orders:
    """Gives orders, each until somebody said yes, as people with patience do."""

    def __init__(self, clients: dict[str, Client], chance: random.Random, until_done: UntilDone[object]) -> None:
        self.ordered = Ordered()
        self._clients = clients
        self._chance = chance
        self._until_done = until_done

    async def cancel_jobs(self, tenant: str, jobs: list[UUID]) -> None:
        """Cancel some jobs. Whoever asks must expect that each may have ended before."""
        for answer in await self._told(lambda: self._clients[tenant].cancel_jobs(*jobs)):
            self.ordered.cancelled[answer.id] = answer.answer
            self.ordered.count(f"job {answer.answer}")

    async def cancel_batch(self, tenant: str, batch: UUID) -> None:
        await self._told(lambda: self._clients[tenant].cancel_batch(batch))
        self.ordered.count("batch cancelled")

    async def cancel_many(self, tenant: str, model: str) -> None:
        """Cancel all that waits or runs for a model."""
        self.ordered.swept.add((tenant, model))
        await self._told(lambda: self._clients[tenant].cancel_many(CancelChoice(model=model)))
        self.ordered.count("cancel by model")

    async def change(self, tenant: str, job: UUID, batch: UUID | None) -> None:
        """Change a job, or all of a batch."""
        change = Change(lane=self._chance.choice((None, *Lane)), priority=self._chance.choice((-50, 0, 50)))
        client = self._clients[tenant]
        with contextlib.suppress(RequestRefused):  # it runs, or has ended
            if batch is None:
                await self._told(lambda: client.change_job(job, change))
            else:
                await self._told(lambda: client.change_batch(batch, change))
            self.ordered.count("job changed" if batch is None else "batch changed")

    async def requeue(self, tenant: str) -> None:
        """Requeue some dead jobs."""
        client = self._clients[tenant]
        wanted = DeadRequeue(filter=DeadFilter(what=DeadWhat.JOB), limit=5, max_tokens=4)
        with contextlib.suppress(RequestRefused):
            done = await self._told(lambda: client.requeue(wanted))
            self.ordered.count("requeue" if done.jobs else "requeue of nothing")

    async def pause(self, tenant: str, batch: UUID | None) -> None:
        """Pause something for a moment."""
        kind, name = self._chance.choice((*_SHARED, (PauseKind.TENANT, tenant)))
        if batch is not None and self._chance.random() < 0.5:
            kind, name = PauseKind.BATCH, str(batch)
        client = self._clients[tenant]
        await self._told(lambda: client.pause(kind, name, reason="chaos"))
        self.ordered.count(f"{kind} paused")
        await asyncio.sleep(self._chance.uniform(0.2, 2.0))
        await self._told(lambda: client.resume(kind, name))

    async def retry(self, tenant: str, batch: UUID) -> None:
        """Retry what failed in a batch; now and then what was cancelled, too."""
        states = (*FAILED_STATES, State.CANCELLED) if self._chance.random() < 0.3 else FAILED_STATES
        with contextlib.suppress(RequestRefused):
            given = await self._told(lambda: self._clients[tenant].retry(batch, states=states))
            self._gave(tenant, batch, given, "retry")

    async def replay(self, tenant: str, batch: UUID) -> None:
        choice = ReplayChoice(filter=JobFilter(batch=batch), model=self._chance.choice((None, None, "quick")))
        with contextlib.suppress(RequestRefused):
            given = await self._told(lambda: self._clients[tenant].replay(choice, rate_per_s=50.0))
            self._gave(tenant, batch, given, "replay")

    def some_settled(self) -> tuple[str, UUID] | None:
        return self._chance.choice(self.ordered.settled) if self.ordered.settled else None

    def _gave(self, tenant: str, batch: UUID, given: Instruction, what: str) -> None:
        self.ordered.retried[given.id] = (tenant, batch)
        self.ordered.count(what)

    async def _told(self, act: Callable[[], Awaitable[T]]) -> T:
        return await self._until_done(act)  # type: ignore[return-value]
