"""Ways to a server that lose what they are told to lose."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from broker.simulate.nats import faults
from broker.simulate.nats.connection import MemoryConnection
from broker.simulate.nats.server import Server
from schemas.jetstream import NatsConnection
from schemas.jetstream.client import NatsClient
from tests.proxy import Proxy

PULL = "CONSUMER.MSG.NEXT"
_NAME = "over a way"


class Way(Protocol):
    """A way to a server. While it loses, requests for messages do not arrive."""

    loses: bool

    @property
    def seen(self) -> int:
        """How many requests for messages were sent over it."""

    async def connect(self, **options: Any) -> NatsConnection: ...

    def cut(self) -> None:
        """Lose all connections over it."""

    def shut(self) -> None:
        """Let nobody in, and lose all connections."""

    def open(self) -> None: ...

    async def close(self) -> None: ...


class MemoryWay:
    """Implements `Link` too: all its connections share it."""

    def __init__(self, server: Server, ids: Callable[[], str]) -> None:
        self._server = server
        self._ids = ids
        self._opened: list[MemoryConnection] = []
        self.loses = False
        self.seen = 0

    async def connect(self, **options: Any) -> NatsConnection:
        connection = MemoryConnection(self._server, self, ids=self._ids)
        self._opened.append(connection)
        await connection.connect(name=_NAME, **options)
        return connection

    def to_server(self, call: Callable[..., None], *args: object) -> None:
        call(*(self._left(one) if isinstance(one, list) else one for one in args))

    def to_client(self, call: Callable[..., None], *args: object) -> None:
        call(*args)

    def _left(self, commands: Sequence[object]) -> list[object]:
        pulls = [one for one in commands if PULL in getattr(one, "subject", "")]
        self.seen += len(pulls)
        return [one for one in commands if not (self.loses and one in pulls)]

    def cut(self) -> None:
        for session in [one for one in self._server.sessions if one.name == _NAME]:
            faults.cut(session)

    def shut(self) -> None:
        self._server.is_away = True
        self.cut()

    def open(self) -> None:
        self._server.is_away = False

    async def close(self) -> None:
        for one in self._opened:
            await one.close()


class RealWay:
    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._opened: list[NatsClient] = []

    @property
    def loses(self) -> bool:
        return self._proxy.loses

    @loses.setter
    def loses(self, loses: bool) -> None:
        self._proxy.loses = loses

    @property
    def seen(self) -> int:
        return self._proxy.seen

    async def connect(self, **options: Any) -> NatsConnection:
        connection = NatsClient()
        self._opened.append(connection)
        await connection.connect(self._proxy.url, **options)
        return connection

    def cut(self) -> None:
        self._proxy.cut()

    def shut(self) -> None:
        self._proxy.is_open = False
        self._proxy.cut()

    def open(self) -> None:
        self._proxy.is_open = True

    async def close(self) -> None:
        for one in self._opened:
            await one.close()
