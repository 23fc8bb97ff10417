"""Sends what endpoints are told, again and again until they have taken it or their time is over.

Brokers share the messages. One that is taken is due again a while later, unless what came of it is recorded before: so a
broker that is killed in the middle of it loses none, and may have sent one twice.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from broker.core.webhooks import Answer, Due, came, headers, message
from broker.metrics import BrokerMetrics
from broker.ports import Clock, DeliveryLedger
from broker.retrying import until_available
from broker.roles.tasks import Tasks
from schemas.units import Ms

log = logging.getLogger(__name__)
EVERY_S = 1.0
"""Between two looks for messages that are due."""
CLAIM_MS = Ms(30_000)
"""How long a broker may take to send a message and record what came of it: twice what an endpoint may take."""
MOST = 256
"""How many messages are on their way at once. A guess."""
MOST_TO_ONE = 4
"""How many of them to one endpoint, and one if it failed the last time: endpoints that hang hold up no others."""
_LEAVE_S = 1.0
"""How long messages on their way may take when the broker stops. They are sent again later by another."""


class Post(Protocol):
    async def __call__(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Send a message once. Raises nothing."""


@dataclass(slots=True, kw_only=True)
class Webhooks:
    ledger: DeliveryLedger
    post: Post
    metrics: BrokerMetrics
    clock: Clock
    unit: Callable[[], float]
    every_s: float = EVERY_S
    claim_ms: Ms = CLAIM_MS
    _on_their_way: Counter[UUID] = field(default_factory=Counter)
    _failing: set[UUID] = field(default_factory=set)
    _ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self) -> None:
        """Send what is due until cancelled."""
        tasks = Tasks()
        try:
            while True:
                tasks.check()
                self._ended.clear()
                due = await until_available(self._claim)
                for one in due:
                    self._on_their_way[one.webhook] += 1
                    tasks.spawn(self._deliver(one))
                if not due:
                    await self._wait()
        finally:
            await tasks.finish(_LEAVE_S)

    async def _claim(self) -> list[Due]:
        limit = MOST - self._on_their_way.total()
        if limit <= 0:
            return []
        busy = [one for one, n in self._on_their_way.items() if n >= (1 if one in self._failing else MOST_TO_ONE)]
        now = self.clock()
        return await self.ledger.claim(busy, now, until=Ms(now + self.claim_ms), limit=limit)

    async def _deliver(self, due: Due) -> None:
        try:
            began_ms, body = self.clock(), message(due)
            answer = await self.post(due.url, headers(due, body, now=began_ms), body)
            now = self.clock()
            end = came(due, answer, began_ms=began_ms, now=now, unit=self.unit())
            self.metrics.webhook_sent(is_delivered=end.is_delivered)
            (self._failing.discard if end.is_delivered else self._failing.add)(due.webhook)
            await until_available(lambda: self.ledger.record(due, end, now))
            if not end.is_delivered:
                log.info(
                    "webhook not delivered delivery=%s webhook=%s attempt=%d status=%s error=%s is_last=%s",
                    due.id, due.webhook, due.attempt, answer.status, end.tried.error, end.next_ms is None,
                )  # fmt: skip
        finally:
            self._on_their_way[due.webhook] -= 1
            if self._on_their_way[due.webhook] <= 0:
                del self._on_their_way[due.webhook]
            self._ended.set()

    async def _wait(self) -> None:
        """Wait until a message has ended, which makes room, or for a while."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.every_s):
                await self._ended.wait()
