"""Serves /metrics and /healthz of a worker."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn
from prometheus_client import CollectorRegistry, make_asgi_app

App = Callable[[Any, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]


def build_app(registry: CollectorRegistry, health: Callable[[], Mapping[str, object]]) -> App:
    """Build the application. /healthz answers 503 if any value of `health()` is False."""
    metrics = make_asgi_app(registry)

    async def app(scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
        if scope["path"] == "/metrics":
            await metrics(scope, receive, send)
            return
        state = health() if scope["path"] == "/healthz" else None
        status = 404 if state is None else 503 if False in state.values() else 200
        body = json.dumps(state or {"error": "not found: try /metrics or /healthz"}).encode() + b"\n"
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


class _SignalFreeServer(uvicorn.Server):
    """A uvicorn server that leaves signals to the process it runs in."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def listening(app: App, *, host: str, port: int) -> AsyncIterator[str]:
    """Serve while the block runs, and yield the URL. Raises: OSError, if the address cannot be bound."""
    sock = socket.create_server((host, port))
    server = _SignalFreeServer(
        uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", interface="asgi3")
    )
    serving = asyncio.create_task(server.serve([sock]))
    try:
        yield f"http://{host}:{sock.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving
