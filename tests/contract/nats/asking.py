"""What tests of NATS do to a server, whichever it is."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from schemas.jetstream import Message, NatsConnection, NatsTimeoutError, Subscription

S = 1_000_000_000
MS = 1_000_000
SOON_S = 10.0
"""How long something may take that comes at once, on a machine under load."""
Told = dict[str, Any]


async def asked(nc: NatsConnection, subject: str, body: Mapping[str, Any] | None = None) -> Told:
    """Ask JetStream's API, and return its answer, errors included."""
    payload = b"" if body is None else json.dumps(body).encode()
    told: Told = json.loads((await nc.request(f"$JS.API.{subject}", payload, timeout=SOON_S)).data)
    return told


async def done(nc: NatsConnection, subject: str, body: Mapping[str, Any] | None = None) -> Told:
    told = await asked(nc, subject, body)
    assert "error" not in told, told["error"]
    return told


async def refusal(nc: NatsConnection, subject: str, body: Mapping[str, Any] | None = None) -> Told:
    """Ask for something that is refused, and return the error."""
    error: Told = (await asked(nc, subject, body))["error"]
    return error


async def a_stream(nc: NatsConnection, name: str = "S", **settings: Any) -> Told:
    return await done(nc, f"STREAM.CREATE.{name}", {"name": name, "subjects": ["s.*"], **settings})


async def a_queue(nc: NatsConnection, **settings: Any) -> Told:
    return await a_stream(nc, retention="workqueue", discard="new", **settings)


def consumer(name: str = "c", stream: str = "S", **config: Any) -> Told:
    return {"stream_name": stream, "config": {"durable_name": name, "ack_policy": "explicit", **config}}


async def a_consumer(nc: NatsConnection, name: str = "c", **config: Any) -> Told:
    return await done(nc, f"CONSUMER.CREATE.S.{name}", consumer(name, **config))


async def stored(nc: NatsConnection, subject: str, data: bytes = b"x", **headers: str) -> Told:
    """Publish into a stream, and return what it answers."""
    named = {f"Nats-{name.replace('_', '-')}": text for name, text in headers.items()}
    answer: Told = json.loads((await nc.request(subject, data, timeout=SOON_S, headers=named or None)).data)
    return answer


async def state(nc: NatsConnection, stream: str = "S") -> Told:
    told: Told = (await done(nc, f"STREAM.INFO.{stream}"))["state"]
    return told


async def progress(nc: NatsConnection, name: str = "c") -> Told:
    return await done(nc, f"CONSUMER.INFO.S.{name}")


async def eventually(holds: Callable[[], Awaitable[bool]], what: str) -> None:
    async with asyncio.timeout(SOON_S):
        while not await holds():
            await asyncio.sleep(0.01)
    assert await holds(), what


class Pulls:
    """The pulls of one inbox and what comes of them."""

    def __init__(self, nc: NatsConnection, inbox: str, came: Subscription) -> None:
        self._nc, self._inbox, self._came = nc, inbox, came

    async def ask(self, consumer: str = "c", **request: Any) -> None:
        await self._nc.publish(f"$JS.API.CONSUMER.MSG.NEXT.S.{consumer}", json.dumps(request).encode(), self._inbox)

    async def next(self, within_s: float = SOON_S) -> Message:
        return await self._came.next_msg(within_s)

    async def messages(self, count: int) -> list[Message]:
        found = [await self.next() for _ in range(count)]
        assert all(message.reply for message in found), [message.headers for message in found]
        return found

    async def status(self) -> dict[str, str]:
        """Wait for a status that is no heartbeat."""
        while True:
            message = await self.next()
            assert message.headers is not None, message
            headers = {str(getattr(key, "value", key)): text for key, text in message.headers.items()}
            if headers["Status"] != "100":
                return headers

    async def nothing(self, within_s: float = 0.2) -> None:
        try:
            message = await self.next(within_s)
        except NatsTimeoutError:
            return
        raise AssertionError(message)

    async def leave(self) -> None:
        await self._came.unsubscribe()


async def pulling(nc: NatsConnection) -> Pulls:
    inbox = nc.new_inbox()
    return Pulls(nc, inbox, await nc.subscribe(inbox))


async def answer(nc: NatsConnection, message: Message, word: bytes) -> None:
    """Answer a message, and wait until the server has it."""
    await nc.publish(message.reply, word)
    await nc.flush()


def facts(message: Message) -> tuple[int, int, int]:
    """The count of the delivery, the sequence in the stream, and the number of the delivery."""
    tokens = message.reply.split(".")
    return int(tokens[4]), int(tokens[5]), int(tokens[6])
