"""HTTP in a simulated world: clients ask the fronts of brokers over ASGI, through a network with delays and losses.

    async with web.asking(process, "GET", "/v1/models", headers={"authorization": f"Bearer {key}"}) as answer:
        async for piece in answer.pieces(): …

Each request has a connection of its own. It ends when the process at either end dies, is cut or leaves; each end hears of
that later, and no later than `_UNHEARD_S`.
"""

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from broker.config import HttpLimits
from broker.doors.health import App
from broker.simulate.world.world import Process, World

WINDOW_BYTES = 64 * 1024
"""How much of an answer may be on its way or unread, before whoever sends more waits."""
_DRAIN_S = HttpLimits().drain_s
"""How long requests under way may take when a broker leaves, before they are ended."""
_QUICK_S, _SLOW_S = 0.0003, 0.02
_SLOW = 0.03
"""How many messages take longer."""
_UNHEARD_S = 15.0
"""How long the other end of a connection does not hear that a machine is gone."""
_WITH_MACHINE = 0.3


class ConnectionLost(ConnectionError):
    """There is no broker, or the connection ended before the answer was whole."""


class _Way:
    """One direction of a connection: late, and in order."""

    def __init__(self, web: "Web", to: Process) -> None:
        self._web = web
        self._to = to
        self._last_s = 0.0
        self._held: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self.is_stalled = False

    def send(self, call: Callable[..., None], *args: object, after_s: float = 0.0) -> None:
        if self.is_stalled:
            self._held.append((call, args))
            return
        world = self._web.world
        self._web.count += 1
        self._last_s = max(self._last_s, world.now_s() + self._web.delay_s() + after_s)
        world.call_at(self._last_s, self._to.call_soon, call, *args)

    def go_on(self) -> None:
        self.is_stalled = False
        held, self._held = self._held, deque()
        for call, args in held:
            self.send(call, *args)


class _End:
    """What has come at one end of a connection. It lives in the loop of the process at this end."""

    def __init__(self) -> None:
        self._came: deque[Any] = deque()
        self._rung = asyncio.Event()
        self.is_lost = False
        """The connection has ended, as far as this end knows."""

    def take_in(self, message: Any) -> None:
        self._came.append(message)
        self.wake()

    def lose(self) -> None:
        self.is_lost = True
        self.wake()

    def wake(self) -> None:
        self._rung.set()

    async def wait(self) -> None:
        await self._rung.wait()
        self._rung.clear()

    def next(self) -> Any | None:
        return self._came.popleft() if self._came else None


