"""Releases what dead workers held, before its leases end: a death is known in seconds, and a lease lasts longer.

JetStream does not say who holds what, so this compares what was delivered with what the living name in their beats. The
dispatch leader does it:

a worker misses a beat                       → mark what has been delivered to its deployment's workers
it is dead                                   → record what it ran as lost
each worker that lives has sent two beats    → deliver again what was delivered before the mark and none of them holds,
since the mark                                 but for what the dead may have run: roles.wards runs that apart

The same is done for a deployment one of whose workers has reconnected, since what was on its way then never arrived; and
for all of them when a term begins. A worker that was only cut off runs on: then its execution or the second is wasted.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from broker.bus.runs import Rulings, answer_runs, attempts_in_outcome, delivered_runs, run_progress
from broker.core.presence import (
    QUIET_MS,
    Departed,
    Heard,
    Mark,
    Presence,
    Process,
    held_by,
    lost_executions,
    mark_of,
    process_of,
)
from broker.errors import Unavailable
from broker.metrics import BrokerMetrics
from broker.ports import AttemptLedger
from broker.retrying import level_of, until_available
from schemas.catalog import Catalog
from schemas.jetstream import ACK, NAK, ApiRefused, Kind, NatsConnection, NatsError

log = logging.getLogger(__name__)
LOOK_S = 0.25


Key = tuple[UUID, int]
Blame = Callable[[str, Sequence[Key]], Awaitable[Collection[Key]]]


async def nobody(_: str, unheld: Sequence[Key]) -> Collection[Key]:
    """Blame nobody for a death."""
    return unheld


@dataclass(slots=True, kw_only=True)
class Releases:
    """Does so during one term of the leader."""

    nc: NatsConnection
    presence: Presence
    attempts: AttemptLedger
    rulings: Rulings
    catalog: Callable[[], Catalog]
    metrics: BrokerMetrics
    blame: Blame = nobody
    """Suspects what a worker that died may have run, and returns what goes to other workers as it is."""
    look_s: float = LOOK_S
    _reconnects: dict[Process, int] = field(default_factory=dict)
    """How often each worker had reconnected, by its beat before."""
    _noted: set[Process] = field(default_factory=set)
    """The departed that have been seen to."""
    _wanted: set[str] = field(default_factory=set)
    """The deployments of which something may have been delivered that nobody holds."""
    _again: set[str] = field(default_factory=set)
    """Those of them for which the mark is too early."""
    _marks: dict[str, Mark] = field(default_factory=dict)
    _answered: dict[str, int] = field(default_factory=dict)
    """How many deliveries there had been when all that nobody held was answered. Until there are more, that is all."""

    def __repr__(self) -> str:
        return f"Releases(wanted={sorted(self._wanted)}, marked={sorted(self._marks)})"

    async def serve(self) -> None:
        """Look for deaths until cancelled. What cannot be done while NATS or Postgres is away is done afterwards."""
        self._wanted.update(self.catalog().deployments)
        while True:
            try:
                if self.presence.knows_all:
                    await self.look()
            except (Unavailable, NatsError) as error:
                log.log(level_of(error), "not released yet error=%s", str(error) or type(error).__name__)
            await asyncio.sleep(self.look_s)

    async def look(self) -> None:
        """See who has departed or reconnected, and take the next step for each deployment that this concerns."""
        workers: dict[str, list[Heard]] = defaultdict(list)
        for one in self.presence.here:
            workers[one.beat.deployment].append(one)
        self._see_reconnects(self.presence.here)
        for gone in self.presence.departed:
            if process_of(gone.beat) not in self._noted:
                await self._see_departed(gone)
        self._noted &= {process_of(gone.beat) for gone in self.presence.departed}
        quiet = {name for name, those in workers.items() if any(one.silent_ms >= QUIET_MS for one in those)}
        for deployment in quiet | self._wanted:
            try:
                await self._check(deployment, workers[deployment])
            except ApiRefused as error:
                if error.kind is not Kind.MISSING:
                    raise
                self._wanted.discard(deployment)  # no such consumer, so nothing was delivered
        self._marks = {name: mark for name, mark in self._marks.items() if name in quiet | self._wanted}

    def _see_reconnects(self, workers: Iterable[Heard]) -> None:
        now = {process_of(one.beat): one.beat for one in workers}
        for process, beat in now.items():
            if self._reconnects.get(process, beat.reconnects) != beat.reconnects:
                self._want(beat.deployment, process)
        self._reconnects = {process: beat.reconnects for process, beat in now.items()}

    async def _see_departed(self, gone: Departed) -> None:
        process, deployment = process_of(gone.beat), gone.beat.deployment
        if gone.has_died:
            lost = lost_executions(gone, await self._running_on(deployment)) if gone.beat.held else []
            self._log_death(gone, held=len(lost))
            await self.rulings.publish(lost)
            self.metrics.deaths.inc()
            self.metrics.lost.inc(len(lost))
        self._noted.add(process)
        self._want(deployment, process)

    def _log_death(self, gone: Departed, *, held: int) -> None:
        """Say who died, with how many executions, and how many workers of its deployment are left: none is an error."""
        worker, deployment = gone.beat.worker, gone.beat.deployment
        left = sum(one.beat.deployment == deployment for one in self.presence.here)
        level = logging.WARNING if left else logging.ERROR
        log.log(level, "worker died worker=%s deployment=%s held=%d left=%d", worker, deployment, held, left)

    async def _running_on(self, deployment: str) -> set[Key]:
        """Read which attempts were handed out to a deployment. Of requests their relays know."""
        running = await until_available(self.attempts.running)
        return {(one.job, one.attempt) for one in running if one.deployment == deployment}

    def _want(self, deployment: str, process: Process) -> None:
        """Ask for a check of what was delivered by now, or by the mark if this process was quiet already then."""
        if (mark := self._marks.get(deployment)) is not None and process not in mark.quiet:
            self._again.add(deployment)
        self._answered.pop(deployment, None)
        self._wanted.add(deployment)

    async def _check(self, deployment: str, workers: Sequence[Heard]) -> None:
        """Set a mark; or, once it is over, release what nobody holds. If there was any, it may reach nobody once more."""
        mark = self._marks.get(deployment)
        if mark is None:
            progress = await run_progress(self.nc, deployment)
            if self._answered.get(deployment) != progress.deliveries:
                self._marks[deployment] = mark_of(workers, last_sequence=progress.delivered)
        elif deployment in self._wanted and mark.is_over(workers):
            is_clean = await self._release(deployment, mark, workers)
            del self._marks[deployment]
            if (is_clean or not workers) and deployment not in self._again:
                self._wanted.discard(deployment)
            self._again.discard(deployment)

    async def _release(self, deployment: str, mark: Mark, workers: Sequence[Heard]) -> bool:
        """Have what nobody holds delivered again, and let what has been reported go. True: there was nothing.

        The places are read in the order in which an attempt passes them, and the ledger last, so that none is missed.
        """
        delivered = await delivered_runs(self.nc, deployment, last=mark.last_sequence)
        held = held_by(workers)
        unheld = [one for one in delivered if (one.job.bytes, one.attempt) not in held]
        if not unheld:
            await self.blame(deployment, ())
            return True
        in_outcome = await attempts_in_outcome(self.nc)
        running = {(one.job, one.attempt) for one in await until_available(self.attempts.running)}
        left = [one for one in unheld if (one.job, one.attempt) not in in_outcome]
        open_still = [(one.job, one.attempt) for one in left if (one.job, one.attempt) in running]
        innocent = set(await self.blame(deployment, open_still))
        again = [one.sequence for one in left if (one.job, one.attempt) in innocent]
        over = [one.sequence for one in left if (one.job, one.attempt) not in innocent]
        deliveries = (await run_progress(self.nc, deployment)).deliveries
        await answer_runs(self.nc, deployment, over, ACK, deliveries=deliveries)
        await answer_runs(self.nc, deployment, again, NAK, deliveries=deliveries)
        if again:
            log.warning("released attempts=%d deployment=%s", len(again), deployment)
            self.metrics.released.inc(len(again))
        if len(left) == len(unheld):
            self._answered[deployment] = deliveries
        return False
