"""Dispatch: the leader gives each free slot the job that the policy chooses.

Round by round: read the fronts of the flows → choose (pure) → ledger commit queued → running, under the leader's
term → publish into RUN, in order. Nobody else touches a round, so what the ledger says between two rounds is exact.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from nats.aio.client import Client
from nats.aio.msg import Msg

from broker.bus.heard import Beats, heard_settled, heard_waiting
from broker.bus.runs import Runs, in_outcome, in_run, publish_verdicts
from broker.caps import Caps
from broker.config import LEASE_S
from broker.core.heads import Fronts
from broker.core.policy import Order, Rate, lookahead
from broker.core.records import Flow, Head, OpenJob, Pick, Place, Running
from broker.core.settle import expiry, released, stranded
from broker.ledger import PgLedger
from broker.metrics import Metrics
from broker.patience import patiently
from broker.ports import Clock
from schemas import subjects
from schemas.catalog import Catalog
from schemas.jetstream import heed_cancellation
from schemas.job import Attempt
from schemas.units import Ms

log = logging.getLogger(__name__)
ROUND = 1000
"""Jobs of one commit and one atomic batch at most."""
IDLE_S = 1.0
"""Between rounds when nothing is heard: deadlines pass, and announcements may be lost."""
RECOUNT_S = 5.0
REREAD_S = 15.0
FRESH = 20
"""Flows that a round reads anew at most, so that thousands of them hold up no dispatch."""
SWEEP_S = 60.0
DOUBT_S = 0.5
"""Until the next sweep, when attempts may be missing from RUN."""
OVERDUE_MS = 900_000
"""A running job this long after its deadline has no worker: one would have ended it by its time-out."""
SILENCE_MS = Ms(int(2 * LEASE_S * 1000))
"""A deployment without a worker for this long is given up on where others can do its work."""
ROUND_MS = 2000
"""The most silence that one round counts: while the leader was busy or cut off, it heard nobody."""


@dataclass(slots=True)
class Pool:
    """What the leader knows of a deployment's workers."""

    slots: int = 0
    outstanding: int = 0
    live: int = 0
    """Interactive attempts in its engines, which are the gateways' to hand out."""
    silent_ms: int = 0
    """For how long others were heard, and no worker of it."""
    rate: Rate = field(default_factory=Rate)

    def running(self) -> int:
        """What has not been charged yet."""
        return self.outstanding + self.live

    def credit(self) -> int:
        return self.slots + lookahead(self.slots, per_s=self.rate.per_s) if self.slots else 0

    def room(self) -> int:
        return max(0, self.credit() - self.outstanding)


