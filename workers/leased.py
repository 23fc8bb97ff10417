"""Takes dispatched attempts: they are leased from RUN, and acked once their outcome is durable."""

from schemas import subjects
from schemas.jetstream import Message, NatsConnection
from schemas.job import Attempt, Lane
from schemas.outcome import Cancelled, Released, Succeeded
from schemas.worker import CancelNotice
from workers.cancels import Cancels
from workers.leases import Leases
from workers.offers import Offers
from workers.pool import HeldAttempt, SlotPool
from workers.ports import Clock
from workers.puller import Puller, attempt_of
from workers.report import Reporter
from workers.run import Runner


class LeasedIntake:
    """Takes dispatched attempts for the free slots, runs each, stores its outcome and acks its message."""

    def __init__(
        self,
        nc: NatsConnection,
        pool: SlotPool,
        *,
        deployment: str,
        runner: Runner,
        reporter: Reporter,
        leases: Leases,
        clock: Clock,
        offers: Offers,
    ) -> None:
        self._pool = pool
        self._slots = pool.leased
        self._runner = runner
        self._reporter = reporter
        self._leases = leases
        self._clock = clock
        self._offers = offers
        self._cancels = Cancels()
        self.puller = Puller(
            nc,
            stream=subjects.RUN,
            consumer=subjects.pool_consumer(deployment),
            free=offers.free_for_dispatched,
            start=self._start,
        )

    def __repr__(self) -> str:
        return f"LeasedIntake({self._slots})"

    def _start(self, message: Message) -> None:
        """Start the attempt of a message, unless this worker holds it or has reported it already."""
        delivered = attempt_of(message)
        if delivered is None:
            self._leases.terminate(message.reply)
            return
        attempt, delivery = delivered
        key = (attempt.job.bytes, attempt.number)
        if key in self._leases.released and not attempt.is_stray:
            self._leases.skip(message.reply)
            return
        if (running := self._slots.attempts.get(key)) is not None:
            running.ack_subject = message.reply
            return
        held = self._runner.hold(attempt, self._slots, key, delivery=delivery, ack_subject=message.reply)
        if self._pool.free(self._slots) <= 0:  # capacity fell, requests took the slot, or a lost pull was answered
            # reported instead of nak'd: after a nak the stream delivers at once, and counts a delivery each time
            held.ended = Released()
            self._pool.tasks.create_task(self.puller.check())  # so that no more come
        self._start_held(held)

    def start_apart(self, attempt: Attempt) -> None:
        """Start an attempt that came to this worker alone. There is no message to ack."""
        held = self._runner.hold(attempt, self._slots, (attempt.job.bytes, attempt.number))
        if self._pool.is_draining or self._pool.died.is_set():
            held.ended = Released()
        self._start_held(held)

    def _start_held(self, held: HeldAttempt) -> None:
        """Start an attempt. One that is cancelled already is only reported."""
        if self._cancels.heard and self._cancels.has(held.attempt.job, held.attempt.number, held.started_ms):
            held.ended = Cancelled()
        self._pool.start(held, self._run(held))

    def cancel(self, attempts: CancelNotice) -> None:
        """End those of the attempts that this worker holds, and remember all."""
        now = self._clock()
        for job, attempt in attempts:
            self._cancels.note(job, attempt, now)
            if (held := self._slots.attempts.get((job.bytes, attempt))) is not None:
                held.end(Cancelled())

    async def _run(self, held: HeldAttempt) -> None:
        """Run the attempt, store its outcome, and only then ack its message."""
        try:
            outcome = await self._runner.outcome(held)
            self.puller.wake()
            if self._offers.is_wanted:
                self._offers.deal()
            report = self._reporter.report_of(held, outcome, run_ack=held.ack_subject or None)
            is_bulk_result = held.attempt.lane is Lane.BULK and isinstance(report.outcome, Succeeded)
            await self._reporter.stored(report, is_deferrable=is_bulk_result)
            self._leases.release(held)
        finally:
            self._pool.let_go(held)
