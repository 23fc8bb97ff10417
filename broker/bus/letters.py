"""Messages that are not what they should be, as the ledger keeps them."""

from nats.aio.msg import Msg

from broker.core.records import DeadLetter
from schemas.jetstream import delivered


def letter_of(message: Msg, *, stream: str, why: str) -> DeadLetter:
    at = delivered(message.reply)
    return DeadLetter(
        subject=message.subject,
        stream=stream,
        sequence=at.sequence,
        received_ms=at.at_ms,
        reason=why,
        payload=message.data,
        headers=dict(message.headers or {}),
    )
