"""A raw pull consumer that hands over what came, as one group.

While one group is being committed the next one gathers, so a group is as large as the load makes it: one message when
idle, thousands under load, and never a timer in between.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error

from broker.bus.streams import LARGEST_MESSAGE
from schemas.jetstream import (
    ACK,
    Ended,
    Heartbeat,
    answer_all,
    next_request,
    next_subject,
    pull_status,
)
from schemas.units import Ms

_EXPIRES_MS = Ms(30_000)
_HEARTBEAT_MS = Ms(5_000)
_PAUSE_S = 0.25
"""After the server refused a pull (no such consumer, too many pulls), before the next."""
_PULL_BYTES = 2 * LARGEST_MESSAGE
"""Of one pull. The server cuts a connection off that is too slow for what waits to be sent to it."""
_LOOK_S = 1.0
_FULL = "Exceeds MaxBytes"
"""How a pull ends that has brought as many bytes as it may."""
_COMPLETED = "Batch Completed"
"""How a pull with a bound on its bytes ends that has brought as many messages as it asked for."""
_SILENCE_S = 12.0
"""Two heartbeats and a little: then the pull is taken for lost (a reconnect, a server that came back)."""


class Groups:
    """The messages of one consumer. `room` bounds what is held here or on its way, in messages."""

    def __init__(
        self,
        nc: Client,
        *,
        stream: str,
        consumer: str,
        room: int,
        group_bytes: int,
        silence_s: float = _SILENCE_S,
    ) -> None:
        self._nc = nc
        self._subject = next_subject(stream, consumer)
        self._room = room
        self._group_bytes = group_bytes
        self._silence_s = silence_s
        self._asked = 0
        self._gathered: list[Msg] = []
        self._bytes = 0
        """Of what is gathered."""
        self._came = asyncio.Event()
        self._heard_at = 0.0
        self._inbox = nc.new_inbox()
        self._refused = False
        self._reconnects = 0
        """Of the connection, when it was first asked."""

    def __repr__(self) -> str:
        return f"Groups({self._subject}, asked={self._asked}, gathered={len(self._gathered)})"

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Groups"]:
        subscription = await self._nc.subscribe(
            self._inbox, cb=self._heard, pending_msgs_limit=-1, pending_bytes_limit=-1
        )
        try:
            yield self
        finally:
            if not self._nc.is_closed:
                await subscription.unsubscribe()

    async def next(self) -> Sequence[Msg]:
        """At least one message, then as many as `group_bytes` allow and half the room; waits for ever."""
        while not self._gathered:
            self._came.clear()
            if self._refused:
                self._refused = False
                await asyncio.sleep(_PAUSE_S)
            await self._pull()
            await self._wait()
        return await self.came()

    async def came(self) -> Sequence[Msg]:
        """What is there now, as much as a group may hold."""
        count = self._count()
        group, self._gathered = self._gathered[:count], self._gathered[count:]
        self._bytes -= sum(len(message.data) for message in group)
        await self._pull()
        return group

    def _count(self) -> int:
        size = 0
        for count, message in enumerate(self._gathered[: self._room // 2]):
            size += len(message.data)
            if count and size > self._group_bytes:
                return count
        return min(len(self._gathered), self._room // 2)

    async def _wait(self) -> None:
        """Until something came, or it is time to ask anew: what was asked of another connection is lost."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_LOOK_S):
                await self._came.wait()
        except TimeoutError:
            is_silent = loop.time() - self._heard_at > self._silence_s
            if is_silent or self._nc.stats["reconnects"] != self._reconnects:
                self._asked = 0

    async def _pull(self) -> None:
        wanted = self._room - self._asked - len(self._gathered)
        if wanted < self._room // 2 or self._bytes > _PULL_BYTES or self._nc.is_reconnecting:
            return
        if self._asked == 0:
            self._reconnects = self._nc.stats["reconnects"]
            self._heard_at = asyncio.get_running_loop().time()
        self._asked += wanted
        request = next_request(wanted, expires_ms=_EXPIRES_MS, heartbeat_ms=_HEARTBEAT_MS, most_bytes=_PULL_BYTES)
        try:
            await self._nc.publish(self._subject, request, self._inbox)
        except Error:
            self._asked = 0

    async def _heard(self, message: Msg) -> None:
        self._heard_at = asyncio.get_running_loop().time()
        status = pull_status(message.headers) if message.headers and not message.reply else None
        match status:
            case None:
                self._asked = max(0, self._asked - 1)
                self._gathered.append(message)
                self._bytes += len(message.data)
            case Heartbeat():
                return
            case Ended(unused, reason):
                self._asked = 0 if unused is None else max(0, self._asked - unused)
                self._refused = not (reason.startswith(("404", "408")) or _FULL in reason or _COMPLETED in reason)
        self._came.set()


async def ack_all(nc: Client, messages: Sequence[Msg]) -> None:
    """Let the messages go. Not confirmed: one that is not heard is delivered again."""
    await answer_all(nc, [message.reply for message in messages], ACK)
