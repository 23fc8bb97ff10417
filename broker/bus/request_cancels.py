"""Asks the relays of all brokers to end interactive requests by their ids."""

import asyncio
import contextlib
import logging
from collections.abc import Collection, Sequence
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import Meta

from schemas import subjects
from schemas.codec import UNREADABLE, packed, unpacker
from schemas.jetstream import Message, NatsConnection, NatsError
from schemas.units import Name

log = logging.getLogger(__name__)
ANSWER_S = 0.25
"""How long brokers have to say that they had a request. A guess: it takes a millisecond or two."""
_MOST = 1000
_Jobs = Annotated[list[UUID], Meta(max_length=_MOST)]
_cancel: msgspec.msgpack.Decoder[tuple[Name, _Jobs]] = msgspec.msgpack.Decoder(tuple[Name, _Jobs])
_jobs = unpacker(list[UUID])


async def cancel_requests(
    nc: NatsConnection, jobs: Collection[UUID], tenant: str, *, answer_s: float = ANSWER_S
) -> set[UUID]:
    """End those of the requests that are under way, at whichever broker, and return them. A slow broker is missed."""
    inbox, found, all_found = nc.new_inbox(), set[UUID](), asyncio.Event()

    async def hear(message: Message) -> None:
        with contextlib.suppress(*UNREADABLE):
            found.update(_jobs.decode(message.data))
        if found.issuperset(jobs):
            all_found.set()

    try:
        answers = await nc.subscribe(inbox, cb=hear)
        try:
            await nc.publish(subjects.CTL_CANCEL_REQUESTS, packed((tenant, list(jobs))), inbox)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(answer_s):
                    await all_found.wait()
        finally:
            await answers.unsubscribe()
    except NatsError as error:
        log.warning("requests are not cancelled error=%s", str(error) or type(error).__name__)
    return found & {*jobs}


def decode_request_cancel(data: bytes) -> tuple[str, Sequence[UUID]] | None:
    """Read whose requests are to be ended, and which. None: it cannot be read."""
    try:
        return _cancel.decode(data)
    except UNREADABLE as error:
        log.warning("ignored subject=%s bytes=%d error=%s", subjects.CTL_CANCEL_REQUESTS, len(data), error)
        return None
