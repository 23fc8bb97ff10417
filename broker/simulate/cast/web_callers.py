"""Callers of a simulated world over HTTP."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from uuid import UUID

from broker.simulate.cast.told import JobKind, Told, a_body, a_kind
from broker.simulate.cast.web import ConnectionLost, Web
from broker.simulate.world.world import Process

_PATIENCE_S = 12.0
"""How long somebody waits for the answer to a request: longer than the request's own time-out."""
_TIMEOUT_S = 6.0
_CHAT = "/v1/chat/completions"
PASSING = (ConnectionLost, TimeoutError)


class WebCaller:
    """A process that asks over HTTP, one thing after another, at random."""

    def __init__(self, process: Process, web: Web, told: Told, *, acts: int) -> None:
        self.process = process
        self.told = told
        self.tenant = "default"
        self._web = web
        self._acts = acts
        self._chance = process.random

    async def main(self) -> None:
        acts: tuple[tuple[float, Callable[[], Awaitable[None]]], ...] = ((4, self._whole),)
        async with asyncio.TaskGroup() as group:
            for _ in range(self._acts):
                act = self._chance.choices([act for _, act in acts], [weight for weight, _ in acts])[0]
                group.create_task(self._tried(act))
                await asyncio.sleep(self._chance.expovariate(1.0))
        self.process.say("has done all it wanted")

    async def _tried(self, act: Callable[[], Awaitable[None]]) -> None:
        name = f"web {act.__name__.strip('_')}"
        self.told.counted(name)
        try:
            await act()
        except PASSING as error:
            self.process.say(f"gives up: {name}: {str(error) or type(error).__name__}")

    async def _whole(self) -> None:
        kind = a_kind(self._chance)
        status, headers, body = await self._asked("POST", _CHAT, self._ask(kind))
        self.told.counted(f"web {status}")
        if status == 200:
            self.told.counted("replies")
            self.told.replies[UUID(headers["x-request-id"])] = body

    def _ask(self, kind: JobKind, **more: Any) -> bytes:
        return json.dumps({"model": kind.model, **a_body(self._chance, kind), **more}).encode()

    async def _asked(self, method: str, path: str, body: bytes = b"") -> tuple[int, Mapping[str, str], bytes]:
        return await self._web.asked(
            self.process, method, path, headers=self._headers(), body=body, within_s=_PATIENCE_S
        )

    def _headers(self) -> dict[str, str]:
        return {"x-infermq-timeout-s": f"{_TIMEOUT_S:g}"}
