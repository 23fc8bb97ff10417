"""Dispatches waiting jobs: the leader gives each free slot the job that fairness chooses.

Each round: move delayed jobs that are due into the backlog → read ahead → choose (pure) → commit queued → running under
the leader's term → publish into RUN, in order. Nobody else dispatches, so between two rounds the ledger is exact.
"""

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from uuid import UUID

from broker.bus.beats import Beats
from broker.bus.notices import decode_delayed, decode_settled, decode_waiting, listener
from broker.bus.runs import Rulings, Runs
from broker.core import route
from broker.core.controls import Controls
from broker.core.fairness import Order
from broker.core.fallbacks import Fallbacks
from broker.core.outstanding import Outstanding
from broker.core.pools import Pool, Silence, alive, snapshot
from broker.core.records import EndedAttempt, Flow, Pick, Place, Running
from broker.errors import ControlsChanged
from broker.metrics import BrokerMetrics
from broker.ports import AttemptLedger, BacklogLedger, Clock
from broker.retrying import until_available
from broker.roles.backlog import OVERDUE_MOST, BacklogReader
from broker.roles.caps import Caps
from broker.roles.controls_watch import ControlsWatch
from broker.roles.daily_spend import DailySpend
from broker.roles.sweep import Sweep
from schemas import subjects
from schemas.catalog import Catalog
from schemas.jetstream import NatsConnection
from schemas.job import Attempt
from schemas.ruling import Expire
from schemas.units import Ms

log = logging.getLogger(__name__)
ROUND = 1000
"""The most jobs in a round, which is one commit and one atomic batch."""
IDLE_S = 1.0
"""How long to wait for a notice before the next round: deadlines pass meanwhile, and a notice may be lost."""
RECOUNT_S = 5.0
"""How often to count the running attempts anew, in case notices were lost."""
REREAD_S = 15.0
"""How often to read the whole backlog again, in case notices were lost."""
SWEEP_S = 60.0
SWEEP_SOON_S = 0.5
"""How soon to sweep when attempts may be missing from RUN."""
_BUSY_S = 2.0
"""How long after jobs were started the leader counts as busy."""
_SILENT_LEASES = 2
"""After so many leases without a worker, a deployment's attempts are put back for others to run."""


