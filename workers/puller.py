"""Pulls the messages of one consumer, never more than can start at once."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from functools import partial

from schemas.codec import UNREADABLE, unpacker
from schemas.jetstream import (
    Message,
    NatsConnection,
    NatsError,
    PullEnded,
    Subscription,
    acknowledges,
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
"""How long without a message before a pull counts as lost: two heartbeats and a little more."""
_GATHER_S = 0.002
"""How long to wait, so that slots that come free together are requested together."""
_attempt = unpacker(Attempt)


class Puller:
    """Requests as many messages as `free()` allows, less those requested already, and hands each to `start`.

    It waits until half of the free slots have no request: a pull for each slot would cost more than its message.

    A pull that counts as lost may still be answered, and messages may be on their way when the puller closes. They are
    handed to `start` too, which must therefore check the free slots itself.
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
        self._source = stream, consumer
        self._inbox = ""
        self._free = free
        self._start = start
        self._silence_s = silence_s
        self._requested = 0
        self._is_open = False
        self._is_scheduled = False
        self._last_message_at = 0.0
        self._subscription: Subscription | None = None

    def __repr__(self) -> str:
        return f"Puller({self._subject}, requested={self._requested})"

    async def open(self) -> None:
        self._is_open = True
        await self._listen()

    async def close(self) -> None:
        """Request nothing more. Messages that were on their way have been handed over when this returns."""
        self._is_open = False
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await _drain(subscription)

    def wake(self) -> None:
        """Request messages soon: slots came free."""
        if not self._is_scheduled and self._is_open:
            self._is_scheduled = True
            asyncio.get_running_loop().call_later(_GATHER_S, self._request_free)

    async def renew(self) -> None:
        """Withdraw all pulls and request again, in another inbox: after a reconnect the server may have lost them or not."""
        if not self._is_open:
            return
        old = self._subscription
        await self._listen()
        if old is not None:
            await _drain(old)

    @property
    def is_excessive(self) -> bool:
        """Whether more is requested than may start."""
        return self._requested > self._free()

    async def check(self) -> None:
        """Repair the pulls; to be called now and then.

        Request more if a request failed or slots were added. Start over if no heartbeat came, or if capacity fell below
        what was requested.
        """
        self.wake()
        is_silent = asyncio.get_running_loop().time() - self._last_message_at > self._silence_s
        if self._requested and self._nc.is_connected and (is_silent or self.is_excessive):
            await self.renew()

    async def _listen(self) -> None:
        """Subscribe to a new inbox, with nothing requested yet."""
        self._inbox = self._nc.new_inbox()
        self._requested = 0
        subscription = await self._nc.subscribe(
            self._inbox, cb=partial(self._take, self._inbox), pending_msgs_limit=-1, pending_bytes_limit=-1
        )
        if self._is_open:
            self._subscription = subscription
            self.wake()
        else:
            await _drain(subscription)

    def _request_free(self) -> None:
        """Request messages for the free slots that have no request, if those are at least half of them."""
        self._is_scheduled = False
        free = self._free()
        wanted = free - self._requested
        if wanted <= 0 or 2 * wanted < free or not self._is_open or not self._nc.is_connected:
            return
        if self._requested == 0:
            self._last_message_at = asyncio.get_running_loop().time()
        self._requested += wanted
        requesting = asyncio.ensure_future(self._request(wanted))
        requesting.add_done_callback(self._check_sent)

    async def _request(self, count: int) -> None:
        request = next_request(count, expires_ms=_EXPIRES_MS, heartbeat_ms=_HEARTBEAT_MS)
        await self._nc.publish(self._subject, request, self._inbox)

    def _check_sent(self, requesting: asyncio.Future[None]) -> None:
        if not requesting.cancelled() and isinstance(requesting.exception(), NatsError):
            self._requested = 0

    async def _take(self, inbox: str, message: Message) -> None:
        is_current = inbox == self._inbox
        if acknowledges(message.reply, *self._source):
            self._requested = max(0, self._requested - is_current)
            self._start(message)
            self.wake()  # some free slots may have no request yet
        elif message.reply:
            log.warning("message ignored inbox_of=%s bytes=%d", self._subject, len(message.data))
        elif isinstance(ended := pull_status(message.headers or {}), PullEnded) and is_current:
            self._end(ended.unused)
        if is_current:
            self._last_message_at = asyncio.get_running_loop().time()

    def _end(self, unused: int | None) -> None:
        """Note that a pull ended. Without `unused` the consumer cannot be pulled now, and `check` tries again."""
        if unused is None:
            self._requested = 0
        else:
            self._requested = max(0, self._requested - unused)
            self.wake()


async def _drain(subscription: Subscription) -> None:
    """Unsubscribe once the messages that were sent to it have been handled."""
    with contextlib.suppress(NatsError):
        await subscription.drain()


def attempt_of(message: Message) -> tuple[Attempt, int] | None:
    """Decode the attempt of a message, and how often it was delivered; None if the bytes are not an attempt."""
    try:
        return _attempt.decode(message.data), deliveries(message.reply)
    except UNREADABLE:
        log.exception("undecodable attempt subject=%s bytes=%d", message.subject, len(message.data))
        return None
