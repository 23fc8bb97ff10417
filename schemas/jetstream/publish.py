"""Publishes into streams: one message, several in order, or all or none (an atomic batch). Acknowledges messages.

Atomic batches have the headers `Nats-Batch-Id`, `-Sequence`, `-Commit`, and one acknowledgement for all messages (ADR-50).
"""

from collections.abc import Mapping, Sequence

import msgspec

from schemas.codec import MSG_ID, UNREADABLE
from schemas.jetstream.connection import BadSubjectError, Message, NatsConnection
from schemas.jetstream.errors import Kind, NotStored, ServerError

BATCH_MESSAGES = 1000
"""The server's limit for an atomic batch."""
BATCH_BYTES = 8 * 1024 * 1024
"""Our own limit for what one batch holds in the server's memory."""
ACK = b"+ACK"
EXTEND = b"+WPI"
NAK = b"-NAK"
"""Deliver it again, at once."""
TERM = b"+TERM"
LAST_SEQUENCE = "Nats-Expected-Last-Subject-Sequence"


class _Acknowledgement(msgspec.Struct, frozen=True):
    seq: int = 0
    error: ServerError | None = None


_acknowledgement = msgspec.json.Decoder(_Acknowledgement)


class Outgoing(msgspec.Struct, frozen=True):
    subject: str
    payload: bytes
    headers: Mapping[str, str] = {}


async def publish_atomically(
    nc: NatsConnection, messages: Sequence[Outgoing], *, batch_id: str, timeout_s: float = 5.0
) -> None:
    """Store all messages or none, with one acknowledgement: at most BATCH_MESSAGES, all of one stream.

    It is safe to repeat with the same `batch_id` after an error: a batch that was stored before is not stored again (within
    the stream's duplicate window). Raises: NotStored; nats-py's TimeoutError, NoRespondersError, connection errors.
    """
    last = messages[-1]
    batch = {"Nats-Batch-Id": batch_id, "Nats-Batch-Sequence": str(len(messages)), "Nats-Batch-Commit": "1"}
    if len(messages) == 1:
        batch[MSG_ID] = batch_id
    else:
        await _write(
            nc, [(one.subject, _in_batch(n, batch_id, one), one.payload) for n, one in enumerate(messages[:-1], 1)]
        )
    acknowledged(await nc.request(last.subject, last.payload, timeout=timeout_s, headers={**last.headers, **batch}))


def _in_batch(sequence: int, batch_id: str, message: Outgoing) -> str:
    """Return the header lines of a message in a batch. Only the first has the message id, which is the batch's."""
    known = f"{MSG_ID}: {batch_id}\r\n" if sequence == 1 else ""
    return f"Nats-Batch-Id: {batch_id}\r\nNats-Batch-Sequence: {sequence}\r\n{known}{_lines(message.headers)}"


def _lines(headers: Mapping[str, str]) -> str:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()) if headers else ""


async def publish_in_order(nc: NatsConnection, messages: Sequence[Outgoing], *, timeout_s: float = 5.0) -> int:
    """Publish messages of one stream and wait for the last one's acknowledgement. Return its sequence in the stream.

    The messages of one connection are stored in order. If nobody else publishes and the sequence grew by less than the
    number of messages, some were not stored. Raises as `publish_atomically`.
    """
    last = messages[-1]
    await _write(
        nc, [(one.subject, _lines(one.headers) if one.headers else "", one.payload) for one in messages[:-1]]
    )
    return acknowledged(
        await nc.request(last.subject, last.payload, timeout=timeout_s, headers=dict(last.headers) or None)
    )


async def _write(nc: NatsConnection, messages: Sequence[tuple[str, str, bytes]]) -> None:
    """Publish messages (subject, header lines, payload) in one buffer, without acknowledgement.

    nats-py's own publish (2.16.0) costs several times as much as everything else about a message. Only if it would refuse
    or buffer a message is the message passed to it.
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
    """Answer many messages alike (ACK, EXTEND, NAK, TERM), in one buffer. NATS confirms nothing. Raises: NatsError."""
    if not ack_subjects:
        return
    if " ".join(ack_subjects).split() != list(ack_subjects):  # they are written into the connection as they are
        raise BadSubjectError
    if nc.is_connected:
        command = f"PUB %s {len(word)}\r\n{word.decode()}\r\n"
        answers = "".join([command % subject for subject in ack_subjects[:-1]])
        await nc.write(answers.encode())
        ack_subjects = ack_subjects[-1:]
    for subject in ack_subjects:
        await nc.publish(subject, word)  # the last one also wakes the connection's writer


async def publish_one(
    nc: NatsConnection,
    message: Outgoing,
    *,
    message_id: str | None = None,
    last_sequence: int | None = None,
    timeout_s: float = 5.0,
) -> None:
    """Store one message and wait for the acknowledgement. Raises as `publish_atomically`.

    With `last_sequence`, it is stored only if that is the sequence of the subject's newest message (0: there is none).
    """
    headers = dict(message.headers)
    if message_id is not None:
        headers[MSG_ID] = message_id
    if last_sequence is not None:
        headers[LAST_SEQUENCE] = str(last_sequence)
    acknowledged(await nc.request(message.subject, message.payload, timeout=timeout_s, headers=headers or None))


def acknowledged(answer: Message) -> int:
    """Return the sequence of the stored message; 0 if it was stored before. Raises: NotStored."""
    try:
        body = _acknowledgement.decode(answer.data)
    except UNREADABLE as error:
        raise NotStored(ServerError(description=f"the answer is no acknowledgement: {error}")) from error
    if body.error is not None and body.error.kind is not Kind.KNOWN:
        raise NotStored(body.error)
    return body.seq
