"""Raw pulls of one consumer: never more asked for than can start at once."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from functools import partial

from schemas.codec import UNREADABLE, unpacker
from schemas.jetstream import (
    Ended,
    Message,
    NatsConnection,
    NatsError,
    Subscription,
    deliveries,
    next_request,
    next_subject,
    pull_status,
)
from schemas.job import Attempt
from schemas.units import Ms

log = logging.getLogger(__name__)

_EXPIRES_MS = Ms(30_000)
_HEARTBEAT_MS = Ms(5_000)
SILENCE_S = 12.0
"""Two heartbeats and a little: then what was asked for is taken for lost."""
_GATHER_S = 0.002
"""Slots that come free together are asked for together."""
_attempt = unpacker(Attempt)


class Puller:
    """Asks for as many messages as `free()` says, beyond those asked for already, and hands each to `start`.

    It asks once half of what is free is not asked for: a request for each slot would cost more than a message.

    Pulls that are taken for lost may still be answered, and a few messages are on their way when it closes: they come
    to `start` too, which must not rely on `free`.
    """

    def __init__(
        self,
        nc: NatsConnection,
        *,
        stream: str,
        consumer: str,
        free: Callable[[], int],
        start: Callable[[Message], None],
        silence_s: float = SILENCE_S,
    ) -> None:
        self._nc = nc
        self._subject = next_subject(stream, consumer)
        self._inbox = ""
        self._free = free
        self._start = start
        self._silence_s = silence_s
        self._asked = 0
        self._is_open = False
        self._is_scheduled = False
        self._heard_at = 0.0
        self._subscription: Subscription | None = None

    def __repr__(self) -> str:
        return f"Puller({self._subject}, asked={self._asked})"

    async def open(self) -> None:
        self._is_open = True
        await self._listen()

    async def close(self) -> None:
        """Ask for nothing more; what is on its way has come when this returns."""
        self._is_open = False
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await _finish(subscription)

    def wake(self) -> None:
        """Slots came free."""
        if not self._is_scheduled and self._is_open:
            self._is_scheduled = True
            asyncio.get_running_loop().call_later(_GATHER_S, self._ask_soon)

    async def renew(self) -> None:
        """Ask anew, in another inbox: after a reconnect the server may know our pulls or not."""
        if not self._is_open:
            return
        old = self._subscription
        await self._listen()
        if old is not None:
            await _finish(old)

    async def check(self) -> None:
        """Now and then: ask again where asking failed or slots were added, and anew where no heartbeat came.

        Where capacity fell below what was asked for, that is withdrawn.
        """
        self.wake()
        is_silent = asyncio.get_running_loop().time() - self._heard_at > self._silence_s
        if self._asked and self._nc.is_connected and (is_silent or self._asked > self._free()):
            await self.renew()

    async def _listen(self) -> None:
        self._inbox = self._nc.new_inbox()
        self._asked = 0
        subscription = await self._nc.subscribe(
            self._inbox, cb=partial(self._heard, self._inbox), pending_msgs_limit=-1, pending_bytes_limit=-1
        )
        if self._is_open:
            self._subscription = subscription
            self.wake()
        else:
            await _finish(subscription)

    def _ask_soon(self) -> None:
        self._is_scheduled = False
        free = self._free()
        wanted = free - self._asked
        if wanted <= 0 or 2 * wanted < free or not self._is_open or not self._nc.is_connected:
            return
        if self._asked == 0:
            self._heard_at = asyncio.get_running_loop().time()
        self._asked += wanted
        asking = asyncio.ensure_future(self._ask(wanted))
        asking.add_done_callback(self._asked_for)

    async def _ask(self, count: int) -> None:
        request = next_request(count, expires_ms=_EXPIRES_MS, heartbeat_ms=_HEARTBEAT_MS)
        await self._nc.publish(self._subject, request, self._inbox)

    def _asked_for(self, asking: asyncio.Future[None]) -> None:
        if not asking.cancelled() and isinstance(asking.exception(), NatsError):
            self._asked = 0

    async def _heard(self, inbox: str, message: Message) -> None:
        is_current = inbox == self._inbox
        if message.reply:
            self._asked = max(0, self._asked - is_current)
            self._start(message)
            self.wake()  # for slots that were not asked for yet
        elif isinstance(ended := pull_status(message.headers or {}), Ended) and is_current:
            self._end(ended.unused)
        if is_current:
            self._heard_at = asyncio.get_running_loop().time()

    def _end(self, unused: int | None) -> None:
        """A pull ran out; or, without a number, the consumer cannot be asked now, and `check` tries again."""
        if unused is None:
            self._asked = 0
        else:
            self._asked = max(0, self._asked - unused)
            self.wake()


async def _finish(subscription: Subscription) -> None:
    """Handle what has been sent to it, then let go of it."""
    with contextlib.suppress(NatsError):
        await subscription.drain()


def attempt_of(message: Message) -> tuple[Attempt, int] | None:
    """The attempt of a message and how often it was delivered; None for bytes that are no attempt."""
    try:
        return _attempt.decode(message.data), deliveries(message.reply)
    except UNREADABLE:
        log.exception("no attempt subject=%s bytes=%d", message.subject, len(message.data))
        return None
