"""Makes the record that the ledger keeps of a message that cannot be read."""

from collections import defaultdict
from collections.abc import Sequence

from msgspec.structs import replace

from broker.core.records import DeadLetter
from schemas.jetstream import Message, delivered

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


def dead_letter_of(message: Message, *, stream: str, why: str) -> DeadLetter:
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
