"""Runs uvicorn inside the event loop of a process that does other things too, within limits."""

import asyncio
import logging
import resource
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial

import uvicorn

from broker.config import HttpLimits
from broker.doors.health import App
from broker.doors.protocol import BoundedProtocol
from broker.doors.room import Peer, Room
from broker.errors import CannotListen

log = logging.getLogger(__name__)
_OWN_FILES = 256
"""Left to connections to NATS and Postgres, and to those that are only told that there is no room. A guess."""
_BACKLOG = 2048
"""Connections that wait to be accepted: uvicorn's number."""
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


class _Accepting:
    """Accepts connections for TLS. One counts before its handshake, so that nobody takes more by not finishing it.

    A server of asyncio would count none before: it tells its protocol of a connection when the handshake is over.
    """

    def __init__(
        self, make: Callable[[], BoundedProtocol], room: Room, context: ssl.SSLContext, limits: HttpLimits
    ) -> None:
        self._make = make
        self._room = room
        self._context = context
        self._within_s = limits.head_s

    async def serve(self, sock: socket.socket) -> None:
        """Accept until cancelled; what is still shaking hands then is cut."""
        sock.setblocking(False)
        sock.listen(_BACKLOG)
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as shaking:
            while True:
                try:
                    connection, address = await loop.sock_accept(sock)
                except OSError as error:  # such as too many open files: the next will do no better at once
                    log.warning("no connection is accepted for a second: %s", error.strerror)
                    await asyncio.sleep(1.0)
                else:
                    shaking.create_task(self._shake(connection, (address[0], address[1])))

    async def _shake(self, connection: socket.socket, peer: Peer) -> None:
        if not self._room.enter(peer):
            connection.close()
            return
        protocol = self._make()
        protocol.entered = True
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(
                lambda: protocol, connection, ssl=self._context, ssl_handshake_timeout=self._within_s
            )
        except OSError as error:  # it left, was too slow, or speaks no TLS
            log.debug("no handshake: %s", error)
        finally:
            if protocol.transport is None:  # it was never told of the connection
                self._room.leave(peer)  # type: ignore[unreachable] # uvicorn's types say otherwise


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
    uploads: frozenset[str] = frozenset(),
) -> AsyncIterator[str]:
    """Serve while the block runs; the value is the URL. Port 0 is any free port. Raises: CannotListen.

    `option` is how the options of the command that name host and port begin. `cut` is told why a connection was ended that
    did not keep to the limits. `uploads` are the paths whose application keeps no body in memory.
    """
    try:
        sock = socket.create_server((host, port))
    except OSError as error:
        why = (error.strerror or str(error)).partition(" (while")[0]
        where = f"--{option}-host {host} --{option}-port {port}"
        raise CannotListen(f"{where}: {why}: choose another, or port 0 for any free one") from error
    limits = HttpLimits() if limits is None else limits
    room = Room(
        total=_most(limits.connections), per_address=limits.connections_per_address, bodies_bytes=limits.bodies_bytes
    )
    make = partial(BoundedProtocol, limits=limits, room=room, cut=cut, uploads=uploads)
    config = _settings(app, make, limits)
    server = _Guest(config)
    accepting = None
    if tls is not None:
        made = partial(make, config, server.server_state, {})
        accepting = asyncio.create_task(_Accepting(made, room, tls, limits).serve(sock))
    serving = asyncio.create_task(server.serve([sock] if tls is None else []))
    try:
        yield f"{'http' if tls is None else 'https'}://{host}:{sock.getsockname()[1]}"
    finally:
        server.should_exit = True
        if accepting is not None:
            accepting.cancel()
            await asyncio.wait([accepting])
            sock.close()
        await serving


def _settings(app: App, make: Callable[..., asyncio.Protocol], limits: HttpLimits) -> uvicorn.Config:
    """Leave to uvicorn what it does well."""
    return uvicorn.Config(
        app,
        http=make,  # type: ignore[arg-type] # it takes a class, and calls it
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


def shown_certificate(certificate: str, key: str | None) -> ssl.SSLContext:
    """Read the files of a server's certificate. Raises: CannotListen, with what is wrong with which."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key, password="")
    except OSError as error:
        why = f"cannot be used ({error.reason or error})" if isinstance(error, ssl.SSLError) else str(error.strerror)
        raise CannotListen(f"--api-tls-cert {certificate}, --api-tls-key {key or certificate}: {why}") from error
    return context


def _most(wanted: int) -> int:
    """Return how many connections there may be: no more than the process may open beside those of its own."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY or wanted <= most - _OWN_FILES:
        return wanted
    log.warning("fewer connections than wanted: %d of %d, with %d open files", most - _OWN_FILES, wanted, most)
    return max(1, most - _OWN_FILES)
