"""Sends HTTP requests, each connection the next one as soon as it is answered: `python -m broker.bench.gateways.load`.

It reads one JSON object a line, such as `{"url": …, "headers": {…}, "body": {…}, "requests": 100, "concurrency": 8}`, where
`%d` in the body becomes the request's number, and prints one line with what it measured. It reads of an answer only where it
ends, so that it takes little of the machine: a client that decodes would be what is measured.
"""

import asyncio
import json
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, cast
from urllib.parse import urlsplit

import uvloop

from broker.local.servers import die_with_parent

_END_OF_HEAD = b"\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"
_LENGTH = b"\r\ncontent-length:"
_EVENT = b"data: "
_SHOWN_BYTES = 400
_ANSWER_S = 60.0


class Load:
    """Requests that are sent, and what is measured of them."""

    def __init__(self, ask: Mapping[str, Any]) -> None:
        self._url = urlsplit(ask["url"])
        self._numbers = iter(range(ask["requests"]))
        self._body = json.dumps(ask["body"])
        self._headers = "".join(f"{name}: {text}\r\n" for name, text in ask["headers"].items())
        self.latencies_ms: list[float] = []
        self.first_ms: list[float] = []
        """Until the first event of a stream."""
        self.chunk_ms: list[float] = []
        """From each event to the next, on average over a stream."""

    def requests(self) -> Iterator[bytes]:
        """Build the requests that are left."""
        path, host = self._url.path, self._url.netloc
        for number in self._numbers:
            body = self._body.replace("%d", f"{number:06}").encode()
            head = f"POST {path} HTTP/1.1\r\nhost: {host}\r\n{self._headers}content-type: application/json\r\n"
            yield f"{head}content-length: {len(body)}\r\n\r\n".encode() + body

    async def run(self, concurrency: int) -> dict[str, Any]:
        """Send all requests. Raises: RuntimeError, for any answer that is none."""
        loop = asyncio.get_running_loop()
        connections = [
            (await loop.create_connection(lambda: Connection(self), self._url.hostname, self._url.port))[1]
            for _ in range(concurrency)
        ]
        began, cpu = time.perf_counter(), time.process_time()
        for connection in connections:
            connection.ask()
        await asyncio.gather(*(connection.over for connection in connections))
        seconds = time.perf_counter() - began
        return {
            "seconds": seconds,
            "cpu_s": time.process_time() - cpu,
            "latencies_ms": self.latencies_ms,
            "first_ms": self.first_ms,
            "chunk_ms": self.chunk_ms,
        }


class Connection(asyncio.Protocol):
    """One connection, which has one request under way."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._requests = load.requests()
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._began = 0.0
        self._first = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, _: Exception | None) -> None:
        if not self.over.done():
            self.over.set_exception(RuntimeError(f"the server closed a connection: {self._shown()}"))

    def ask(self) -> None:
        """Send the next request, if there is one."""
        assert self._transport is not None  # noqa: S101 - it is connected
        request = next(self._requests, None)
        if request is None:
            self._end()
            return
        self._buffer.clear()
        self._first = 0.0
        self._began = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._first and _EVENT in self._buffer:
            self._first = time.perf_counter()
        if not is_whole(self._buffer):
            return
        now = time.perf_counter()
        if not self._buffer.startswith(b"HTTP/1.1 200") or b'"choices"' not in self._buffer:
            self._end(RuntimeError(f"an answer was not as expected: {self._shown()}"))
            return
        self._load.latencies_ms.append((now - self._began) * 1000)
        if self._first:
            gaps = max(1, self._buffer.count(_EVENT) - 1)
            self._load.first_ms.append((self._first - self._began) * 1000)
            self._load.chunk_ms.append((now - self._first) * 1000 / gaps)
        self.ask()

    def _end(self, error: Exception | None = None) -> None:
        if not self.over.done():
            self.over.set_result(None) if error is None else self.over.set_exception(error)
        if self._transport is not None:
            self._transport.close()

    def _shown(self) -> str:
        return bytes(self._buffer[:_SHOWN_BYTES]).decode(errors="replace")


def is_whole(answer: bytes | bytearray) -> bool:
    """Say whether all of an answer has come: as many bytes as its head says, or its last chunk."""
    end = answer.find(_END_OF_HEAD)
    if end < 0:
        return False
    head = answer[:end].lower()
    start = head.find(_LENGTH)
    if start < 0:
        return answer.endswith(_LAST_CHUNK)
    length = head[start + len(_LENGTH) :].split(b"\r\n", 1)[0]
    return len(answer) >= end + len(_END_OF_HEAD) + int(length)


async def _serve() -> None:
    _print_json({})
    while line := await asyncio.to_thread(sys.stdin.readline):
        ask = json.loads(line)
        async with asyncio.timeout(_ANSWER_S + ask["requests"] / 10):
            _print_json(await Load(ask).run(ask["concurrency"]))


def _print_json(line: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    die_with_parent()
    uvloop.run(_serve())
