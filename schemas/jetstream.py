"""The JetStream wire that nats-py has no call for: raw pulls and atomic batches.

Pulls: a JSON request to `$JS.API.CONSUMER.MSG.NEXT.<stream>.<consumer>`, messages and status messages to its inbox.
Atomic batches: headers `Nats-Batch-Id`, `-Sequence`, `-Commit`; one acknowledgement for all (ADR-50).
No I/O of its own: `Connection` is the two calls that nats-py's client already has.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from schemas.codec import MSG_ID
from schemas.units import Ms

BATCH_MESSAGES = 1000
"""The server's limit for an atomic batch."""
BATCH_BYTES = 8 * 1024 * 1024
"""Our own bound on what one batch holds in the server's memory."""
ACK = b"+ACK"
NAK = b"-NAK"
EXTEND = b"+WPI"
TERM = b"+TERM"
_KNOWN_ID = 10201


class Message(Protocol):
    @property
    def data(self) -> bytes: ...


class Connection(Protocol):
    """What of nats-py's Client is needed here."""

    async def publish(
        self, subject: str, payload: bytes = ..., reply: str = ..., headers: dict[str, str] | None = ...
    ) -> None: ...

    async def request(
        self,
        subject: str,
        payload: bytes = ...,
        timeout: float = ...,  # noqa: ASYNC109 - nats-py's own signature
        old_style: bool = ...,  # noqa: FBT001
        headers: dict[str, str] | None = ...,
    ) -> Message: ...


def next_subject(stream: str, consumer: str) -> str:
    return f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"


def next_request(batch: int, *, expires_ms: Ms, heartbeat_ms: Ms) -> bytes:
    """Ask for up to `batch` messages; the server says so when it has given up on the rest.

    `heartbeat_ms` must be under half of `expires_ms`; a missed heartbeat means that the pull is gone.
    """
    pull = {"batch": batch, "expires": expires_ms * 1_000_000, "idle_heartbeat": heartbeat_ms * 1_000_000}
    return json.dumps(pull).encode()


@dataclass(frozen=True, slots=True)
class Ended:
    """A pull is over; `unused` of what it asked for will not come."""

    unused: int
    reason: str


@dataclass(frozen=True, slots=True)
class Heartbeat:
    pass


def pull_status(headers: Mapping[str, str]) -> Ended | Heartbeat | None:
    """What a message to the pull's inbox says of the pull; None for a message of the stream."""
    match headers.get("Status"):
        case None:
            return None
        case "100":
            return Heartbeat()
        case code:
            reason = f"{code} {headers.get('Description', '')}".strip()
            return Ended(int(headers.get("Nats-Pending-Messages", "0")), reason)


@dataclass(frozen=True, slots=True)
class Delivered:
    """What an ack subject tells of its message: `$JS.ACK.[domain.account.]stream.consumer.deliveries.seq.…`."""

    deliveries: int
    sequence: int
    at_ms: Ms
    """When the stream stored it, by the server's clock."""
    pending: int
    """Messages of the consumer still to be delivered, at that moment."""


def delivered(ack_subject: str) -> Delivered:
    """Raises: ValueError."""
    deliveries, sequence, _, nanoseconds, pending = map(int, _numbers(ack_subject))
    return Delivered(deliveries, sequence, Ms(nanoseconds // 1_000_000), pending)


def deliveries(ack_subject: str) -> int:
    """How often its message was delivered, this time included. Raises: ValueError."""
    return int(_numbers(ack_subject)[0])


def _numbers(ack_subject: str) -> list[str]:
    tokens = ack_subject.split(".")
    if tokens[:2] != ["$JS", "ACK"] or len(tokens) not in {9, 11, 12}:
        raise ValueError(f"{ack_subject!r} is not a JetStream ack subject")
    return tokens[4:9] if len(tokens) == 9 else tokens[6:11]


class NotStored(Exception):
    """The stream refused a publish for good; `code` is the server's error code."""

    def __init__(self, code: int, description: str) -> None:
        super().__init__(f"{description} ({code})")
        self.code = code


class Outgoing(msgspec.Struct, frozen=True):
    subject: str
    payload: bytes
    headers: Mapping[str, str] | None = None


def heed_cancellation() -> None:
    """To be called in every loop that publishes. Raises: asyncio.CancelledError, if this task was told to end.

    nats-py swallows a cancellation that comes while it flushes (Client._flush_pending, 2.16.0): the task would go on.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def publish_atomically(
    nc: Connection, messages: Sequence[Outgoing], *, batch_id: str, timeout_s: float = 5.0
) -> None:
    """Store all messages or none, in one acknowledgement; at most BATCH_MESSAGES, all of one stream.

    Safe to repeat with the same `batch_id` after an error: a batch that was stored before is not stored again (within
    the stream's duplicate window). Raises: NotStored; nats-py's TimeoutError, NoRespondersError, connection errors.
    """
    last = len(messages)
    for sequence, message in enumerate(messages, 1):
        headers = {**(message.headers or {}), "Nats-Batch-Id": batch_id, "Nats-Batch-Sequence": str(sequence)}
        if sequence == 1:
            headers[MSG_ID] = batch_id
        if sequence < last:
            await nc.publish(message.subject, message.payload, headers=headers)
            continue
        headers["Nats-Batch-Commit"] = "1"
        _check(await nc.request(message.subject, message.payload, timeout=timeout_s, headers=headers))
    heed_cancellation()


async def publish_one(
    nc: Connection, message: Outgoing, *, message_id: str | None = None, timeout_s: float = 5.0
) -> None:
    """Store one message and wait for the acknowledgement. Raises as `publish_atomically`."""
    headers = dict(message.headers or {})
    if message_id is not None:
        headers[MSG_ID] = message_id
    _check(await nc.request(message.subject, message.payload, timeout=timeout_s, headers=headers or None))
    heed_cancellation()


def _check(answer: Message) -> None:
    if error := json.loads(answer.data).get("error"):
        if error.get("err_code") == _KNOWN_ID:
            return
        raise NotStored(error.get("err_code", 0), error.get("description", "refused"))