class Dispatch:
    """Dispatches during one term. It is made when the leader's lease is taken, and dropped when the lease is lost."""

    _started_at = -math.inf
    """When jobs were last started, by the loop's clock."""

    def __init__(
        self,
        nc: NatsConnection,
        *,
        backlog: BacklogLedger,
        attempts: AttemptLedger,
        runs: Runs,
        rulings: Rulings,
        sweep: Sweep,
        catalog: Callable[[], Catalog],
        beats: Beats,
        daily_spend: DailySpend,
        controls: ControlsWatch,
        metrics: BrokerMetrics,
        clock: Clock,
        term: int,
        lease_s: float,
        remade: asyncio.Event,
        idle_s: float = IDLE_S,
        sweep_s: float = SWEEP_S,
        recount_s: float = RECOUNT_S,
        reread_s: float = REREAD_S,
    ) -> None:
        """`lease_s`: how long JetStream keeps an attempt for a worker that was killed.

        `remade` is set when RUN or OUTCOME was made anew: what it held is only in the ledger.
        """
        self._nc = nc
        self._attempts = attempts
        self._runs, self._rulings, self._sweep = runs, rulings, sweep
        self._catalog = catalog
        self._beats = beats
        self._daily_spend = daily_spend
        self._controls = controls
        self._controls_read = controls.active
        """Those that the backlog was read by."""
        self._metrics = metrics
        self._clock = clock
        self._term = term
        self._idle_s, self._sweep_s = idle_s, sweep_s
        self._recount_s, self._reread_s = recount_s, reread_s
        self._remade = remade
        self._silence_ms = int(_SILENT_LEASES * lease_s * 1000)
        self._sweep_at = 0.0
        self._reader = BacklogReader(backlog)
        self._order = Order()
        self._outstanding = Outstanding()
        self._caps = Caps(attempts, daily_spend, outstanding=self._outstanding, catalog=catalog)
        self._recount_at = 0.0
        self._silence = Silence(clock())
        self._fallbacks = Fallbacks()
        self._wake = asyncio.Event()

    def is_busy(self) -> bool:
        """Say whether jobs were started a moment ago."""
        return asyncio.get_running_loop().time() - self._started_at < _BUSY_S

    async def serve(self) -> None:
        """Dispatch until cancelled. Raises: Deposed, when another term has begun."""
        hear = partial(listener, ignored=self._metrics.ignored.labels("notice").inc)
        waiting = await self._nc.subscribe(subjects.CTL_WAITING, cb=hear(decode_waiting, self._on_waiting))
        delayed = await self._nc.subscribe(subjects.CTL_DELAYED, cb=hear(decode_delayed, self._on_delayed))
        settled = await self._nc.subscribe(subjects.CTL_SETTLED, cb=hear(decode_settled, self._on_settled))
        self._beats.changed = self._reader.changed = self._wake.set
        self._daily_spend.leads = self._outstanding
        self._controls.changed = self._wake.set
        try:
            await self._rounds()
        finally:
            self._daily_spend.leads = None
            self._beats.changed = lambda: None
            self._reader.close()
            self._controls.changed = lambda: None
            await waiting.unsubscribe()
            await delayed.unsubscribe()
            await settled.unsubscribe()

    async def _rounds(self) -> None:
        loop = asyncio.get_running_loop()
        self._recount_at = reread = self._sweep_at = loop.time()
        while True:
            self._wake.clear()
            if loop.time() >= self._recount_at:
                # Notices may have been lost, so count anew from the ledger.
                running = await until_available(self._attempts.running)
                self._outstanding.recount(await self._caps.recounted(running))
                await self._reader.ask_next_due()
                await self._sweep.end_overdue()
                self._look_at_pools()
                self._recount_at = loop.time() + self._recount_s
            if self._remade.is_set():
                self._remade.clear()
                self._sweep_soon()
            if loop.time() >= self._sweep_at:
                self._sweep_at = loop.time() + self._sweep_s
                pools = self._pools(self._clock())
                if not await self._sweep.run(alive=alive(pools), silent=self._silence.longer_than(self._silence_ms)):
                    self._sweep_soon()
            if loop.time() >= reread:
                await self._reader.restart()
                await self._end_expired(behind := await self._reader.behind(self._clock()))
                self._caps.forget()
                reread = loop.time() + (self._reread_s if len(behind) < OVERDUE_MOST else self._idle_s)
            if not await self._round():
                await self._pause()

    def _look_at_pools(self) -> None:
        """Measure the pools, and log which models have fallen back to their spares, or are back."""
        pools = self._pools(self._clock())
        self._metrics.pools(pools)
        for one in self._fallbacks.seen(self._catalog(), pools):
            names = ",".join(one.deployments)
            if one.because:
                log.warning("spares serve model=%s deployments=%s: %s", one.model, names, one.because)
            else:
                log.warning("spares rest model=%s deployments=%s: the regular ones serve again", one.model, names)

    async def _pause(self) -> None:
        due = self._reader.due_ms
        wait = self._idle_s if due is None else min(self._idle_s, max(0, due - self._clock()) / 1000)
        try:
            async with asyncio.timeout(wait):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _round(self) -> bool:
        """Dispatch once. True: there may be more to dispatch at once."""
        now, controls = self._clock(), self._controls.active
        await self._follow(controls)
        await self._reader.read(now, controls)
        await self._expire(now)
        ready = controls.may_start(self._reader.backlog.ready())
        await self._caps.refresh(ready)
        pools = self._pools(now)
        self._silence.observe(pools, now)
        picks = self._order.choose(
            ready,
            room=self._caps.room(pools),
            alive=alive(pools),
            catalog=self._catalog(),
            limit=ROUND,
            barred=self._caps.barred(pools),
        )
        if paid := await self._caps.paid(picks, pools):
            try:
                await self._dispatch(paid, now, controls)
            except ControlsChanged:
                await until_available(self._controls.refresh)
                return True
        return bool(picks) or self._reader.backlog.wants_more()

    async def _follow(self, controls: Controls) -> None:
        """Drop what was read of batches that are stopped now, and read again from the beginning if one may go on."""
        before, self._controls_read = self._controls_read, controls
        if controls is before:
            return
        if controls.let_go(before):
            await self._reader.restart(is_urgent=True)
        if controls.stops_jobs:
            now = self._clock()
            self._reader.backlog.keep(lambda flow, jobs: controls.keeps(flow, jobs, now))

    async def _expire(self, now: Ms) -> None:
        """End the jobs whose deadline passed while they waited."""
        await self._end_expired(
            [job for flow in self._reader.backlog.flows.values() for job in flow.take_expired(now)]
        )

    async def _end_expired(self, expired: Sequence[UUID]) -> None:
        """Rule that these have expired. Settle records it."""
        if expired:
            await self._rulings.publish([Expire(job) for job in expired])
            self._metrics.expired.inc(len(expired))

    def _pools(self, now: Ms) -> dict[str, Pool]:
        catalog = self._catalog()
        return snapshot(
            catalog,
            self._beats.alive(),
            self._daily_spend.accounts(catalog, by_job=True),
            now=now,
            paused=self._controls.active.deployment,
            outstanding=self._outstanding.counts,
            per_s=self._outstanding.per_s(),
        )

    async def _dispatch(self, picks: Sequence[Pick], now: Ms, controls: Controls) -> None:
        """Start what was chosen. Raises: Deposed; ControlsChanged, and nothing was started."""
        attempts = await until_available(
            lambda: self._attempts.dispatch(picks, term=self._term, controls=controls.version, now=now)
        )
        self._reader.backlog.remove(picks)
        if len(attempts) < len(picks):
            self._sweep_soon()  # the others waited no more; or they run, and Postgres's answer was lost
            self._recount_at = 0.0
        picked = {pick.place.job: pick for pick in picks}
        running = [_running(one, picked[one.job]) for one in attempts]
        if attempts:
            self._started_at = asyncio.get_running_loop().time()
        self._outstanding.dispatched(self._caps.reserved(running, attempts), now)
        pins = [route.with_limit(one, self._catalog()) if "@" in one.model else one for one in attempts]
        if pins and not await self._runs.publish(pins):
            self._sweep_soon()
        for deployment, count in Counter([attempt.deployment for attempt in attempts]).items():
            self._metrics.dispatched(deployment, count)

    def _sweep_soon(self) -> None:
        """Bring the next sweep forward, since attempts may be missing from RUN."""
        self._sweep_at = min(self._sweep_at, asyncio.get_running_loop().time() + SWEEP_SOON_S)

    def _on_waiting(self, places: Iterable[tuple[Flow, Place]]) -> None:
        self._reader.announced(places)
        self._wake.set()

    def _on_delayed(self, due: Ms) -> None:
        self._reader.knows_due(due)
        self._wake.set()

    def _on_settled(self, attempts: Iterable[EndedAttempt]) -> None:
        self._outstanding.settled(attempts, self._clock())
        self._wake.set()


def _running(attempt: Attempt, pick: Pick) -> Running:
    return Running(attempt.job, attempt.number, attempt.deployment, pick.flow, pick.tokens)
