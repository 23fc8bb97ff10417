"""Publishes reports to OUTCOME until they are durable there."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from schemas import subjects
from schemas.codec import bundled, bundles, packed
from schemas.jetstream import NatsConnection, NatsError, NotStored, Outgoing, publish_one
from schemas.job import Attempt
from schemas.outcome import Cancelled, EngineFault, Failed, Outcome, Report, ResponseTooLarge, Succeeded, Timings
from schemas.units import Ms
from workers.core.bounds import within_bounds
from workers.metrics import WorkerMetrics
from workers.pool import HeldAttempt, Slots
from workers.ports import LARGEST_BODY, Clock

log = logging.getLogger(__name__)
_LONGEST_RETRY_S = 5.0
_REST_BYTES = 64 * 1024
"""How many bytes of a message are left for headers and for what a report holds besides request and response."""


@dataclass(frozen=True, slots=True)
class ReportDelays:
    """How long a report waits for others to share a message with, and before it is published again.

    A message of its own costs NATS, broker and Postgres together several milliseconds of CPU, which an engine on the same
    machine could use.
    """

    share: float = 1 / 4
    """The report of a dispatched attempt waits for others for this share of the attempt's run time, …"""
    longest_s: float = 1.0
    """… but at most this long."""
    grace_s: float = 0.01
    """Stop waiting once a slot has been free this long: the broker may have nothing dispatched only because it does not
    know yet that the slot is free. A few results of the bulk lane go on waiting.
    """
    enough: int = 16
    """Publish at once when this many reports wait."""
    retry_s: float = 0.2
    """Publish a message that could not be stored again after this; the delay doubles each time."""


REPORT_DELAYS = ReportDelays()


@dataclass(slots=True, eq=False)
class PendingReport:
    """A report that is not stored yet."""

    payload: bytes
    due_s: float
    """When to send it, by the loop's clock."""
    grace_s: float
    """When to send it if a slot is free then."""
    is_deferrable: bool
    """Whether it may wait even while slots are free, as long as only a few such reports wait."""
    stored: "asyncio.Future[None]"


