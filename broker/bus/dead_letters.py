"""Messages that are not what they should be, as the ledger keeps them."""

from collections import defaultdict
from collections.abc import Sequence

from msgspec.structs import replace
from nats.aio.msg import Msg

from broker.core.records import DeadLetter
from schemas.jetstream import delivered

_SHOWN = 5


def one_per_message(dead_letters: Sequence[DeadLetter]) -> list[DeadLetter]:
    """One letter a message, with everything that is wrong in it."""
    by_message: dict[tuple[str, int], list[DeadLetter]] = defaultdict(list)
    for letter in dead_letters:
        by_message[letter.stream, letter.sequence].append(letter)
    return [
        replace(same[0], reason="; ".join(letter.reason for letter in same[:_SHOWN])) for same in by_message.values()
    ]


def dead_letter_of(message: Msg, *, stream: str, why: str) -> DeadLetter:
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
