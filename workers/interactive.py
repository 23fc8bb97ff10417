"""Takes interactive attempts: they come from NOW, and their replies are completed once their outcome is durable.

They have no lease. NOW deletes them when they are delivered, and the relay retries them. Those that a relay sends to this
worker alone, since it offered a slot, come over core NATS. One that finds no free slot is turned back, to wait at its relay.
"""

import logging
from collections.abc import Callable

from schemas import subjects
from schemas.jetstream import Message, NatsConnection
from schemas.job import Attempt
from schemas.outcome import Cancelled, Failed, RelayLost, Released
from schemas.units import Ms
from workers.pool import HeldAttempt, Key, SlotPool
from workers.ports import Clock
from workers.puller import Puller, attempt_of
from workers.reply import Replier
from workers.report import Reporter
from workers.run import Runner

log = logging.getLogger(__name__)


class InteractiveIntake:
    """Takes requests for the free slots, runs each, stores its outcome and completes its reply."""

    def __init__(
        self,
        nc: NatsConnection,
        pool: SlotPool,
        *,
        deployment: str,
        runner: Runner,
        reporter: Reporter,
        clock: Clock,
        keepalive_ms: Ms,
        came: Callable[[Attempt], None],
        freed: Callable[[], None],
    ) -> None:
        """`came` is called with each attempt that arrives, `freed` when a slot came free."""
        self._nc = nc
        self._pool = pool
        self._slots = pool.interactive
        self._runner = runner
        self._reporter = reporter
        self._clock = clock
        self._keepalive_ms = keepalive_ms
        self._came, self._freed = came, freed
        self._replies: dict[Key, Replier] = {}
        self._unheard_at = nc.new_inbox()
        """The prefix of the subjects on which the server says that nobody hears a reply: the relay is gone."""
        self._held: dict[str, HeldAttempt] = {}
        """The attempts that are answered, by the last token of that subject."""
        self.puller = Puller(
            nc,
            stream=subjects.NOW,
            consumer=subjects.pool_consumer(deployment),
            free=pool.to_request,
            start=self._start,
        )

    def __repr__(self) -> str:
        return f"InteractiveIntake({self._slots})"

    async def open(self) -> None:
        await self._nc.subscribe(f"{self._unheard_at}.*", cb=self._relay_gone)
        await self.puller.open()

    async def _relay_gone(self, message: Message) -> None:
        """End the attempt whose relay is lost: nobody will read the answer, or record how the request ended."""
        held = self._held.get(message.subject.rpartition(".")[2])
        if held is None or (message.headers or {}).get("Status") != "503":
            return
        if (reply := self._replies.get(held.key)) is not None and reply.unheard():
            log.warning("ended, since its relay is gone job=%s", held.attempt.job)
            held.end(Failed(RelayLost()))

    def _start(self, message: Message) -> None:
        """Start the attempt of a message, unless this worker holds it already."""
        delivered = attempt_of(message)
        if delivered is None:
            return
        attempt, delivery = delivered
        self.start(attempt, delivery=delivery, ack_subject=message.reply)

    def start(self, attempt: Attempt, *, delivery: int = 1, ack_subject: str = "") -> None:
        """Start an attempt, unless this worker holds it already. Without a free slot it is turned back."""
        self._came(attempt)
        key = _key(attempt)
        if key in self._slots.attempts:
            return
        if self._slots.free <= 0 or self._pool.is_apart:  # while it drains, it runs what was already on its way
            self._pool.tasks.create_task(Replier(self._nc, attempt.reply_to, clock=self._clock).turn_back())
            return
        held = self._runner.hold(attempt, self._slots, key, delivery=delivery, ack_subject=ack_subject)
        if self._pool.died.is_set():
            held.ended = Released()
        self._pool.start(held, self._run(held))

    def start_apart(self, attempt: Attempt) -> None:
        """Start an attempt that came to this worker alone."""
        held = self._runner.hold(attempt, self._slots, _key(attempt))
        if self._pool.is_draining or self._pool.died.is_set():
            held.ended = Released()
        self._pool.start(held, self._run(held))

    async def _run(self, held: HeldAttempt) -> None:
        """Run the attempt, store its outcome, and only then complete its reply."""
        attempt, token = held.attempt, f"{held.execution.int:x}"
        reply = Replier(self._nc, attempt.reply_to, clock=self._clock, unheard_at=f"{self._unheard_at}.{token}")
        self._replies[held.key], self._held[token] = reply, held
        try:
            outcome = await self._runner.outcome(held, piece=reply.piece)
            self.puller.wake()
            self._freed()
            report = self._reporter.report_of(held, outcome, interactive=attempt)
            await reply.end(await self._reporter.stored(report, is_deferrable=False))
        finally:
            del self._replies[held.key], self._held[token]
            self._pool.let_go(held)

    def abort(self, reply_to: str) -> None:
        """End the attempt that is answered on this subject. Other attempts of the job go on."""
        for held in list(self._slots.attempts.values()):
            if held.attempt.reply_to == reply_to:
                held.end(Cancelled())

    async def keep_alive(self, now: Ms) -> None:
        """Send a keep-alive to the relay of every request that has been silent for a while."""
        for reply in list(self._replies.values()):
            await reply.keep_alive(now, every_ms=self._keepalive_ms)


def _key(attempt: Attempt) -> Key:
    """Name an attempt also by its relay: two relays may have requests of one id."""
    return attempt.job.bytes + _reply_subject(attempt), attempt.number


def _reply_subject(attempt: Attempt) -> bytes:
    """Return the subject of the reply, which is what a relay calls an attempt."""
    return str(attempt.reply_to).encode()