class Reporter:
    """Publishes reports that are due together as one message, and repeats it until it is stored.

    `slots` are those of leased attempts. `deferrable` returns how many outcomes can be held back with the slots kept busy.
    `message_ids` returns a new id at each call, unique within the stream's duplicate window.
    """

    def __init__(
        self,
        nc: NatsConnection,
        deployment: str,
        *,
        worker: str,
        slots: Slots,
        deferrable: Callable[[], int],
        clock: Clock,
        message_ids: Callable[[], str],
        metrics: WorkerMetrics,
        delays: ReportDelays,
    ) -> None:
        self._nc = nc
        self._subject = subjects.outcome(deployment)
        self._deployment = deployment
        self._worker = worker
        self._slots = slots
        self._deferrable = deferrable
        self._clock = clock
        self._message_ids = message_ids
        self._metrics = metrics
        self._delays = delays
        self._pending: list[PendingReport] = []
        self._has_more = asyncio.Event()

    def __repr__(self) -> str:
        return f"Reporter(pending={len(self._pending)})"

    def report_of(
        self, held: HeldAttempt, outcome: Outcome, *, run_ack: str | None = None, interactive: Attempt | None = None
    ) -> Report:
        """Make the report of an outcome.

        `run_ack` is what acks the message of a leased attempt; `interactive` is the whole attempt of a request.
        """
        now, started = self._clock(), held.started_ms
        return Report(
            job=held.attempt.job,
            attempt=held.attempt.number,
            execution=held.execution,
            delivery=held.delivery,
            deployment=self._deployment,
            worker=self._worker,
            outcome=within_bounds(within_limit(outcome, largest_body(self._nc.max_payload, held.attempt))),
            timings=Timings(
                started_ms=started,
                queue_ms=Ms(max(0, held.attempt.dispatched_ms - held.attempt.admitted_ms)),
                run_ms=Ms(max(0, now - started)),
                ttft_ms=None if held.first_ms is None else Ms(max(0, held.first_ms - started)),
            ),
            run_ack=run_ack,
            interactive=interactive,
            seal=held.attempt.seal,
        )

    async def stored(self, report: Report, *, is_deferrable: bool) -> Outcome:
        """Wait until the stream has the report. Return its outcome: a failure if the engine's could not be encoded."""
        try:
            payload = packed(report)
        except (UnicodeEncodeError, OverflowError) as error:
            fault = EngineFault(f"the engine's outcome cannot be encoded: {type(error).__name__}")
            report = msgspec.structs.replace(report, outcome=Failed(fault))
            payload = packed(report)
        self._metrics.reported(report)
        loop = asyncio.get_running_loop()
        now = loop.time()
        due_s, grace_s = now + wait_s(report, self._delays), now + self._delays.grace_s
        pending = PendingReport(payload, due_s, grace_s, is_deferrable, loop.create_future())
        self._pending.append(pending)
        self._has_more.set()
        await pending.stored
        return report.outcome

    async def serve(self) -> None:
        """Publish reports as they become due, until cancelled."""
        while True:
            await self._has_more.wait()
            self._has_more.clear()
            while self._pending:
                await self._gather()
                bundle = self._take()
                await self._store([one.payload for one in bundle])
                for one in bundle:
                    if not one.stored.done():  # its task may have been cancelled
                        one.stored.set_result(None)

    async def _gather(self) -> None:
        """Wait for more reports until one is due, then sort those that are due first to the front."""
        while (left := self._left_s()) > 0:
            self._has_more.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._has_more.wait()
        self._pending.sort(key=lambda one: one.due_s)

    def _left_s(self) -> float:
        """Return how long the pending reports may still wait for others; 0 or less if one is due."""
        if not self._slots.running or len(self._pending) >= self._delays.enough:
            return 0.0
        due_s = min(one.due_s for one in self._pending)
        if self._slots.free > 0:
            may_wait = len(self._pending) <= self._deferrable()
            graces = [one.grace_s for one in self._pending if not (may_wait and one.is_deferrable)]
            due_s = min(due_s, max(graces, default=due_s))
        return due_s - asyncio.get_running_loop().time()

    def _take(self) -> Sequence[PendingReport]:
        """Remove and return the first pending reports, as many as fit into one message."""
        count = len(next(bundles(one.payload for one in self._pending)))
        bundle, self._pending = self._pending[:count], self._pending[count:]
        return bundle

    async def _store(self, payloads: Sequence[bytes]) -> None:
        """Publish reports as one message, again and again until it is stored."""
        loop = asyncio.get_running_loop()
        message, message_id = Outgoing(self._subject, bundled(payloads)), self._message_ids()
        wait = self._delays.retry_s
        began = loop.time()
        while True:
            try:
                await publish_one(self._nc, message, message_id=message_id)
            except (NatsError, NotStored) as error:
                log.warning(
                    "outcomes not stored, trying again count=%d error=%s",
                    len(payloads),
                    str(error) or type(error).__name__,
                )
                await asyncio.sleep(wait)
                wait = min(_LONGEST_RETRY_S, wait * 2)
            else:
                self._metrics.stored.observe(loop.time() - began)
                return


def wait_s(report: Report, delays: ReportDelays) -> float:
    """Return how long a report may wait for others: not at all if a caller waits for its outcome, or cancelled the job."""
    return (
        0.0
        if report.interactive is not None or isinstance(report.outcome, Cancelled)
        else min(delays.longest_s, delays.share * report.timings.run_ms / 1000)
    )


def within_limit(outcome: Outcome, limit_bytes: int) -> Outcome:
    """Turn a response that is too large for a message into a failure that keeps its usage and charge.

    Of what was cancelled such a response is left out.
    """
    if isinstance(outcome, Cancelled) and outcome.body is not None and len(outcome.body) > limit_bytes:
        return msgspec.structs.replace(outcome, body=None)
    if isinstance(outcome, Succeeded) and len(outcome.body) > limit_bytes:
        return Failed(ResponseTooLarge(len(outcome.body), limit_bytes), outcome.usage, outcome.charge)
    return outcome


def largest_body(max_payload: int, attempt: Attempt) -> int:
    """Return how many bytes of response fit into one message with everything else that its report carries."""
    return max(0, min(LARGEST_BODY, max_payload - len(attempt.body) - _REST_BYTES))
