"""Reports on their way to OUTCOME, until they are durable there."""

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
from schemas.outcome import EngineFault, Failed, Outcome, Report, ResponseTooLarge, Succeeded, Timings
from schemas.units import Ms
from workers.metrics import WorkerMetrics
from workers.pool import HeldAttempt, Slots
from workers.ports import LARGEST_BODY, Clock

log = logging.getLogger(__name__)
_LONGEST_RETRY_S = 5.0
_REST_BYTES = 64 * 1024
"""Room in a message for headers and for what a report holds besides request and response."""


@dataclass(frozen=True, slots=True)
class Waits:
    """How long reports wait: for others to travel with, and until they are published again.

    Each message on its own costs NATS, broker and Postgres several milliseconds of CPU between them, which an engine on
    the same machine would use.
    """

    share: float = 1 / 4
    """The report of a dispatched attempt waits for others for this share of the time that the attempt ran."""
    longest_s: float = 1.0
    """But at most so long."""
    grace_s: float = 0.01
    """Stop waiting once a slot has been free for so long: somebody may wait for the outcomes, and with many of them the
    slot may be free because the broker does not know yet that it is. A few results of the bulk lane wait on.
    """
    enough: int = 16
    """So many reports wait for no more of them."""
    retry_s: float = 0.2
    """A message that could not be stored is published again after this; then after twice as long, and so on."""


WAITS = Waits()


@dataclass(slots=True, eq=False)
class PendingReport:
    """A report that is not stored yet."""

    payload: bytes
    due_s: float
    """When it is to be sent, by the loop's clock."""
    grace_s: float
    """When it is to be sent if a slot is free then."""
    is_deferrable: bool
    """It may wait beside free slots too, as long as there are few like it."""
    stored: "asyncio.Future[None]"


class Reporter:
    """Publishes the reports that are due together as one message, and again until it is stored.

    `slots` are those of leased attempts. `deferrable` says how many outcomes the broker need not know of to keep them
    busy. `message_ids` gives a new id, unique in the stream's duplicate window, at each call.
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
        waits: Waits,
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
        self._waits = waits
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
            delivery=held.delivery,
            deployment=self._deployment,
            worker=self._worker,
            outcome=within_limit(outcome, largest_body(self._nc.max_payload, held.attempt)),
            timings=Timings(
                started_ms=started,
                queue_ms=Ms(max(0, started - held.attempt.admitted_ms)),
                run_ms=Ms(max(0, now - started)),
                ttft_ms=None if held.first_ms is None else Ms(max(0, held.first_ms - started)),
            ),
            run_ack=run_ack,
            interactive=interactive,
        )

    async def stored(self, report: Report, *, is_deferrable: bool) -> Outcome:
        """Wait until the stream has the report; return its outcome as it stands there."""
        try:
            payload = packed(report)
        except (UnicodeEncodeError, OverflowError) as error:
            fault = EngineFault(f"what the engine says cannot be written: {type(error).__name__}")
            report = msgspec.structs.replace(report, outcome=Failed(fault))
            payload = packed(report)
        self._metrics.reported(report)
        loop = asyncio.get_running_loop()
        now = loop.time()
        due_s, grace_s = now + wait_s(report, self._waits), now + self._waits.grace_s
        pending = PendingReport(payload, due_s, grace_s, is_deferrable, loop.create_future())
        self._pending.append(pending)
        self._has_more.set()
        await pending.stored
        return report.outcome

    async def serve(self) -> None:
        """Send what is due, until cancelled."""
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
        """Wait for more until a report is due, then bring those that are due first to the front."""
        while (left := self._left_s()) > 0:
            self._has_more.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._has_more.wait()
        self._pending.sort(key=lambda one: one.due_s)

    def _left_s(self) -> float:
        if not self._slots.running or len(self._pending) >= self._waits.enough:
            return 0.0
        due_s = min(one.due_s for one in self._pending)
        if self._slots.free > 0:
            may_wait = len(self._pending) <= self._deferrable()
            graces = [one.grace_s for one in self._pending if not (may_wait and one.is_deferrable)]
            due_s = min(due_s, max(graces, default=due_s))
        return due_s - asyncio.get_running_loop().time()

    def _take(self) -> Sequence[PendingReport]:
        count = len(next(bundles(one.payload for one in self._pending)))
        bundle, self._pending = self._pending[:count], self._pending[count:]
        return bundle

    async def _store(self, payloads: Sequence[bytes]) -> None:
        loop = asyncio.get_running_loop()
        message, message_id = Outgoing(self._subject, bundled(payloads)), self._message_ids()
        wait = self._waits.retry_s
        began = loop.time()
        while True:
            try:
                await publish_one(self._nc, message, message_id=message_id)
            except (NatsError, NotStored) as error:
                log.warning("outcomes wait count=%d error=%s", len(payloads), str(error) or type(error).__name__)
                await asyncio.sleep(wait)
                wait = min(_LONGEST_RETRY_S, wait * 2)
            else:
                self._metrics.stored.observe(loop.time() - began)
                return


def wait_s(report: Report, waits: Waits) -> float:
    """How long a report may wait for others. The caller of an interactive attempt waits for its outcome already."""
    return 0.0 if report.interactive is not None else min(waits.longest_s, waits.share * report.timings.run_ms / 1000)


def within_limit(outcome: Outcome, limit_bytes: int) -> Outcome:
    """Turn a response that no message can carry into a failure; what it cost stays."""
    if isinstance(outcome, Succeeded) and len(outcome.body) > limit_bytes:
        return Failed(ResponseTooLarge(len(outcome.body), limit_bytes), outcome.usage, outcome.charge)
    return outcome


def largest_body(max_payload: int, attempt: Attempt) -> int:
    """Bytes of a response that fit into one message beside everything else that its report carries."""
    return max(0, min(LARGEST_BODY, max_payload - len(attempt.body) - _REST_BYTES))
