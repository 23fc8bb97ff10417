"""Serves /metrics for Prometheus, /livez for whoever restarts processes, /readyz for whoever sends them requests."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, make_asgi_app

from broker.service import HealthService

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Any, Receive, Send], Awaitable[None]]


def build_app(registry: CollectorRegistry, health: HealthService) -> App:
    """Build the application. /healthz is another name of /livez."""
    metrics = make_asgi_app(registry)

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        match scope["path"].split("/")[1:]:
            case ["metrics"]:
                await metrics(scope, receive, send)
            case ["livez" | "healthz"]:
                liveness = health.live()
                await _answer(send, 200 if liveness.live else 503, liveness)
            case ["readyz"]:
                readiness = await health.ready()
                await _answer(send, 200 if readiness.ready else 503, readiness)
            case ["readyz", name] if name in (doors := (await health.ready()).doors):
                await _answer(send, 200 if doors[name].ok else 503, doors[name])
            case _:
                await _answer(send, 404, {"error": "there are /metrics, /livez, /readyz and /readyz/DOOR"})

    return app


async def _answer(send: Send, status: int, body: object) -> None:
    content = msgspec.json.encode(body) + b"\n"
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
