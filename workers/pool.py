"""The attempts of one worker: leased, run, reported, let go.

Two kinds. Dispatched attempts (RUN) are leased, and acked once their outcome is durable. Interactive ones (NOW) are
not, since the gateway owns their retry; their outcome is durable before their reply is complete.
"""

import asyncio
import contextlib
import json
import logging
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error

from schemas import subjects
from schemas.api import ErrorBody, Problem
from schemas.catalog import Deployment, Revision
from schemas.codec import CHUNK, ERROR, FAILURE, FINAL, KEEPALIVE, KIND, SEQ, UNREADABLE, jsoned, unpacker
from schemas.jetstream import ACK, EXTEND, TERM, answer_all, deliveries, heed_cancellation
from schemas.job import Attempt, Lane
from schemas.outcome import (
    Cancelled,
    ContextTooLong,
    EngineFault,
    EngineLost,
    Expired,
    Failed,
    Failure,
    Outcome,
    Released,
    Report,
    ResponseTooLarge,
    Succeeded,
    Throttled,
    Timings,
    failure_kind,
    public_message,
    retryable,
)
from schemas.units import Ms
from workers.core.capacity import few
from workers.core.leases import before_run, extend_every_ms, while_running
from workers.metrics import Metrics
from workers.ports import Clock, Engine, EngineDied
from workers.puller import Puller
from workers.report import WAITS, Reporter, Waits, largest_body, within_limit
from workers.run import Held, outcome_of, request_of

log = logging.getLogger(__name__)
KEEPALIVE_MS = Ms(1000)
_REMEMBERED = 100_000
"""Reported attempts, so that a redelivery is not run again."""
TICK_S = 0.5
"""How often leases, time-outs and pulls are looked after."""
_attempt = unpacker(Attempt)


