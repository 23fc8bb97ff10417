"""The session of an HTTP client, as far as `broker.client` uses one of aiohttp, over the web of a simulated world."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlencode

import aiohttp

from broker.simulate.cast.web import Answer, Web
from broker.simulate.world.world import Process

URL = "http://brokers"
_LONGEST_S = 120.0
_CUT = 0.15
"""How many of the requests that send a file end in the middle of it."""
_BETWEEN_S = (0.02, 0.05, 0.05, 2.0)
"""How long the next part of a file takes to come, at most: of most files, and of slow ones."""


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    content_type: str
    _answer: Answer

    async def read(self) -> bytes:
        return await self._answer.whole()


class Session:
    """Stands in for `aiohttp.ClientSession`. What it sends piece by piece comes slowly, and may be cut off."""

    def __init__(self, process: Process, web: Web, headers: Mapping[str, str] | None = None) -> None:
        self.headers = dict(headers or {})
        self._process = process
        self._web = web

    @asynccontextmanager
    async def request(
        self,
        method: str,
        url: str,
        *,
        data: bytes | AsyncIterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - as aiohttp has it
        allow_redirects: bool = False,  # noqa: ARG002 - there are none
    ) -> AsyncIterator[Response]:
        path = url.removeprefix(URL) + (f"?{urlencode(params)}" if params else "")
        body = data if isinstance(data, bytes) else b"" if data is None else self._slowly(data)
        named = {**self.headers, **(headers or {})}
        async with (
            asyncio.timeout(timeout.total or _LONGEST_S),
            self._web.asking(self._process, method, path, headers=named, body=body) as answer,
        ):
            yield Response(answer.status, answer.headers.get("content-type", "").partition(";")[0], answer)

    async def _slowly(self, parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        chance = self._process.random
        left = chance.randrange(12) if chance.random() < _CUT else -1
        between_s = chance.choice(_BETWEEN_S)
        async for part in parts:
            await asyncio.sleep(chance.random() * between_s)
            if left == 0:
                raise ConnectionError("the connection is lost")
            left -= 1
            yield part
