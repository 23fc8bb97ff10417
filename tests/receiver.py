"""An endpoint of webhooks, which checks each message as receivers do: with the reference library of Standard Webhooks."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError

from tests.system import until


class Receiver:
    """What came, and what is answered."""

    def __init__(self) -> None:
        self.url = ""
        self.secret: str | None = None
        """Messages are checked by it. None: all are taken, and forgotten."""
        self.came: list[tuple[Mapping[str, str], Any]] = []
        """The headers and the object of each message whose signature is right."""
        self.false = 0
        self.hangs = asyncio.Event()
        self.hangs.set()
        """While it is not set, nothing is answered."""
        self.answers: list[web.Response] = []
        """What is answered next; then 204."""

    def events(self) -> list[str]:
        return [body["type"] for _, body in self.came]

    async def has(self, number: int, *, within_s: float = 30.0) -> None:
        async def are_there() -> bool:
            return len(self.came) >= number

        await until(are_there, f"{number} messages have come, not {len(self.came)}", within_s=within_s)

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        if self.secret is None:
            return web.Response(status=204)
        try:
            said = Webhook(self.secret).verify(body, dict(request.headers))
        except WebhookVerificationError:
            self.false += 1
            return web.Response(status=401)
        self.came.append((dict(request.headers), said))
        await self.hangs.wait()
        return self.answers.pop(0) if self.answers else web.Response(status=204)


@asynccontextmanager
async def a_receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/hook", receiver.take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    try:
        yield receiver
    finally:
        receiver.hangs.set()
        await runner.cleanup()
