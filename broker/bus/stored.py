"""Reads what a stream holds, without taking it from its consumers: by direct get, a page at a time (ADR-31)."""

import asyncio
import json
from collections.abc import AsyncIterator

from broker.errors import Unavailable
from schemas.jetstream import Message, NatsConnection, NatsError, header_number

_PAGE = 256
_PAGE_BYTES = 4 * 1024 * 1024
_QUIET_S = 5.0


async def stored_messages(
    nc: NatsConnection, stream: str, *, subject: str | None = None, last: int | None = None
) -> AsyncIterator[Message]:
    """Read what a stream holds of a subject up to the `last` sequence, by direct get, a page at a time (ADR-31)."""
    sequence = 1
    try:
        while page := await page_of(nc, stream, sequence, subject):
            for message in page:
                if (found := sequence_of(message, stream)) < sequence:
                    raise Unavailable("NATS", f"{stream} could not be read: a message out of its order")
                if last is not None and found > last:
                    return
                yield message
                sequence = found + 1
    except (NatsError, TimeoutError) as error:
        raise Unavailable("NATS", f"{stream} could not be read: {str(error) or type(error).__name__}") from error


def sequence_of(message: Message, stream: str) -> int:
    if (sequence := header_number(message.headers or {}, "Nats-Sequence")) is None:
        raise Unavailable("NATS", f"{stream} could not be read: a message without its sequence")
    return sequence


def subject_of(message: Message) -> str:
    """Return the subject under which a message is stored; it is delivered on another."""
    return (message.headers or {}).get("Nats-Subject", "")


async def page_of(nc: NatsConnection, stream: str, sequence: int, subject: str | None) -> list[Message]:
    inbox = nc.new_inbox()
    subscription = await nc.subscribe(inbox)
    try:
        query: dict[str, int | str] = {"seq": sequence, "batch": _PAGE, "max_bytes": _PAGE_BYTES}
        if subject is not None:
            query["next_by_subj"] = subject
        await nc.publish(f"$JS.API.DIRECT.GET.{stream}", json.dumps(query).encode(), inbox)
        page: list[Message] = []
        async with asyncio.timeout(_QUIET_S):
            while True:
                message = await subscription.next_msg(timeout=_QUIET_S)
                match (message.headers or {}).get("Status"):
                    case None:
                        page.append(message)
                    case "204" | "404":
                        return page
                    case status:
                        raise Unavailable("NATS", f"{stream} could not be read: status {status}")
    finally:
        await subscription.unsubscribe()