class Pool:
    """What this worker holds. One engine, one event loop."""

    def __init__(
        self,
        nc: Client,
        engine: Engine,
        *,
        name: str,
        revision: Callable[[], Revision],
        deployment: str,
        lease_ms: Ms,
        clock: Clock,
        metrics: Metrics,
        tick_s: float = TICK_S,
        keepalive_ms: Ms = KEEPALIVE_MS,
        waits: Waits = WAITS,
    ) -> None:
        self._nc = nc
        self._engine = engine
        self._name = name
        self._revision = revision
        self._deployment = deployment
        self._lease_ms = lease_ms
        self._clock = clock
        self._metrics = metrics
        self._tick_s = tick_s
        self._keepalive_ms = keepalive_ms
        self._held: dict[tuple[bytes, int, bool], Held] = {}
        self._running = {False: 0, True: 0}
        self._reported: OrderedDict[tuple[bytes, int], None] = OrderedDict()
        self._reporter = Reporter(
            nc,
            deployment,
            metrics,
            free=partial(self._room, live=False),
            running=lambda: self._running[False],
            few=self._few,
            waits=waits,
        )
        self._idle = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None
        self.is_draining = False
        self.died = asyncio.Event()
        consumer = subjects.pool_consumer(deployment)
        self._pullers = {
            False: Puller(
                nc, stream=subjects.RUN, consumer=consumer, free=partial(self._free, live=False), start=self._leased
            ),
            True: Puller(
                nc, stream=subjects.NOW, consumer=consumer, free=partial(self._free, live=True), start=self._asked
            ),
        }

    def __repr__(self) -> str:
        return (
            f"Pool({self._deployment}, running={self._running[False]}+{self._running[True]}, held={len(self._held)})"
        )

    @property
    def running(self) -> int:
        return self._running[False] + self._running[True]

    @property
    def live(self) -> int:
        return self._running[True]

    async def serve(self) -> None:
        """Until cancelled. What runs then is dropped, and delivered again when its lease ends."""
        aborts = await self._nc.subscribe(subjects.CTL_ABORT, cb=self._abort)
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                group.create_task(self._reporter.serve())
                group.create_task(self._tick())
                for puller in self._pullers.values():
                    await puller.open()
        finally:
            self.is_draining = True
            for puller in self._pullers.values():
                await puller.close()
            if not self._nc.is_closed:
                await aborts.unsubscribe()

    async def drain(self) -> None:
        """Take nothing more, finish what runs, and wait until all outcomes are durable."""
        self.is_draining = True
        for puller in self._pullers.values():
            await puller.close()
        while self._held:
            self._idle.clear()
            await self._idle.wait()
        await self._reporter.flushed()

    def put_back(self, outcome: Outcome | None = None) -> None:
        """Stop what runs; it is reported as put back, which does not count as an attempt."""
        for held in list(self._held.values()):
            held.end(outcome or Released())

    def reconnected(self) -> None:
        if self._group is not None and not self.is_draining:
            for puller in self._pullers.values():
                self._group.create_task(puller.renew())

    def _free(self, *, live: bool) -> int:
        return 0 if self.is_draining or self.died.is_set() else self._room(live=live)

    def _room(self, *, live: bool) -> int:
        capacity = self._engine.capacity()
        return (capacity.reserve if live else capacity.slots) - self._running[live]

    def _few(self) -> int:
        """Outcomes that may wait while slots are free. Under a cap the broker looks ahead to nothing."""
        deployment = self._revision().catalog.deployments.get(self._deployment)
        is_capped = deployment is None or deployment.daily_cap_usd is not None
        return 0 if is_capped else few(self._engine.capacity().slots)

    def _surplus(self, *, live: bool) -> Outcome | None:
        """What becomes of an attempt that comes when none can start: capacity fell, or a pull was given up.

        It is not refused to the stream, which would send it back at once, to be counted as a delivery each time.
        """
        if self.died.is_set() or (self.is_draining and not live):
            return Released()
        if self._room(live=live) > 0:
            return None
        return Failed(Throttled()) if live else Released()

    def _leased(self, message: Msg) -> None:
        """A dispatched attempt."""
        attempt = self._decoded(message)
        if attempt is None:
            return
        if (attempt.job.bytes, attempt.number) in self._reported:
            self._metrics.skipped.inc()
            self._say(message.reply, ACK)
            self._pullers[False].wake()
            return
        key = (attempt.job.bytes, attempt.number, False)
        if (holding := self._held.get(key)) is not None:
            holding.ack = message.reply
            self._pullers[False].wake()
            return
        self._begin(attempt, message, live=False)

    def _asked(self, message: Msg) -> None:
        """An interactive attempt: it left the stream when it was delivered."""
        attempt = self._decoded(message)
        if attempt is not None and (attempt.job.bytes, attempt.number, True) not in self._held:
            self._begin(attempt, message, live=True)

    def _decoded(self, message: Msg) -> Attempt | None:
        try:
            return _attempt.decode(message.data)
        except UNREADABLE:
            log.exception("no attempt subject=%s bytes=%d", message.subject, len(message.data))
            self._say(message.reply, TERM)
            return None

    def _begin(self, attempt: Attempt, message: Msg, *, live: bool) -> None:
        assert self._group is not None  # noqa: S101 - pullers are opened inside the group
        now = self._clock()
        held = Held(attempt, deliveries(message.reply), message.reply, is_live=live, leased_ms=now, progressed_ms=now)
        held.ended = self._surplus(live=live)
        self._held[attempt.job.bytes, attempt.number, live] = held
        self._running[live] += 1
        held.task = self._group.create_task(self._run(held))

    async def _run(self, held: Held) -> None:
        held.begun = True
        try:
            outcome = held.ended or await self._outcome(held)
        except asyncio.CancelledError:
            if held.ended is None:
                raise
            outcome = held.as_ended(held.ended)
        finally:
            self._running[held.is_live] -= 1
            self._pullers[held.is_live].wake()
        try:
            self._report(held, outcome)
        except (UnicodeEncodeError, OverflowError) as error:
            self._report(held, Failed(EngineFault(f"what the engine says cannot be written: {type(error).__name__}")))

    async def _outcome(self, held: Held) -> Outcome:
        early = before_run(held.attempt, deliveries=held.delivery, now=held.leased_ms)
        if early is not None:
            return early
        model = self._revision().catalog.models.get(held.attempt.model)
        request = request_of(held, max_output_tokens=model.max_output_tokens if model else 1024)
        try:
            outcome = await outcome_of(held, request, self._engine, clock=self._clock, chunk=self._chunk)
        except EngineDied as error:
            self.died.set()
            return held.as_ended(Failed(EngineLost(str(error))))
        return within_limit(outcome, largest_body(self._nc.max_payload, held.attempt))

    def _report(self, held: Held, outcome: Outcome) -> None:
        now, attempt = self._clock(), held.attempt
        report = Report(
            job=attempt.job,
            attempt=attempt.number,
            delivery=held.delivery,
            deployment=self._deployment,
            worker=self._name,
            outcome=outcome,
            timings=Timings(
                started_ms=held.leased_ms,
                queue_ms=Ms(max(0, held.leased_ms - attempt.admitted_ms)),
                run_ms=Ms(max(0, now - held.leased_ms)),
                ttft_ms=None if held.first_ms is None else Ms(max(0, held.first_ms - held.leased_ms)),
            ),
            run_ack=None if held.is_live else held.ack,
            live=attempt if held.is_live else None,
        )
        self._metrics.reported(report)
        is_bulk_result = attempt.lane is Lane.BULK and isinstance(outcome, Succeeded)
        self._reporter.add(report, partial(self._stored, held, outcome), can_wait=is_bulk_result)

    async def _stored(self, held: Held, outcome: Outcome) -> str | None:
        """The outcome is durable: complete the reply, or say which message is to be let go."""
        key = (held.attempt.job.bytes, held.attempt.number)
        self._held.pop((*key, held.is_live), None)
        if not self._held:
            self._idle.set()
        if held.is_live:
            await self._reply(held, outcome)
            return None
        self._reported[key] = None
        if len(self._reported) > _REMEMBERED:
            self._reported.popitem(last=False)
        return held.ack

    async def _chunk(self, held: Held, data: bytes) -> None:
        held.chunks += 1
        held.spoken_ms = self._clock()
        with contextlib.suppress(Error):  # the final body repairs what is lost
            await self._tell(held, data, {KIND: CHUNK, SEQ: str(held.chunks)})
        heed_cancellation()

    async def _reply(self, held: Held, outcome: Outcome) -> None:
        sequence = str(held.chunks + 1)
        if isinstance(outcome, Succeeded):
            await self._tell(held, outcome.body, {KIND: FINAL, SEQ: sequence})
            return
        headers = {KIND: ERROR, SEQ: sequence}
        if isinstance(outcome, Failed) and retryable(outcome.failure):
            headers[FAILURE] = _ascii(outcome.failure)
        elif isinstance(outcome, Released):
            headers[FAILURE] = _ascii(EngineLost("the worker stopped"))
        await self._tell(held, jsoned(ErrorBody(problem_of(outcome))), headers)

    async def _tell(self, held: Held, data: bytes, headers: dict[str, str]) -> None:
        if held.attempt.reply_to is not None:
            await self._nc.publish(held.attempt.reply_to, data, headers=headers)

    def _say(self, ack: str, word: bytes) -> None:
        """An answer to JetStream, not waited for."""
        asyncio.ensure_future(self._nc.publish(ack, word)).add_done_callback(_noticed)

    async def _abort(self, message: Msg) -> None:
        """Of a request only: a dispatched job with the same id is another's."""
        for (job, _, is_live), held in list(self._held.items()):
            if is_live and job == message.data:
                held.end(Cancelled())

    async def _tick(self) -> None:
        """One ticker for everything held: leases, time-outs, keepalives."""
        extend_every = extend_every_ms(self._lease_ms) / 1000
        loop = asyncio.get_running_loop()
        extended_at = loop.time()
        while True:
            heed_cancellation()
            await asyncio.sleep(self._tick_s)
            now = self._clock()
            self._end_overdue(now)
            try:
                await self._keep_alive(now)
                if loop.time() - extended_at >= extend_every:
                    extended_at = loop.time()
                    await self._extend()
            except Error as error:
                log.warning("not extended error=%s", str(error) or type(error).__name__)
            for puller in self._pullers.values():
                await puller.check()

    def _end_overdue(self, now: Ms) -> None:
        deployment = self._revision().catalog.deployments.get(self._deployment) or Deployment(engine="?")
        for held in list(self._held.values()):
            outcome = while_running(
                held.attempt,
                started=held.leased_ms,
                progressed=held.progressed_ms,
                attempt_timeout=Ms(int(deployment.attempt_timeout_s * 1000)),
                progress_timeout=Ms(int(deployment.progress_timeout_s * 1000)),
                now=now,
            )
            if outcome is not None and held.task is not None and not held.task.done():
                held.end(outcome)

    async def _keep_alive(self, now: Ms) -> None:
        for held in list(self._held.values()):
            if held.is_live and now - (held.spoken_ms or held.leased_ms) >= self._keepalive_ms:
                held.spoken_ms = now
                await self._tell(held, b"", {KIND: KEEPALIVE})

    async def _extend(self) -> None:
        leases = [held.ack for held in self._held.values() if not held.is_live]
        await answer_all(self._nc, leases, EXTEND)
        self._metrics.extended.inc(len(leases))


def _noticed(answering: asyncio.Future[None]) -> None:
    if not answering.cancelled() and (error := answering.exception()) is not None:
        log.warning("not answered error=%s", str(error) or type(error).__name__)


def _ascii(failure: Failure) -> str:
    return json.dumps(msgspec.to_builtins(failure))


def problem_of(outcome: Failed | Expired | Cancelled | Released) -> Problem:
    match outcome:
        case Failed(ContextTooLong(message, context_tokens)):
            return Problem("context_too_long", message, limit=context_tokens)
        case Failed(ResponseTooLarge(_, limit_bytes) as failure):
            return Problem("response_too_large", public_message(failure), limit=limit_bytes)
        case Failed(failure):
            return Problem(failure_kind(failure), public_message(failure))
        case Expired():
            return Problem("expired", "the deadline passed")
        case Cancelled():
            return Problem("cancelled", "the request was cancelled")
        case Released():
            return Problem("worker_stopped", "the worker stopped: try again")
