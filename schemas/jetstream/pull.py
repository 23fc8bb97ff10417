"""Builds raw pulls, for which nats-py has no call, and parses the subject of an acknowledgement.

A pull is a JSON request to `$JS.API.CONSUMER.MSG.NEXT.<stream>.<consumer>`; messages and status messages come to its inbox.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from schemas.units import ACK, Ms


def next_subject(stream: str, consumer: str) -> str:
    return f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"


def next_request(batch: int, *, expires_ms: Ms, heartbeat_ms: Ms, most_bytes: int = 0) -> bytes:
    """Build a pull of up to `batch` messages. If it expires, the server says how many of them will not come.

    `heartbeat_ms` must be under half of `expires_ms`; a missed heartbeat means that the pull is lost. With `most_bytes` the
    pull ends before the message that would exceed it; a single message that is larger would never come.
    """
    pull = {"batch": batch, "expires": expires_ms * 1_000_000, "idle_heartbeat": heartbeat_ms * 1_000_000}
    return json.dumps(pull | {"max_bytes": most_bytes} if most_bytes else pull).encode()


@dataclass(frozen=True, slots=True)
class PullEnded:
    """A pull has ended. `unused` of the messages that it requested will not come."""

    unused: int | None
    """None if the server does not say: it refused the pull, or the consumer is gone."""
    reason: str


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The server still waits for messages for the pull."""


def pull_status(headers: Mapping[str, str]) -> PullEnded | Heartbeat | None:
    """Parse a status message to the pull's inbox; None if the message is one of the stream."""
    match headers.get("Status"):
        case None:
            return None
        case "100":
            return Heartbeat()
        case code:
            reason = f"{code} {headers.get('Description', '')}".strip()
            return PullEnded(header_number(headers, "Nats-Pending-Messages"), reason)


def header_number(headers: Mapping[str, str], name: str) -> int | None:
    """Read a number that the server writes into a header. None: it is missing, or no such number."""
    text = headers.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS else None


_MOST_DIGITS = 18


@dataclass(frozen=True, slots=True)
class Delivered:
    """The facts in the ack subject of a message: `$JS.ACK.[domain.account.]stream.consumer.deliveries.seq.…`."""

    deliveries: int
    sequence: int
    at_ms: Ms
    """When the stream stored the message, by the server's clock."""
    pending: int
    """How many messages the consumer had still to deliver at that moment."""


def delivered(ack_subject: str) -> Delivered:
    """Parse an ack subject. Raises: ValueError."""
    if (found := _ack(ack_subject)) is None:
        raise ValueError(_no_ack(ack_subject))
    _, _, _, deliveries, sequence, nanoseconds, pending = found.groups()
    return Delivered(int(deliveries), int(sequence), Ms(int(nanoseconds) // 1_000_000), int(pending))


def ack_subject(stream: str, consumer: str, *, sequence: int, delivery: int) -> str:
    """Build the subject that answers a message in a worker's place.

    The server looks a message up by its `sequence`, and refuses a `delivery` (the consumer's count of all deliveries)
    that is acknowledged or that never was; the latest one always is right (server/consumer.go, processNak).
    """
    return f"$JS.ACK.{stream}.{consumer}.1.{sequence}.{delivery}.0.0"


def deliveries(ack_subject: str) -> int:
    """Return how often the message was delivered, this time included. Raises: ValueError."""
    if (found := _ack(ack_subject)) is None:
        raise ValueError(_no_ack(ack_subject))
    return int(found[4])


def acknowledges(ack_subject: str, stream: str, consumer: str) -> bool:
    """Say whether this is the ack subject of a message of this consumer.

    Where its names stand decides: a domain and an account may be called as the stream and the consumer of others.
    """
    found = _ack(ack_subject)
    return found is not None and found[2] == stream and found[3] == consumer


def _no_ack(subject: str) -> str:
    return f"{subject[:100]!r} is not a JetStream ack subject"


_ack = re.compile(ACK).match
