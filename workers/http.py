"""Serves /metrics, /livez and /readyz of a worker."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import msgspec
import uvicorn
from prometheus_client import CollectorRegistry, make_asgi_app

from workers.health import Health

Send = Callable[[Any], Awaitable[None]]
App = Callable[[Any, Callable[[], Awaitable[Any]], Send], Awaitable[None]]


class CannotListen(Exception):
    """A port or an address of this machine cannot be listened on; the message names its option."""


def build_app(registry: CollectorRegistry, health: Health) -> App:
    """Build the application. /healthz is another name of /livez."""
    metrics = make_asgi_app(registry)

    async def app(scope: Any, receive: Callable[[], Awaitable[Any]], send: Send) -> None:
        match scope["path"].split("/")[1:]:
            case ["metrics"]:
                await metrics(scope, receive, send)
            case ["livez" | "healthz"]:
                liveness = health.live()
                await _answer(send, 200 if liveness.live else 503, liveness)
            case ["readyz"]:
                readiness = health.ready()
                await _answer(send, 200 if readiness.ready else 503, readiness)
            case _:
                await _answer(send, 404, {"error": "not found: try /metrics, /livez or /readyz"})

    return app


async def _answer(send: Send, status: int, body: object) -> None:
    content = msgspec.json.encode(body) + b"\n"
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


class _SignalFreeServer(uvicorn.Server):
    """A uvicorn server that leaves signals to the process it runs in."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def listening(app: App, *, host: str, port: int) -> AsyncIterator[str]:
    """Serve while the block runs, and yield the URL. Raises: CannotListen."""
    try:
        sock = socket.create_server((host, port))
    except OSError as error:
        why = (error.strerror or str(error)).partition(" (while")[0]
        where = f"--http-host {host} --http-port {port}"
        raise CannotListen(f"{where}: {why}: choose another, or port 0 for any free one") from error
    server = _SignalFreeServer(
        uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", interface="asgi3")
    )
    serving = asyncio.create_task(server.serve([sock]))
    try:
        yield f"http://{host}:{sock.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving
