"""Runs a worker through its life: it serves, drains, puts back what is left, or ends when its engine dies.

serve ──stop()──► drain ──all done──────────────────────────────────► over
  │                 ├─────second stop(), or the time-out──────► put back ──► over
  └─────────────────┴─────the engine dies─────────────────────► put back ──► over, as failed
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator

from schemas import subjects
from schemas.health import Readiness
from schemas.jetstream import NatsConnection, NatsError
from schemas.job import Attempt
from schemas.units import Ms
from schemas.worker import CancelNotice, HeldExecution, WorkerBeat, held_bytes
from workers.beat import publish_beat
from workers.catalog import ActiveCatalog
from workers.core.readiness import readiness
from workers.interactive import InteractiveIntake
from workers.leased import LeasedIntake
from workers.leases import Leases
from workers.metrics import WorkerMetrics
from workers.offers import Offers
from workers.orders import Orders
from workers.pool import SlotPool
from workers.ports import Clock, Engine, Entropy
from workers.report import REPORT_DELAYS, ReportDelays, Reporter
from workers.run import Runner
from workers.ward import Ward

log = logging.getLogger(__name__)
KEEPALIVE_MS = Ms(1000)
"""How long a reply may be silent before a keep-alive is sent."""
TICK_S = 0.5
"""How often to check leases, time-outs, keep-alives and pulls."""
_FLUSH_S = 2
_LEAVE_S = 10.0
"""How long a leaving worker tries to report what it put back. What it cannot report is redelivered when its lease ends."""


class Worker:
    """Serves one deployment with one engine, over one connection.

    `reconnected` is set after each reconnect: the server may have lost the worker's pulls then.
    """

    def __init__(
        self,
        nc: NatsConnection,
        engine: Engine,
        *,
        name: str,
        key: str = subjects.DEFAULT,
        catalog: ActiveCatalog,
        lease_ms: Ms,
        clock: Clock,
        entropy: Entropy,
        message_ids: Callable[[], str],
        metrics: WorkerMetrics,
        reconnected: asyncio.Event,
        tick_s: float = TICK_S,
        keepalive_ms: Ms = KEEPALIVE_MS,
        delays: ReportDelays = REPORT_DELAYS,
        version: str = "0",
    ) -> None:
        self._nc = nc
        self._engine = engine
        self._name, self._key, self._version = name, key, version
        self._catalog = catalog
        self._clock, self._started_ms = clock, clock()
        self._metrics = metrics
        self._tick_s = tick_s
        self.pool = pool = SlotPool(engine.capacity)
        self._leases = Leases(nc, pool.leased, lease_ms=lease_ms, metrics=metrics)
        self._reporter = reporter = Reporter(
            nc,
            catalog.name,
            worker=name,
            slots=pool.leased,
            deferrable=lambda: catalog.deferrable_outcomes(engine.capacity().slots),
            clock=clock,
            message_ids=message_ids,
            metrics=metrics,
            delays=delays,
        )
        runner = Runner(engine, pool, catalog=catalog, clock=clock, entropy=entropy)
        self._offers = self._new_offers()
        self._leased = self._new_leased(runner, reporter)
        self._interactive = self._new_interactive(runner, reporter, keepalive_ms)
        self._ward = self._new_ward()
        self._pullers = (self._leased.puller, self._interactive.puller)
        self._reconnected = reconnected
        self._stop, self._stop_now = asyncio.Event(), asyncio.Event()

    def _new_offers(self) -> Offers:
        return Offers(
            self._nc,
            self.pool,
            deployment=self._catalog.name,
            key=self._key,
            worker=self._name,
            clock=self._clock,
            pulls_follow=self._leave_slots,
        )

    def _new_leased(self, runner: Runner, reporter: Reporter) -> LeasedIntake:
        return LeasedIntake(
            self._nc,
            self.pool,
            deployment=self._catalog.name,
            runner=runner,
            reporter=reporter,
            leases=self._leases,
            clock=self._clock,
            offers=self._offers,
        )

    def _new_interactive(self, runner: Runner, reporter: Reporter, keepalive_ms: Ms) -> InteractiveIntake:
        return InteractiveIntake(
            self._nc,
            self.pool,
            deployment=self._catalog.name,
            runner=runner,
            reporter=reporter,
            clock=self._clock,
            keepalive_ms=keepalive_ms,
            came=self._offers.came,
            freed=self._freed,
        )

    def _new_ward(self) -> Ward:
        return Ward(
            self._nc,
            self.pool,
            subject=subjects.ward(self.id),
            start=self._start_apart,
            offered=self._interactive.start,
            pulls_follow=self._check_pulls,
            announce=self._beat_now,
        )

    @property
    def id(self) -> subjects.WorkerId:
        return subjects.worker_id(self._catalog.name, self._key, self._name)

    def __repr__(self) -> str:
        return f"Worker({self._catalog.name}, {self.pool})"

    def stop(self) -> None:
        """Ask the worker to drain; if asked before, to put back what still runs."""
        (self._stop_now if self._stop.is_set() else self._stop).set()

    async def serve(self) -> None:
        """Take attempts and run them until cancelled. What runs then is dropped; leased attempts will be redelivered."""
        orders = Orders(
            self._nc, self._catalog.name, cancel=self._cancel, abort=self._abort, wanted=self._offers.heard
        )
        await orders.open()
        try:
            async with self.pool.tasks as group:
                for role in (self._reporter, self._leases, self._ward):
                    group.create_task(role.serve())
                group.create_task(self._renew_pulls())
                group.create_task(self._watch_engine())
                try:
                    await self._ward.open()
                    await self._leased.puller.open()
                    await self._interactive.open()
                    await self._tick()
                finally:
                    await self._take_no_more()
        finally:
            self.pool.abandon()
            if not self._nc.is_closed:
                await orders.close()

    async def until_over(self, *, drain_timeout_s: float, announce: Callable[[], Awaitable[None]]) -> bool:
        """Wait for a stop or the engine's death, then until nothing is held. Return whether all went well.

        `announce` tells the brokers that the worker is draining.
        """
        await _first_of(self._stop.wait(), self.pool.died.wait())
        self.pool.is_draining = True
        draining = asyncio.create_task(self.drain())
        try:
            await announce()
            if not self.pool.died.is_set():
                log.info("draining running=%d", self.pool.running)
                ends = asyncio.shield(draining), self._stop_now.wait(), self.pool.died.wait()
                await _first_of(*ends, within_s=drain_timeout_s)
            if self.pool.died.is_set():
                log.error("the engine died")
            if not draining.done():
                log.info("putting back running=%d", self.pool.running)
                self.pool.put_back()
            async with asyncio.timeout(_LEAVE_S):
                await draining
        except TimeoutError:
            log.warning("left before everything was reported: %s", self.pool)
            return False
        finally:
            draining.cancel()
        return not self.pool.died.is_set()

    async def drain(self) -> None:
        """Take nothing more, finish what runs, and return once all outcomes are durable and their messages acked."""
        await self._take_no_more()
        await self.pool.emptied()
        await self._leases.flush()

    async def _take_no_more(self) -> None:
        self.pool.is_draining = True
        for puller in self._pullers:
            await puller.close()
        await self._ward.close()

    def _start_apart(self, attempt: Attempt) -> None:
        (self._leased if attempt.reply_to is None else self._interactive).start_apart(attempt)

    async def _beat_now(self) -> None:
        """Send a beat, and wait until the server has it."""
        await publish_beat(self._nc, self.beat())
        with contextlib.suppress(NatsError):
            await self._nc.flush(_FLUSH_S)

    def _abort(self, reply_to: str) -> None:
        """End the interactive attempt that is answered on this subject."""
        self._ward.forget(reply_to)
        self._interactive.abort(reply_to)

    def _cancel(self, attempts: CancelNotice) -> None:
        """End these leased attempts."""
        self._leased.cancel(attempts)
        self._ward.release(attempts)

    def _freed(self) -> None:
        """Offer the slot in which a request ran to relays, else ask for dispatched attempts."""
        self._offers.deal()
        self._leased.puller.wake()

    def _leave_slots(self) -> None:
        """Ask for as many dispatched attempts as may start while requests wait."""
        self._leased.puller.wake()
        if self._leased.puller.is_excessive:
            self.pool.tasks.create_task(self._leased.puller.check())

    async def _check_pulls(self) -> None:
        for puller in self._pullers:
            await puller.check()

    def beat(self) -> WorkerBeat:
        """Return the worker's state for its beat, and set the gauges to it."""
        capacity, pool = self._engine.capacity(), self.pool
        self._metrics.at_work(capacity, leased=pool.leased.running, interactive=pool.interactive.running)
        return WorkerBeat(
            worker=self._name,
            deployment=self._catalog.name,
            key=self._key,
            engine=self._catalog.deployment.engine,
            slots=capacity.slots,
            reserve=capacity.reserve,
            running=pool.running,
            interactive=pool.interactive.running,
            draining=pool.is_draining,
            started_ms=self._started_ms,
            at_ms=self._clock(),
            version=self._version,
            revision=self._catalog.taken_up,
            paused=capacity.paused,
            wanted=self._offers.waiting,
            reconnects=self._nc.reconnects,
            held=held_bytes(self._held()),
        )

    def readiness(self, *, is_connected: bool) -> Readiness:
        """Say which kinds of attempts the worker can take now."""
        has_died, revision = self.pool.died.is_set(), self._catalog.revision
        return readiness(self.beat(), is_connected=is_connected, has_died=has_died, revision=revision)

    def _held(self) -> Iterator[HeldExecution]:
        """Name what it holds, what waits to run apart included."""
        for held in self.pool.held:
            yield HeldExecution(held.attempt.job, held.attempt.number, held.execution)
        yield from self._ward.held()

    async def _tick(self) -> None:
        """Check everything that is held, and the pulls, at each tick."""
        while True:
            await asyncio.sleep(self._tick_s)
            now = self._clock()
            self.pool.end_overdue(self._catalog.deployment, now)
            await self._interactive.keep_alive(now)
            await self._leases.extend()
            await self._check_pulls()

    async def _renew_pulls(self) -> None:
        """Pull anew after each reconnect."""
        while True:
            await self._reconnected.wait()
            self._reconnected.clear()
            for puller in self._pullers:
                await puller.renew()

    async def _watch_engine(self) -> None:
        """Notice an engine that dies while nothing runs."""
        log.error("engine gone: %s", await self._engine.gone())
        self.pool.died.set()


async def _first_of(*events: Awaitable[object], within_s: float | None = None) -> None:
    """Wait for the first of these events, or until the time is up."""
    waits = [asyncio.ensure_future(event) for event in events]
    try:
        await asyncio.wait(waits, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
