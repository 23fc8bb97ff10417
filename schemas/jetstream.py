"""The JetStream wire that nats-py has no call for: raw pulls and atomic batches.

Pulls: a JSON request to `$JS.API.CONSUMER.MSG.NEXT.<stream>.<consumer>`, messages and status messages to its inbox.
Atomic batches: headers `Nats-Batch-Id`, `-Sequence`, `-Commit`; one acknowledgement for all (ADR-50).
No I/O of its own: `Connection` is the two calls that nats-py's client already has.
"""

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
EXTEND = b"+WPI"
TERM = b"+TERM"
_KNOWN_ID = 10201


class Message(Protocol):
    @property
    def data(self) -> bytes: ...


class Connection(Protocol):
    """What of nats-py's Client is needed here."""

    @property
    def is_connected(self) -> bool: ...

    @property
    def max_payload(self) -> int: ...

    async def _send_command(self, cmd: bytes, priority: bool = ...) -> None: ...  # noqa: FBT001 - nats-py's own

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


def next_request(batch: int, *, expires_ms: Ms, heartbeat_ms: Ms, most_bytes: int = 0) -> bytes:
    """Ask for up to `batch` messages; the server says so when it has given up on the rest.

    `heartbeat_ms` must be under half of `expires_ms`; a missed heartbeat means that the pull is gone. With `most_bytes`
    the pull ends before the message that goes beyond; one that is larger by itself would never come.
    """
    pull = {"batch": batch, "expires": expires_ms * 1_000_000, "idle_heartbeat": heartbeat_ms * 1_000_000}
    return json.dumps(pull | {"max_bytes": most_bytes} if most_bytes else pull).encode()


@dataclass(frozen=True, slots=True)
class Ended:
    """A pull is over; `unused` of what it asked for will not come."""

    unused: int | None
    """None when the server does not say: it refused the pull, or the consumer is gone."""
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
            unused = headers.get("Nats-Pending-Messages")
            return Ended(None if unused is None else int(unused), reason)


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


async def publish_atomically(
    nc: Connection, messages: Sequence[Outgoing], *, batch_id: str, timeout_s: float = 5.0
) -> None:
    """Store all messages or none, in one acknowledgement; at most BATCH_MESSAGES, all of one stream.

    Safe to repeat with the same `batch_id` after an error: a batch that was stored before is not stored again (within
    the stream's duplicate window). Raises: NotStored; nats-py's TimeoutError, NoRespondersError, connection errors.
    """
    last = messages[-1]
    batch = {"Nats-Batch-Id": batch_id, "Nats-Batch-Sequence": str(len(messages)), "Nats-Batch-Commit": "1"}
    if len(messages) == 1:
        batch[MSG_ID] = batch_id
    else:
        await _write(
            nc, [(one.subject, _in_batch(n, batch_id), one.payload) for n, one in enumerate(messages[:-1], 1)]
        )
    acknowledged(await nc.request(last.subject, last.payload, timeout=timeout_s, headers=batch))


def _in_batch(sequence: int, batch_id: str) -> str:
    """Header lines; the batch has one message id, on its first."""
    known = f"{MSG_ID}: {batch_id}\r\n" if sequence == 1 else ""
    return f"Nats-Batch-Id: {batch_id}\r\nNats-Batch-Sequence: {sequence}\r\n{known}"


async def publish_in_order(nc: Connection, messages: Sequence[Outgoing], *, timeout_s: float = 5.0) -> int:
    """Publish messages of one stream and wait for the last one's acknowledgement: its sequence in the stream.

    A connection's messages are stored in their order. Where nobody else publishes, a sequence that grew by less than
    `messages` tells that some were not stored. Raises as `publish_atomically`.
    """
    await _write(nc, [(one.subject, "", one.payload) for one in messages[:-1]])
    return acknowledged(await nc.request(messages[-1].subject, messages[-1].payload, timeout=timeout_s))


async def _write(nc: Connection, messages: Sequence[tuple[str, str, bytes]]) -> None:
    """Publish without acknowledgement, all in one buffer: subject, header lines, payload.

    nats-py's own publish (2.16.0) costs several times the rest of a message's way. Where it would refuse or buffer, it is
    asked to.
    """
    commands: list[bytes] = []
    for subject, lines, payload in messages:
        head = f"NATS/1.0\r\n{lines}\r\n".encode() if lines else b""
        if len(payload) + len(head) > nc.max_payload or not nc.is_connected:
            headers = dict(line.split(": ", 1) for line in lines.splitlines())
            await nc.publish(subject, payload, headers=headers or None)
            continue
        if head:
            sizes = b"%d %d" % (len(head), len(head) + len(payload))
            commands.append(b"HPUB %b %b\r\n%b%b\r\n" % (subject.encode(), sizes, head, payload))
        else:
            commands.append(b"PUB %b %d\r\n%b\r\n" % (subject.encode(), len(payload), payload))
    if commands:
        await nc._send_command(b"".join(commands))  # noqa: SLF001 - see above


async def answer_all(nc: Connection, ack_subjects: Sequence[str], word: bytes) -> None:
    """Say the same of many messages (ACK, EXTEND), in one buffer. Not confirmed. Raises: nats-py's connection errors."""
    if not ack_subjects:
        return
    if nc.is_connected:
        command = f"PUB %s {len(word)}\r\n{word.decode()}\r\n"
        answers = "".join([command % subject for subject in ack_subjects[:-1]])
        await nc._send_command(answers.encode())  # noqa: SLF001 - as in `_write`
        ack_subjects = ack_subjects[-1:]
    for subject in ack_subjects:
        await nc.publish(subject, word)  # the last one also wakes nats-py's writer


async def publish_one(
    nc: Connection, message: Outgoing, *, message_id: str | None = None, timeout_s: float = 5.0
) -> None:
    """Store one message and wait for the acknowledgement. Raises as `publish_atomically`."""
    headers = None if message_id is None else {MSG_ID: message_id}
    acknowledged(await nc.request(message.subject, message.payload, timeout=timeout_s, headers=headers))


def acknowledged(answer: Message) -> int:
    """The sequence of what was stored, 0 where it was before. Raises: NotStored."""
    said = json.loads(answer.data)
    error = said.get("error")
    if error is not None and error.get("err_code") != _KNOWN_ID:
        raise NotStored(error.get("err_code", 0), error.get("description", "refused"))
    return int(said.get("seq", 0))
