"""Raw pulls of one consumer: never more asked for than can start at once."""

import asyncio
from collections.abc import Callable

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error

from schemas.jetstream import Ended, Heartbeat, next_request, next_subject, pull_status
from schemas.units import Ms

_EXPIRES_MS = Ms(30_000)
_HEARTBEAT_MS = Ms(5_000)
SILENCE_S = 12.0
"""Two heartbeats and a little: then what was asked for is taken for lost."""
_GATHER_S = 0.002
"""Slots that come free together are asked for together."""


class Puller:
    """Asks for as many messages as `free()` says, beyond those asked for already, and hands each to `start`."""

    def __init__(
        self, nc: Client, *, stream: str, consumer: str, free: Callable[[], int], start: Callable[[Msg], None]
    ) -> None:
        self._nc = nc
        self._subject = next_subject(stream, consumer)
        self._inbox = nc.new_inbox()
        self._free = free
        self._start = start
        self._asked = 0
        self._scheduled = False
        self._heard_at = 0.0
        self._subscription: Subscription | None = None

    def __repr__(self) -> str:
        return f"Puller({self._subject}, asked={self._asked})"

    async def open(self) -> None:
        self._subscription = await self._nc.subscribe(
            self._inbox, cb=self._heard, pending_msgs_limit=-1, pending_bytes_limit=-1
        )
        self.wake()

    async def close(self) -> None:
        """Ask for nothing more; what is on its way is put back by the server's lease time."""
        if self._subscription is not None and not self._nc.is_closed:
            await self._subscription.unsubscribe()
        self._subscription = None

    def wake(self) -> None:
        """Slots came free."""
        if not self._scheduled and self._subscription is not None:
            self._scheduled = True
            asyncio.get_running_loop().call_later(_GATHER_S, self._ask_soon)

    def forget(self) -> None:
        """After a reconnect: the server does not know our pulls any more."""
        self._asked = 0
        self.wake()

    def check(self) -> None:
        """Now and then: no heartbeat came for too long."""
        if self._asked and asyncio.get_running_loop().time() - self._heard_at > SILENCE_S:
            self.forget()

    def _ask_soon(self) -> None:
        self._scheduled = False
        wanted = self._free() - self._asked
        if wanted <= 0 or self._subscription is None or not self._nc.is_connected:
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
        if not asking.cancelled() and isinstance(asking.exception(), Error):
            self._asked = 0

    async def _heard(self, message: Msg) -> None:
        self._heard_at = asyncio.get_running_loop().time()
        status = pull_status(message.headers) if message.headers and not message.reply else None
        match status:
            case None:
                self._asked = max(0, self._asked - 1)
                self._start(message)
            case Heartbeat():
                return
            case Ended(unused):
                self._asked = max(0, self._asked - unused) if unused else 0
                self.wake()
