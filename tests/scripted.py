"""Whoever answers on a subject of a real NATS, by a script: a stream or a broker that is in trouble."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from nats.aio.msg import Msg

from schemas.api import ErrorBody, Problem
from schemas.codec import ERROR, KIND, jsoned
from schemas.jetstream.client import NatsClient as Nats


@dataclass(frozen=True, slots=True)
class Answer:
    """One message back."""

    data: bytes
    headers: dict[str, str] = field(default_factory=dict)


Script = Sequence[Answer]
SILENCE: Script = ()


def says(value: object) -> Script:
    """JSON, and nothing else."""
    return [Answer(jsoned(value))]


def a_problem(code: str, message: str = "words") -> Script:
    """The broker's no."""
    return [Answer(jsoned(ErrorBody(Problem(code, message))), {KIND: ERROR})]


@asynccontextmanager
async def answering(nc: Nats, subject: str, *scripts: Script) -> AsyncIterator[list[Msg]]:
    """What comes to `subject` gets one script after the other, the last one for ever. Yields what has come so far."""
    heard: list[Msg] = []

    async def answer(message: Msg) -> None:
        script = scripts[min(len(heard), len(scripts) - 1)]
        heard.append(message)
        for one in script:
            await nc.publish(message.reply, one.data, headers=one.headers or None)

    subscription = await nc.subscribe(subject, cb=answer)
    await round_trip(nc)
    try:
        yield heard
    finally:
        await subscription.unsubscribe()


async def round_trip(nc: Nats) -> None:
    """Until the server has done all that was asked of it. (nats-py's `flush` overtakes what waits to be written.)"""
    await nc.request("$JS.API.INFO", timeout=5)
