"""uvicorn inside an event loop that is somebody else's."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn

from broker.doors.health import App


class _Guest(uvicorn.Server):
    """Signals are the process's business."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def listening(app: App, *, host: str, port: int) -> AsyncIterator[str]:
    """Serve while the block runs; the value is the URL. Port 0 takes any free one. Raises: OSError."""
    sock = socket.create_server((host, port))
    config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", interface="asgi3")
    server = _Guest(config)
    serving = asyncio.create_task(server.serve([sock]))
    try:
        yield f"http://{host}:{sock.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving
