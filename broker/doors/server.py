"""Runs uvicorn inside the event loop of a process that does other things too, within limits."""

import asyncio
import ipaddress
import logging
import resource
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import uvicorn
from uvicorn.protocols.utils import get_remote_addr

from broker.config import HttpLimits
from broker.doors.health import App
from broker.doors.protocol import BoundedProtocol
from broker.doors.room import Peer, Room
from broker.errors import CannotListen

log = logging.getLogger(__name__)
_OWN_FILES = 256
"""Left to connections to NATS and Postgres, and to those that are only told that there is no room. A guess."""
_LOOKS = 5
"""Every so many ticks of uvicorn, which are a tenth of a second apart, connections are looked at."""


class _Guest(uvicorn.Server):
    """A server that leaves signals to the process, and looks after its connections."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def on_tick(self, counter: int) -> bool:
        if counter % _LOOKS == 0:
            self._look()
        return await super().on_tick(counter)

    def _look(self) -> None:
        now = asyncio.get_running_loop().time()
        for connection in list(self.server_state.connections):
            if isinstance(connection, BoundedProtocol):
                connection.looked_at(now)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, and then end what did not end by itself."""
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            connection.transport.abort()


class _Handshake(asyncio.Protocol):
    """A connection before its TLS handshake. It counts as one, so that nobody takes more room by not finishing it."""

    def __init__(
        self, make: Callable[[], BoundedProtocol], room: Room, context: ssl.SSLContext, limits: HttpLimits
    ) -> None:
        self._make = make
        self._room = room
        self._context = context
        self._within_s = limits.head_s
        self._shaking: asyncio.Task[None] | None = None
        self._early: list[bytes] = []
        """What came with the end of the handshake."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - asyncio's types cannot say so
        peer = get_remote_addr(transport)
        if self._room.enter(peer):
            self._shaking = asyncio.create_task(self._shake(transport, peer))
        else:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        self._early.append(data)

    async def _shake(self, transport: asyncio.Transport, peer: Peer) -> None:
        secured = None
        try:
            secured = await asyncio.get_running_loop().start_tls(
                transport, self, self._context, server_side=True, ssl_handshake_timeout=self._within_s
            )
        except OSError:  # it left, was too slow, or speaks no TLS
            transport.abort()
        finally:
            if secured is None:
                self._room.leave(peer)
        if secured is not None:
            self._hand_over(secured)

    def _hand_over(self, secured: asyncio.Transport) -> None:
        protocol = self._make()
        protocol.entered = True
        secured.set_protocol(protocol)
        protocol.connection_made(secured)
        for data in self._early:
            protocol.data_received(data)


@asynccontextmanager
async def listening(
    app: App,
    *,
    option: str,
    host: str,
    port: int,
    limits: HttpLimits | None = None,
    tls: ssl.SSLContext | None = None,
    cut: Callable[[str], None] = lambda _: None,
) -> AsyncIterator[str]:
    """Serve while the block runs; the value is the URL. Port 0 is any free port. Raises: CannotListen.

    `option` is how the options of the command that name host and port begin. `cut` is told why a connection was ended that
    did not keep to the limits.
    """
    try:
        sock = socket.create_server((host, port))
    except OSError as error:
        why = (error.strerror or str(error)).partition(" (while")[0]
        where = f"--{option}-host {host} --{option}-port {port}"
        raise CannotListen(f"{where}: {why}: choose another, or port 0 for any free one") from error
    limits = HttpLimits() if limits is None else limits
    config = _settings(app, limits, tls, cut)
    server = _Guest(config)
    serving = asyncio.create_task(server.serve([sock]))
    try:
        yield f"{'http' if tls is None else 'https'}://{host}:{sock.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


def _settings(app: App, limits: HttpLimits, tls: ssl.SSLContext | None, cut: Callable[[str], None]) -> uvicorn.Config:
    """Leave to uvicorn what it does well. What connections are counted by is of this server alone."""
    room = Room(total=_most(limits.connections), per_address=limits.connections_per_address)
    make = partial(BoundedProtocol, limits=limits, room=room, cut=cut)

    def shaking(**of_uvicorn: Any) -> asyncio.Protocol:
        assert tls is not None  # noqa: S101 - else it is not asked
        return _Handshake(partial(make, **of_uvicorn), room, tls, limits)

    return uvicorn.Config(
        app,
        http=make if tls is None else shaking,  # type: ignore[arg-type] # it takes a class, and calls it
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=limits.drain_s,
    )


def _most(wanted: int) -> int:
    """Return how many connections there may be: no more than the process may open beside those of its own."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY or wanted <= most - _OWN_FILES:
        return wanted
    log.warning("fewer connections than wanted: %d of %d, with %d open files", most - _OWN_FILES, wanted, most)
    return max(1, most - _OWN_FILES)


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
