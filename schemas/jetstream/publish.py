"""Publishing into streams: one message, several in their order, or all or none (an atomic batch); and acknowledgements.

Atomic batches: headers `Nats-Batch-Id`, `-Sequence`, `-Commit`; one acknowledgement for all (ADR-50).
"""

import json
from collections.abc import Sequence

import msgspec

from schemas.codec import MSG_ID
from schemas.jetstream.connection import Message, NatsConnection

BATCH_MESSAGES = 1000
"""The server's limit for an atomic batch."""
BATCH_BYTES = 8 * 1024 * 1024
"""Our own bound on what one batch holds in the server's memory."""
ACK = b"+ACK"
EXTEND = b"+WPI"
TERM = b"+TERM"
_KNOWN_ID = 10201


class NotStored(Exception):
    """The stream refused a publish for good; `code` is the server's error code."""

    def __init__(self, code: int, description: str) -> None:
        super().__init__(f"{description} ({code})")
        self.code = code


class Outgoing(msgspec.Struct, frozen=True):
    subject: str
    payload: bytes


async def publish_atomically(
    nc: NatsConnection, messages: Sequence[Outgoing], *, batch_id: str, timeout_s: float = 5.0
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


async def publish_in_order(nc: NatsConnection, messages: Sequence[Outgoing], *, timeout_s: float = 5.0) -> int:
    """Publish messages of one stream and wait for the last one's acknowledgement: its sequence in the stream.

    A connection's messages are stored in their order. Where nobody else publishes, a sequence that grew by less than
    `messages` tells that some were not stored. Raises as `publish_atomically`.
    """
    await _write(nc, [(one.subject, "", one.payload) for one in messages[:-1]])
    return acknowledged(await nc.request(messages[-1].subject, messages[-1].payload, timeout=timeout_s))


async def _write(nc: NatsConnection, messages: Sequence[tuple[str, str, bytes]]) -> None:
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
        await nc.write(b"".join(commands))


async def answer_all(nc: NatsConnection, ack_subjects: Sequence[str], word: bytes) -> None:
    """Say the same of many messages (ACK, EXTEND), in one buffer. Not confirmed. Raises: nats-py's connection errors."""
    if not ack_subjects:
        return
    if nc.is_connected:
        command = f"PUB %s {len(word)}\r\n{word.decode()}\r\n"
        answers = "".join([command % subject for subject in ack_subjects[:-1]])
        await nc.write(answers.encode())
        ack_subjects = ack_subjects[-1:]
    for subject in ack_subjects:
        await nc.publish(subject, word)  # the last one also wakes the connection's writer


async def publish_one(
    nc: NatsConnection, message: Outgoing, *, message_id: str | None = None, timeout_s: float = 5.0
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
