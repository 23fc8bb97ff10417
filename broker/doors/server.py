"""Runs uvicorn inside the event loop of a process that does other things too."""

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn

from broker.doors.health import App
from broker.errors import CannotListen


class _Guest(uvicorn.Server):
    """A server that leaves signals to the process."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def listening(app: App, *, option: str, host: str, port: int) -> AsyncIterator[str]:
    """Serve while the block runs; the value is the URL. Port 0 is any free port. Raises: CannotListen.

    `option` is how the options of the command that name host and port begin.
    """
    try:
        sock = socket.create_server((host, port))
    except OSError as error:
        why = (error.strerror or str(error)).partition(" (while")[0]
        where = f"--{option}-host {host} --{option}-port {port}"
        raise CannotListen(f"{where}: {why}: choose another, or port 0 for any free one") from error
    config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", interface="asgi3")
    server = _Guest(config)
    serving = asyncio.create_task(server.serve([sock]))
    try:
        yield f"http://{host}:{sock.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