class Dispatch:
    """One leadership: made when the lease is taken, thrown away with it."""

    def __init__(
        self,
        nc: Client,
        ledger: PgLedger,
        *,
        catalog: Callable[[], Catalog],
        beats: Beats,
        caps: Caps,
        metrics: Metrics,
        clock: Clock,
        term: int,
        idle_s: float = IDLE_S,
        sweep_s: float = SWEEP_S,
        recount_s: float = RECOUNT_S,
        reread_s: float = REREAD_S,
        silence_ms: int = SILENCE_MS,
        overdue_ms: int = OVERDUE_MS,
    ) -> None:
        self._nc = nc
        self._ledger = ledger
        self._catalog = catalog
        self._beats = beats
        self._caps = caps
        self._metrics = metrics
        self._clock = clock
        self._term = term
        self._idle_s = idle_s
        self._sweep_s = sweep_s
        self._recount_s = recount_s
        self._reread_s = reread_s
        self._silence_ms = silence_ms
        self._overdue_ms = overdue_ms
        self._measured_ms = clock()
        self._runs = Runs(nc)
        self._sweep_at = 0.0
        self._fronts = Fronts()
        self._order = Order()
        self._pools: dict[str, Pool] = {}
        self._outstanding: dict[UUID, Running] = {}
        self._announced: list[tuple[Flow, Place]] = []
        self._wake = asyncio.Event()

    async def serve(self) -> None:
        """Until cancelled. Raises: Deposed, when another term has begun."""
        waiting = await self._nc.subscribe(subjects.CTL_WAITING, cb=self._heard_waiting)
        settled = await self._nc.subscribe(subjects.CTL_SETTLED, cb=self._heard_settled)
        self._beats.changed = self._wake.set
        try:
            await self._rounds()
        finally:
            self._beats.changed = lambda: None
            await waiting.unsubscribe()
            await settled.unsubscribe()

    async def _rounds(self) -> None:
        loop = asyncio.get_running_loop()
        recount = reread = self._sweep_at = loop.time()
        while True:
            heed_cancellation()
            self._wake.clear()
            if loop.time() >= recount:
                await self._recount()
                recount = loop.time() + self._recount_s
            if loop.time() >= self._sweep_at:
                self._sweep_at = loop.time() + self._sweep_s
                await self._sweep()
            if loop.time() >= reread:
                self._fronts.restart(await patiently(self._ledger.flows))
                reread = loop.time() + self._reread_s
            if not await self._round():
                await self._pause()

    async def _pause(self) -> None:
        due = self._fronts.next_due_ms()
        wait = self._idle_s if due is None else min(self._idle_s, max(0, due - self._clock()) / 1000)
        try:
            async with asyncio.timeout(wait):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _round(self) -> bool:
        """Dispatch once. True if there may be more to do at once."""
        now = self._clock()
        await self._read(now)
        await self._expire(now)
        self._measure(now)
        if self._has_caps():
            await self._caps.look()  # a second is long: thousands of jobs may run in it
        alive = self._alive()
        picks = self._order.choose(
            self._fronts.ready(),
            room={name: room for name, pool in alive.items() if (room := self._room(name, pool))},
            alive=alive.keys(),
            catalog=self._catalog(),
            limit=ROUND,
        )
        if picks:
            await self._dispatch(picks, now)
        return bool(picks) or self._fronts.wants_more()

    async def _read(self, now: Ms) -> None:
        """Go back to what was announced, then read ahead where a front runs low."""
        announced, self._announced = self._announced, []
        for flow, place in announced:
            self._fronts.announced(flow, place)
        self._fronts.freshen(FRESH)
        for flow, front in list(self._fronts.flows.items()):
            front.ripen(now)
            if front.wants_page():
                limit = front.next_page()
                front.took_page(await self._page(flow, front.read_to, limit), limit=limit, now=now)
        self._fronts.prune()

    async def _page(self, flow: Flow, after: Place | None, limit: int) -> Sequence[Head]:
        return await patiently(lambda: self._ledger.heads(flow, after=after, limit=limit))

    async def _expire(self, now: Ms) -> None:
        """The broker's own verdict on those whose deadline passed in the backlog; settle records it."""
        expired = [job for front in self._fronts.flows.values() for job in front.take_expired(now)]
        if expired:
            await publish_verdicts(self._nc, [expiry(job, now) for job in expired])
            self._metrics.expired.inc(len(expired))

    def _has_caps(self) -> bool:
        found = self._catalog().deployments
        return any(name in found and found[name].daily_cap_usd is not None for name in self._pools)

    def _is_capped(self, deployment: str, pool: Pool) -> bool:
        found = self._catalog().deployments.get(deployment)
        return found is not None and self._caps.is_reached(deployment, found, running=pool.running())

    def _room(self, deployment: str, pool: Pool) -> int:
        """Under a cap nothing is looked ahead to: what is not started costs nothing."""
        found = self._catalog().deployments.get(deployment)
        if found is None or found.daily_cap_usd is None:
            return pool.room()
        free = max(0, pool.slots - pool.outstanding)
        return self._caps.affordable(deployment, found, running=pool.running(), free=free)

    def _alive(self) -> dict[str, Pool]:
        """The pools that may start something."""
        return {name: pool for name, pool in self._pools.items() if pool.slots and not self._is_capped(name, pool)}

    def _measure(self, now: Ms) -> None:
        slots, live = self._beats.slots(), Counter[str]()
        for beat in self._beats.alive():
            live[beat.deployment] += beat.live
        passed_ms = min(now - self._measured_ms, ROUND_MS) if slots else 0
        self._measured_ms = now
        for deployment in {*slots, *self._pools}:
            pool = self._pools.setdefault(deployment, Pool())
            pool.slots, pool.live = slots.get(deployment, 0), live[deployment]
            pool.silent_ms = 0 if deployment in slots else pool.silent_ms + passed_ms

    async def _dispatch(self, picks: Sequence[Pick], now: Ms) -> None:
        attempts = await patiently(lambda: self._ledger.dispatch(picks, term=self._term, now=now))
        self._fronts.drop(picks)
        if len(attempts) < len(picks):
            self._doubt()  # they waited no more; or they were dispatched, and Postgres's answer was lost
        for attempt in attempts:
            if (pool := self._pools[attempt.deployment]).outstanding == 0:
                pool.rate.begin(now)
            self._took(Running(attempt.job, attempt.number, attempt.deployment))
        await self._publish(attempts)
        for deployment, count in Counter(attempt.deployment for attempt in attempts).items():
            self._metrics.dispatched(deployment, count)

    async def _publish(self, attempts: Sequence[Attempt]) -> None:
        if attempts and not await self._runs.publish(attempts):
            self._doubt()

    def _doubt(self) -> None:
        """Attempts may be missing from RUN: look soon."""
        self._sweep_at = min(self._sweep_at, asyncio.get_running_loop().time() + DOUBT_S)

    def _took(self, running: Running) -> None:
        self._outstanding[running.job] = running
        self._pools.setdefault(running.deployment, Pool()).outstanding += 1

    async def _recount(self) -> None:
        """What the ledger holds as running is outstanding, whatever was heard or missed."""
        running = await patiently(self._ledger.running)
        self._outstanding = {}
        for pool in self._pools.values():
            pool.outstanding = 0
        for one in running:
            self._took(one)
        self._metrics.pools(
            outstanding={name: pool.outstanding for name, pool in self._pools.items()},
            credit={name: pool.credit() for name, pool in self._pools.items()},
        )

    async def _sweep(self) -> None:
        """Publish again what runs by the ledger but is in no stream, put back what its deployment has left lying, and
        end what is long overdue.

        The streams are read in the order in which an attempt moves, the ledger last, so that none slips through.
        """
        handed = await patiently(lambda: in_run(self._nc))
        reported = await patiently(lambda: in_outcome(self._nc))
        left = [one for one in await patiently(self._ledger.running) if (one.job, one.attempt) not in reported]
        jobs = await patiently(lambda: self._ledger.open_jobs([one.job for one in left]))
        given_up = await self._give_up(left, jobs)
        strays = [one for one in left if (one.job, one.attempt) not in handed and one not in given_up]
        if strays:
            log.warning("strays attempts=%d", len(strays))
            self._metrics.strays.inc(len(strays))
            await self._publish(await patiently(lambda: self._ledger.attempts_of(strays)))
        await self._end_overdue(jobs)

    async def _give_up(self, running: Sequence[Running], jobs: Mapping[UUID, OpenJob]) -> set[Running]:
        """Attempts on deployments that have lost their workers, so that settle lets others have the jobs."""
        now = self._clock()
        found = stranded(
            running,
            {job.job: job.model for job in jobs.values()},
            catalog=self._catalog(),
            alive=self._alive(),
            silent={name for name, pool in self._pools.items() if pool.silent_ms > self._silence_ms},
        )
        if found:
            log.warning("given up attempts=%d", len(found))
            await publish_verdicts(self._nc, [released(one, now) for one in found])
        return set(found)

    async def _end_overdue(self, jobs: Mapping[UUID, OpenJob]) -> None:
        now = self._clock()
        overdue = [job.job for job in jobs.values() if job.deadline_ms + self._overdue_ms < now]
        if overdue:
            log.warning("overdue attempts=%d", len(overdue))
            await publish_verdicts(self._nc, [expiry(job, now) for job in overdue])

    async def _heard_waiting(self, message: Msg) -> None:
        self._announced += heard_waiting(message)
        self._wake.set()

    async def _heard_settled(self, message: Msg) -> None:
        now = self._clock()
        over: Counter[str] = Counter()
        for job, attempt in heard_settled(message):
            running = self._outstanding.get(job)
            if running is not None and running.attempt == attempt:
                del self._outstanding[job]
                over[running.deployment] += 1
        for deployment, count in over.items():
            pool = self._pools[deployment]
            pool.outstanding -= count
            pool.rate.add(count, now)
        self._wake.set()
