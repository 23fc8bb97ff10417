"""The bare pipeline of a request: the hops of infermq's interactive way and nothing else, to show what they cost at least.

HTTP → a stream in memory → worker → its outcome stored in a stream on disk → reply → HTTP. Streams and payloads are those of
infermq, on plain nats-py and uvicorn. There are no keys, no admission, route, limits, time-outs, retries, cancels or ledger.

`python -m broker.bench.gateways.pipeline front|worker NATS` is one of its processes.
"""

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import nats
import uvloop
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg

from broker.bench.gateways.backend import (
    ANSWER,
    CHUNKS,
    DONE,
    EVENTS,
    Receive,
    Send,
    body_of,
    is_streamed,
    respond,
    serve,
)
from broker.bench.system import Talk, child
from broker.bus.desired import desired
from broker.config import LEASE_S
from broker.local.servers import die_with_parent
from schemas import subjects
from schemas.clock import wall_clock
from schemas.codec import jsoned, packed, unpacker
from schemas.endpoints import CHAT
from schemas.ids import uuid7
from schemas.job import Attempt, Lane
from schemas.outcome import Report, Succeeded, Timings, Usage
from schemas.units import Ms

_NOW, _OUTCOME = "PIPELINE_NOW", "PIPELINE_OUTCOME"
_ALIKE = {_NOW: subjects.NOW, _OUTCOME: subjects.OUTCOME}
"""The streams of infermq, whose settings these have."""
_SLOTS = 256
_KIND = "Kind"
_PATIENCE_MS = Ms(120_000)
_attempt = unpacker(Attempt)
_serials = itertools.count(1)


@asynccontextmanager
async def pipeline(nats_url: str) -> AsyncIterator[tuple[Talk, Talk]]:
    """Run a front, which says its URL when it is ready, and a worker."""
    nc = await nats.connect(nats_url)
    kept = {stream.name: stream.settings for stream in desired({}, lease_s=LEASE_S)}
    for name, like in _ALIKE.items():
        settings = {**kept[like], "name": name, "subjects": [_subject(name)]}
        await nc.request(f"$JS.API.STREAM.CREATE.{name}", jsoned(settings), timeout=10)
    consumer = {"durable_name": "all", "ack_policy": "none", "max_waiting": 8192}
    create = {"stream_name": _NOW, "config": consumer}
    await nc.request(f"$JS.API.CONSUMER.DURABLE.CREATE.{_NOW}.all", jsoned(create), timeout=10)
    await nc.close()
    words = ("-m", "broker.bench.gateways.pipeline")
    async with child(*words, "worker", nats_url) as worker, child(*words, "front", nats_url) as front:
        yield front, worker


def _subject(stream: str) -> str:
    return stream.lower().replace("_", ".")


class Front:
    """The HTTP side, an ASGI application."""

    def __init__(self, nc: Nats) -> None:
        self._nc = nc
        self._inbox = nc.new_inbox()
        self._waiting: dict[str, asyncio.Queue[Msg]] = {}
        self._asked = 0

    async def open(self) -> None:
        await self._nc.subscribe(f"{self._inbox}.*", cb=self._replied)

    async def _replied(self, message: Msg) -> None:
        if (replies := self._waiting.get(message.subject.rpartition(".")[2])) is not None:
            replies.put_nowait(message)

    async def __call__(self, _: Any, receive: Receive, send: Send) -> None:
        body = await body_of(receive)
        self._asked += 1
        token, replies = f"{self._asked:x}", asyncio.Queue[Msg]()
        self._waiting[token] = replies
        attempt = packed(_attempt_of(body, f"{self._inbox}.{token}"))
        await self._nc.publish(_subject(_NOW), attempt, f"{self._inbox}.stored")  # an answer, as the relay gets one
        if is_streamed(body):
            await self._stream(replies, send)
        else:
            await respond(send, (await replies.get()).data)
        del self._waiting[token]

    async def _stream(self, replies: asyncio.Queue[Msg], send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [EVENTS]})
        while True:
            message = await replies.get()
            if (message.headers or {}).get(_KIND) != "chunk":
                break
            await send({"type": "http.response.body", "body": b"data: %b\n\n" % message.data, "more_body": True})
        await send({"type": "http.response.body", "body": DONE})


def _attempt_of(body: bytes, reply_to: str) -> Attempt:
    now = wall_clock()
    return Attempt(
        job=_new_id(now),
        number=1,
        tenant="t",
        lane=Lane.INTERACTIVE,
        model="m",
        deployment="d",
        endpoint=CHAT.path,
        body=body,
        admitted_ms=now,
        deadline_ms=Ms(now + _PATIENCE_MS),
        dispatched_ms=now,
        left_ms=_PATIENCE_MS,
        reply_to=reply_to,
    )


def _new_id(now: Ms) -> UUID:
    return uuid7(now, next(_serials))


class Worker:
    """Pulls attempts, stores their outcomes, and then replies."""

    def __init__(self, nc: Nats) -> None:
        self._nc = nc
        self._inbox = nc.new_inbox()
        self._requested = 0
        self._running: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        await self._nc.subscribe(self._inbox, cb=self._take)
        await self._pull()

    async def _pull(self) -> None:
        wanted = _SLOTS - self._requested
        if 2 * wanted >= _SLOTS:
            self._requested += wanted
            pull = b'{"batch":%d,"expires":600000000000}' % wanted
            await self._nc.publish(f"$JS.API.CONSUMER.MSG.NEXT.{_NOW}.all", pull, self._inbox)

    async def _take(self, message: Msg) -> None:
        if not message.reply:
            return
        self._requested -= 1
        task = asyncio.create_task(self._answer(_attempt.decode(message.data)))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        await self._pull()

    async def _answer(self, attempt: Attempt) -> None:
        assert attempt.reply_to is not None  # noqa: S101 - the front names it
        if is_streamed(attempt.body):
            for chunk in CHUNKS:
                await self._nc.publish(attempt.reply_to, chunk, headers={_KIND: "chunk"})
        await self._nc.request(_subject(_OUTCOME), packed(_report(attempt)), timeout=10)
        await self._nc.publish(attempt.reply_to, ANSWER)


def _report(attempt: Attempt) -> Report:
    now = wall_clock()
    return Report(
        job=attempt.job,
        attempt=attempt.number,
        execution=_new_id(now),
        delivery=1,
        deployment="d",
        worker="w",
        outcome=Succeeded(ANSWER, Usage(12, 16)),
        timings=Timings(started_ms=now, queue_ms=Ms(0), run_ms=Ms(0), ttft_ms=Ms(0)),
        interactive=attempt,
    )


async def _main(role: str, nats_url: str) -> None:
    nc = await nats.connect(nats_url, pending_size=16 * 1024 * 1024)
    if role == "front":
        front = Front(nc)
        await front.open()
        await serve(front)
    else:
        await Worker(nc).open()
        sys.stdout.write("{}\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)
    await nc.close()


if __name__ == "__main__":
    die_with_parent()
    uvloop.run(_main(sys.argv[1], sys.argv[2]))
