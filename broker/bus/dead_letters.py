"""Makes the record that the ledger keeps of a message that cannot be read, and publishes such messages again."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence

from msgspec.structs import replace

from broker.core.records import DeadLetter
from broker.errors import Unavailable
from schemas.dead import DeadCause
from schemas.jetstream import Message, NatsConnection, NatsError, NotStored, Outgoing, delivered, publish_one

_REASONS_SHOWN = 5


def one_per_message(dead_letters: Sequence[DeadLetter]) -> list[DeadLetter]:
    """Merge the dead letters of one message into one that names every reason."""
    by_message: dict[tuple[str, int], list[DeadLetter]] = defaultdict(list)
    for one in dead_letters:
        by_message[one.stream, one.sequence].append(one)
    return [
        replace(same[0], reason="; ".join(one.reason for one in same[:_REASONS_SHOWN]))
        for same in by_message.values()
    ]


def dead_letter_of(message: Message, *, stream: str, cause: DeadCause, why: str) -> DeadLetter:
    at = delivered(message.reply)
    return DeadLetter(
        subject=message.subject,
        stream=stream,
        sequence=at.sequence,
        received_ms=at.at_ms,
        reason=why,
        cause=cause,
        payload=message.data,
        headers=dict(message.headers or {}),
    )


async def publish_again(nc: NatsConnection, dead_letters: Sequence[DeadLetter]) -> list[DeadLetter]:
    """Store messages in their streams again, and return those that are. Raises: Unavailable, if none is.

    The same dead letter is stored once, if it comes again within the streams' duplicate window.
    """
    ended = await asyncio.gather(*[_publish(nc, one) for one in dead_letters], return_exceptions=True)
    errors = [error for error in ended if isinstance(error, BaseException)]
    if unexpected := [error for error in errors if not isinstance(error, NatsError | NotStored | TimeoutError)]:
        raise unexpected[0]
    if errors and len(errors) == len(ended):
        raise Unavailable("NATS", f"a stream did not take it: {str(errors[0]) or type(errors[0]).__name__}")
    return [one for one, error in zip(dead_letters, ended, strict=True) if error is None]


async def _publish(nc: NatsConnection, one: DeadLetter) -> None:
    message_id = f"requeue-{one.id}"
    await publish_one(nc, Outgoing(one.subject, one.payload, one.headers), message_id=message_id)
