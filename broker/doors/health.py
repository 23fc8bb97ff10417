"""Serves /metrics for Prometheus and /healthz for whoever restarts processes."""

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, make_asgi_app

Health = Callable[[], Awaitable[Mapping[str, str | bool | int]]]
"""Says what works. A value that is `False` does not, and makes the answer a 503."""
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Any, Receive, Send], Awaitable[None]]


def build_app(registry: CollectorRegistry, health: Health) -> App:
    metrics = make_asgi_app(registry)

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        match scope["path"]:
            case "/metrics":
                await metrics(scope, receive, send)
            case "/healthz":
                state = await health()
                await _answer(send, 503 if False in state.values() else 200, state)
            case _:
                await _answer(send, 404, {"error": "there are /metrics and /healthz"})

    return app


async def _answer(send: Send, status: int, body: Mapping[str, object]) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(body).encode() + b"\n"})