class Served:
    """A request as the broker has it: an ASGI server's side of it."""

    def __init__(self, exchange: "Exchange") -> None:
        self.end = _End()
        self.unread = 0
        """Bytes that the client has not read yet, as far as this end knows."""
        self.is_complete = False
        self.task: asyncio.Task[None] | None = None
        self._exchange = exchange
        self._room = _End()
        self._has_begun = False
        self._length = self._sent_bytes = 0
        """How long the answer is, as it says; and how much of it was sent."""

    def begin(self, app: App, scope: Mapping[str, Any]) -> None:
        exchange = self._exchange
        if exchange.server in exchange.web.brokers():
            self.task = asyncio.get_running_loop().create_task(self._run(app, scope))
        else:  # it has closed its door meanwhile
            exchange.cut()

    async def _run(self, app: App, scope: Mapping[str, Any]) -> None:
        exchange = self._exchange
        try:
            await app(scope, self.receive, self.send)
            if not self.is_complete and not self.end.is_lost and not self._is_cut_short():
                self._wrong("left its answer unfinished")
        except Exception as error:  # noqa: BLE001 - a server would answer 500
            self._wrong(f"raised {type(error).__name__}: {error}")
        finally:
            exchange.down.send(exchange.client_end.lose)
            exchange.web.forget(exchange)

    def _is_cut_short(self) -> bool:
        """Tell whether its client sees by the length that something is missing, or has not read what was sent for long."""
        return self._sent_bytes < self._length or self.unread > WINDOW_BYTES

    def _wrong(self, what: str) -> None:
        self._exchange.web.world.failed(f"{self._exchange.server}: the application {what} at {self._exchange}")

    async def receive(self) -> Any:
        while True:
            if self.end.is_lost or self.is_complete:
                return {"type": "http.disconnect"}
            if (message := self.end.next()) is not None:
                return message
            await self.end.wait()

    async def send(self, message: Any) -> None:
        while self.unread > WINDOW_BYTES and not self.end.is_lost:
            await self._room.wait()
        if self.end.is_lost:
            return
        if self.is_complete or (message["type"] == "http.response.start") is self._has_begun:
            self._wrong(f"sent {message['type']} where none may be")
        self._has_begun = True
        self._length += sum(int(value) for name, value in message.get("headers", ()) if name == b"content-length")
        self._sent_bytes += len(message.get("body", b""))
        self.unread += len(message.get("body", b""))
        self._exchange.down.send(self._exchange.client_end.take_in, message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.is_complete = True
            self.end.wake()

    def was_read(self, size: int) -> None:
        self.unread -= size
        self._room.wake()

    def lose(self) -> None:
        self.end.lose()
        self._room.wake()


class Exchange:
    """One request of a client to a broker, over a connection of its own."""

    def __init__(self, web: "Web", client: Process, server: Process, what: str) -> None:
        self.web = web
        self.client = client
        self.server = server
        self.what = what
        self.up, self.down = _Way(web, server), _Way(web, client)
        self.client_end = _End()
        self.served = Served(self)

    def __repr__(self) -> str:
        return self.what

    def cut(self, *, unheard_s: float = 0.0) -> None:
        """End the connection. What is on its way still arrives; both ends hear of it, perhaps after a while."""
        self.web.forget(self)
        self.up.send(self.served.lose, after_s=unheard_s)
        self.down.send(self.client_end.lose, after_s=unheard_s)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that has begun."""

    status: int
    headers: Mapping[str, str]
    _exchange: Exchange

    async def pieces(self) -> AsyncIterator[bytes]:
        """Read it piece by piece, to its end. Raises: ConnectionLost, if that does not come."""
        while True:
            message = await _next(self._exchange)
            if body := message.get("body", b""):
                self._exchange.up.send(self._exchange.served.was_read, len(body))
                yield body
            if not message.get("more_body", False):
                return

    async def whole(self) -> bytes:
        return b"".join([piece async for piece in self.pieces()])


async def _next(exchange: Exchange) -> Any:
    end = exchange.client_end
    while (message := end.next()) is None:
        if end.is_lost:
            raise ConnectionLost(f"{exchange.server} is gone")
        await end.wait()
    return message


class Web:
    """The fronts that listen, and the requests under way."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.count = 0
        """How many messages were sent."""
        self.keys: dict[Process, str] = {}
        """The key that a client shows if it names no other."""
        self._chance = world.chance("web")
        self._fronts: dict[Process, App] = {}
        self._exchanges: dict[Exchange, None] = {}
        self._stalled: list[Process] = []
        self._watched: set[Process] = set()

    def delay_s(self) -> float:
        return self._chance.random() * (_SLOW_S if self._chance.random() < _SLOW else _QUICK_S)

    @asynccontextmanager
    async def listening(self, process: Process, app: App) -> AsyncIterator[None]:
        """Serve at this broker while the block runs; afterwards let what is under way finish, for a while."""
        self._watch(process)
        self._fronts[process] = app
        try:
            yield
        finally:
            del self._fronts[process]
            left_s: float = _DRAIN_S
            while left_s > 0 and self.of(process):
                await asyncio.sleep(0.1)
                left_s -= 0.1
            for exchange in self.of(process):
                if exchange.served.task is not None:
                    exchange.served.task.cancel()

    def brokers(self) -> list[Process]:
        return list(self._fronts)

    def of(self, process: Process) -> list[Exchange]:
        """The requests that are under way at a broker, or of a client."""
        return [one for one in self._exchanges if process in (one.server, one.client)]

    @asynccontextmanager
    async def asking(
        self,
        client: Process,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | AsyncIterable[bytes] = b"",
        chance: random.Random | None = None,
    ) -> AsyncIterator[Answer]:
        """Ask any broker; the value is its answer, which has begun. On leaving the block, the client leaves.

        Whoever has no patience runs it in `asyncio.timeout`. Raises: ConnectionLost.
        """
        if not self._fronts:
            raise ConnectionLost("no broker listens")
        server = (chance or client.random).choice(list(self._fronts))
        exchange = Exchange(self, client, server, f"{method} {path.partition('?')[0]}")
        self._watch(client)
        exchange.up.is_stalled = exchange.down.is_stalled = server in self._stalled or client in self._stalled
        self._exchanges[exchange] = None
        shown = {"authorization": f"Bearer {self.keys[client]}"} if client in self.keys else {}
        scope = _scope(method, path, {**shown, **(headers or {})}, body)
        exchange.up.send(exchange.served.begin, self._fronts[server], scope)
        sending = asyncio.ensure_future(_sent(exchange, body))
        try:
            start = await _next(exchange)
            named = {name.decode().lower(): value.decode() for name, value in start["headers"]}
            yield Answer(start["status"], named, exchange)
        finally:
            sending.cancel()
            exchange.up.send(exchange.served.lose)

    async def asked(
        self,
        client: Process,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | AsyncIterable[bytes] = b"",
        within_s: float = 10.0,
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Ask any broker, and return status, headers and body of the whole answer. Raises: ConnectionLost, TimeoutError."""
        async with asyncio.timeout(within_s), self.asking(client, method, path, headers=headers, body=body) as answer:
            return answer.status, answer.headers, await answer.whole()

    def forget(self, exchange: Exchange) -> None:
        self._exchanges.pop(exchange, None)

    def _watch(self, process: Process) -> None:
        if process not in self._watched:
            self._watched.add(process)
            process.on_death.append(lambda: self._died(process))

    def _died(self, process: Process) -> None:
        self._fronts.pop(process, None)
        with_machine = process.is_dead and self._chance.random() < _WITH_MACHINE
        for exchange in self.of(process):
            exchange.cut(unheard_s=_UNHEARD_S if with_machine else 0.0)

    # what may happen to it

    def cut(self, process: Process) -> None:
        for exchange in self.of(process):
            exchange.cut()

    def stall(self, process: Process) -> None:
        self._stalled.append(process)
        for exchange in self.of(process):
            exchange.up.is_stalled = exchange.down.is_stalled = True

    def go_on(self, process: Process) -> None:
        self._stalled.remove(process)
        for exchange in self.of(process):
            exchange.up.go_on()
            exchange.down.go_on()


def _scope(method: str, path: str, headers: Mapping[str, str], body: bytes | AsyncIterable[bytes]) -> dict[str, Any]:
    path, _, query = path.partition("?")
    named = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    if isinstance(body, bytes) and "content-length" not in {name.lower() for name in headers}:
        named.append((b"content-length", b"%d" % len(body)))
    return {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": path, "raw_path": path.encode(), "root_path": "", "query_string": query.encode(), "headers": named,
        "client": ("192.0.2.1", 1), "server": ("192.0.2.2", 80),
    }  # fmt: skip


async def _sent(exchange: Exchange, body: bytes | AsyncIterable[bytes]) -> None:
    """Send the body of a request."""
    take_in = exchange.served.end.take_in
    if isinstance(body, bytes):
        exchange.up.send(take_in, {"type": "http.request", "body": body, "more_body": False})
        return
    try:
        async for piece in body:
            exchange.up.send(take_in, {"type": "http.request", "body": piece, "more_body": True})
    except ConnectionError:  # whoever makes the body cannot go on
        exchange.up.send(exchange.served.lose)
        exchange.client_end.lose()
        return
    exchange.up.send(take_in, {"type": "http.request", "body": b"", "more_body": False})
