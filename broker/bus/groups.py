"""Pulls messages from a consumer and hands over all that have arrived, as one group.

While one group is committed the next one gathers. The load thus decides how large a group is, from one message when the
broker is idle to thousands, and no timer adds latency.

The lease of a message is short, so that another broker soon has what a killed one had pulled. What is held for long, as
while Postgres is away, is extended. A group that is committed at once costs nothing for it.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from broker.bus.desired import GROUP_ACK_WAIT_S, LARGEST_MESSAGE
from schemas.jetstream import (
    ACK,
    EXTEND,
    Heartbeat,
    Message,
    NatsConnection,
    NatsError,
    PullEnded,
    acknowledges,
    answer_all,
    next_request,
    next_subject,
    pull_status,
)
from schemas.units import Ms

log = logging.getLogger(__name__)
_EXPIRES_MS = Ms(30_000)
_HEARTBEAT_MS = Ms(5_000)
_PAUSE_S = 0.25
"""How long to wait after the server refused a pull (no such consumer, too many pulls) before the next one."""
_PULL_BYTES = 2 * LARGEST_MESSAGE
"""The most bytes of one pull. The server closes a connection that is too slow for what it is to be sent."""
_LOOK_S = 1.0
_FULL = "Exceeds MaxBytes"
"""The status of a pull that ended because it delivered as many bytes as it may."""
_COMPLETED = "Batch Completed"
"""The status of a pull with a bound on its bytes that delivered all the messages it asked for."""
_SILENCE_S = 12.0
"""How long a pull may be silent before it counts as lost: a little more than two heartbeats. A server that restarts forgets
the pulls of before."""
EXTEND_S = GROUP_ACK_WAIT_S / 4
"""How often to extend what is held. What came less than half of that ago can wait for the next time, so that the first time
comes before half of the lease is over."""


class Groups:
    """The messages of one consumer, by groups. At most `room` messages are held here or are on their way.

    A group is held until the next one is asked for.
    """

    def __init__(
        self,
        nc: NatsConnection,
        *,
        stream: str,
        consumer: str,
        room: int,
        group_bytes: int,
        silence_s: float = _SILENCE_S,
        extend_s: float = EXTEND_S,
    ) -> None:
        self._nc = nc
        self._subject = next_subject(stream, consumer)
        self._source = stream, consumer
        self._room = room
        self._group_bytes = group_bytes
        self._silence_s = silence_s
        self._extend_s = extend_s
        self._asked = 0
        self._gathered: list[Message] = []
        self._gathered_at = 0.0
        """When the first of them came, or when some were taken since."""
        self._group: list[Message] = []
        """What has been taken and is being committed."""
        self._group_at = 0.0
        self._bytes = 0
        """The size of the gathered messages."""
        self._arrived = asyncio.Event()
        self._last_message_at = 0.0
        self._inbox = nc.new_inbox()
        self._refused = False
        self._reconnects = 0
        """The connection's count of reconnects when it was last asked with no pull open."""

    def __repr__(self) -> str:
        return f"Groups({self._subject}, asked={self._asked}, gathered={len(self._gathered)})"

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Groups"]:
        subscription = await self._nc.subscribe(
            self._inbox, cb=self._on_message, pending_msgs_limit=-1, pending_bytes_limit=-1
        )
        extending = asyncio.create_task(self._extend())
        try:
            yield self
        finally:
            extending.cancel()
            if not self._nc.is_closed:
                await subscription.unsubscribe()

    async def _extend(self) -> None:
        """Extend the leases of what has been held for a while, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._extend_s)
            before = loop.time() - self._extend_s / 2
            held = [*self._group] if self._group_at <= before else []
            held += self._gathered if self._gathered_at <= before else ()
            try:
                await answer_all(self._nc, [message.reply for message in held], EXTEND)
            except NatsError as error:
                log.warning("not extended messages=%d error=%s", len(held), str(error) or type(error).__name__)

    async def next(self) -> Sequence[Message]:
        """Wait for messages, then take a group of at least one, at most half the room and about `group_bytes`."""
        self._group = []
        while not self._gathered:
            self._arrived.clear()
            if self._refused:
                self._refused = False
                await asyncio.sleep(_PAUSE_S)
            await self._pull()
            await self._wait()
        return await self.take_gathered()

    async def take_gathered(self) -> Sequence[Message]:
        """Take what has arrived, as far as a group may hold it. The group may be empty."""
        count = self._count()
        group, self._gathered = self._gathered[:count], self._gathered[count:]
        self._group_at = self._gathered_at = asyncio.get_running_loop().time()
        self._group += group
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
        """Wait until a message or a status arrives, or for a second; then give up a pull that is lost."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_LOOK_S):
                await self._arrived.wait()
        except TimeoutError:
            is_silent = loop.time() - self._last_message_at > self._silence_s
            if is_silent or self._nc.reconnects != self._reconnects:
                self._asked = 0

    async def _pull(self) -> None:
        wanted = self._room - self._asked - len(self._gathered)
        if wanted < self._room // 2 or self._bytes > _PULL_BYTES or not self._nc.is_connected:
            return
        if self._asked == 0:
            self._reconnects = self._nc.reconnects
            self._last_message_at = asyncio.get_running_loop().time()
        self._asked += wanted
        request = next_request(wanted, expires_ms=_EXPIRES_MS, heartbeat_ms=_HEARTBEAT_MS, most_bytes=_PULL_BYTES)
        try:
            await self._nc.publish(self._subject, request, self._inbox)
        except NatsError:
            self._asked = 0

    async def _on_message(self, message: Message) -> None:
        """Take a message of the consumer, or the status of a pull. Anything else in the inbox is from somebody else."""
        self._last_message_at = asyncio.get_running_loop().time()
        status = pull_status(message.headers) if message.headers and not message.reply else None
        match status:
            case None if not acknowledges(message.reply, *self._source):
                log.warning("message ignored inbox_of=%s bytes=%d", self._subject, len(message.data))
                return
            case None:
                self._asked = max(0, self._asked - 1)
                self._gathered_at = self._gathered_at if self._gathered else self._last_message_at
                self._gathered.append(message)
                self._bytes += len(message.data)
            case Heartbeat():
                return
            case PullEnded(unused, reason):
                self._asked = 0 if unused is None else max(0, self._asked - unused)
                self._refused = not (reason.startswith(("404", "408")) or _FULL in reason or _COMPLETED in reason)
        self._arrived.set()


async def ack_all(nc: NatsConnection, messages: Sequence[Message]) -> None:
    """Acknowledge messages without waiting for confirmation: if an ack is lost, its message is delivered again."""
    await answer_all(nc, [message.reply for message in messages], ACK)
