"""Offers slots to the relays at which interactive requests wait, and keeps dispatched attempts out of these."""

import logging
from collections.abc import Callable

from schemas import subjects
from schemas.codec import KIND, OFFER, packed
from schemas.jetstream import NatsConnection, NatsError
from schemas.job import Attempt
from schemas.worker import WantedNotice
from workers.core.wanted import Wanted
from workers.pool import SlotPool
from workers.ports import Clock

log = logging.getLogger(__name__)


class Offers:
    """What a worker knows of the requests that wait for its slots."""

    def __init__(
        self,
        nc: NatsConnection,
        pool: SlotPool,
        *,
        deployment: str,
        key: str,
        worker: str,
        clock: Clock,
        pulls_follow: Callable[[], None],
    ) -> None:
        """`pulls_follow` adapts the pulls of dispatched attempts to what they may still take."""
        self._nc = nc
        self._pool = pool
        self._deployment, self._key, self._worker = deployment, key, worker
        self._clock = clock
        self._pulls_follow = pulls_follow
        self._wanted = Wanted()
        self.is_wanted = False
        """Whether requests may wait, as far as was heard lately. Nothing else is looked at while none do."""

    def __repr__(self) -> str:
        return f"Offers({self._wanted})"

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        if not self.is_wanted:
            return 0
        count = self._wanted.waiting(self._clock())
        self.is_wanted = bool(self._wanted)
        return count

    def free_for_dispatched(self) -> int:
        """Return how many dispatched attempts may be pulled: they leave a free slot for each request that waits."""
        free = self._pool.free(self._pool.leased)
        return max(0, min(free, self._pool.interactive.free - self.waiting)) if self.is_wanted else free

    def heard(self, notice: WantedNotice) -> None:
        """Note how many requests wait at a relay, and offer it what is free."""
        relay, count = notice
        self._wanted.heard(relay, count, self._clock())
        self.is_wanted = bool(self._wanted)
        self.deal()
        self._pulls_follow()

    def came(self, attempt: Attempt) -> None:
        """Note that a request has come: it waits at its relay no longer."""
        if self.is_wanted and attempt.reply_to is not None:
            self._wanted.came(subjects.replying_relay(attempt.reply_to))

    def deal(self) -> None:
        """Offer the slots that are free, if requests wait."""
        if not self.is_wanted:
            return
        for relay, count in self._wanted.offers(self._pool.free(self._pool.interactive), self._clock()).items():
            self._pool.tasks.create_task(self._offer(relay, count))

    async def _offer(self, relay: str, count: int) -> None:
        to = subjects.reply(subjects.ReplyTo(self._deployment, relay, subjects.OFFERS))
        try:
            await self._nc.publish(to, packed((self._key, self._worker, count)), headers={KIND: OFFER})
        except NatsError as error:
            log.warning("no offer error=%s", str(error) or type(error).__name__)
