"""Ends the NATS connections of a key, through the servers' own account."""

import asyncio
import logging

import msgspec

from schemas.codec import UNREADABLE, jsoned
from schemas.jetstream import NatsConnection, NatsTimeoutError

log = logging.getLogger(__name__)
_WITHIN_S = 1.0
"""How long to wait for the servers' answers. Nobody knows how many servers there are."""
_MOST = 1024
"""How many connections a server lists at once."""


class _Ask(msgspec.Struct, frozen=True):
    user: str
    auth: bool = True
    limit: int = _MOST


class _Connection(msgspec.Struct, frozen=True):
    cid: int


class _Connections(msgspec.Struct, frozen=True):
    connections: tuple[_Connection, ...] = ()


class _Server(msgspec.Struct, frozen=True):
    id: str


class _Answer(msgspec.Struct, frozen=True):
    server: _Server
    data: _Connections = _Connections()


_answer = msgspec.json.Decoder(_Answer)


class Connections:
    """What clients have open, on all servers."""

    def __init__(self, nc: NatsConnection) -> None:
        """`nc` is a connection in the servers' own account."""
        self._nc = nc

    async def end(self, key: str) -> int:
        """End those of a key, each as soon as its server has named it. Return how many. Raises: NatsError."""
        inbox, ended = self._nc.new_inbox(), 0
        answers = await self._nc.subscribe(inbox)
        try:
            async with asyncio.timeout(_WITHIN_S):
                await self._nc.publish("$SYS.REQ.SERVER.PING.CONNZ", jsoned(_Ask(user=key)), inbox)
                while True:
                    message = await answers.next_msg(_WITHIN_S)
                    try:
                        answer = _answer.decode(message.data)
                    except UNREADABLE as error:
                        log.warning("connections not read error=%s", error)
                        continue
                    for one in answer.data.connections:
                        # a server leaves an order alone that wants no answer
                        await self._nc.publish(
                            f"$SYS.REQ.SERVER.{answer.server.id}.KICK", jsoned(one), f"{inbox}.ended"
                        )
                        ended += 1
        except (TimeoutError, NatsTimeoutError):
            return ended
        finally:
            if not self._nc.is_closed:
                await answers.unsubscribe()
