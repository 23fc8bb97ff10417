"""Reads the state of streams and consumers by JetStream's API."""

import base64
import binascii
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from schemas.jetstream.api import CALL_S, ask
from schemas.jetstream.connection import NatsConnection, NatsError
from schemas.units import Ms


class _State(msgspec.Struct, frozen=True):
    last_seq: int
    messages: int = 0
    first_ts: datetime = datetime.min.replace(tzinfo=UTC)


class _Stream(msgspec.Struct, frozen=True):
    state: _State


class _Stored(msgspec.Struct, frozen=True):
    seq: int
    subject: str = ""
    data: str = ""
    hdrs: str = ""


class _Message(msgspec.Struct, frozen=True):
    message: _Stored


class _Config(msgspec.Struct, frozen=True):
    ack_wait: int | None = None


class _Delivered(msgspec.Struct, frozen=True):
    stream_seq: int
    consumer_seq: int


class _Consumer(msgspec.Struct, frozen=True):
    config: _Config
    delivered: _Delivered


async def last_sequence(nc: NatsConnection, stream: str) -> int:
    """Return the sequence of the newest message that the stream ever stored. Raises: NatsError."""
    return (await ask(nc, f"STREAM.INFO.{stream}", _Stream)).state.last_seq


async def content_of(nc: NatsConnection, stream: str) -> tuple[int, int]:
    """Return the sequence of the newest message and how many there are: nothing changes without one of the two.

    Raises: NatsError.
    """
    state = (await ask(nc, f"STREAM.INFO.{stream}", _Stream)).state
    return state.last_seq, state.messages


async def oldest_ms(nc: NatsConnection, stream: str) -> Ms | None:
    """Return when the oldest message of the stream came, by the clock of NATS. None: it is empty. Raises: NatsError."""
    state = (await ask(nc, f"STREAM.INFO.{stream}", _Stream)).state
    return Ms(int(state.first_ts.timestamp() * 1000)) if state.messages else None


async def last_message(nc: NatsConnection, stream: str, subject: str) -> bytes:
    """Return the newest message of the subject. Raises: NatsError."""
    return (await last_stored(nc, stream, subject))[1]


async def last_stored(nc: NatsConnection, stream: str, subject: str) -> tuple[int, bytes]:
    """Return the sequence and the data of the newest message of the subject. Raises: NatsError."""
    found = await ask(nc, f"STREAM.MSG.GET.{stream}", _Message, {"last_by_subj": subject})
    try:
        return found.message.seq, base64.b64decode(found.message.data)
    except (binascii.Error, ValueError) as error:
        raise NatsError(f"the message cannot be read: {error}") from error


async def direct_last(nc: NatsConnection, stream: str, subject: str) -> bytes | None:
    """Return the newest message of the subject, asking for it by a subject of its own, which permissions can allow alone.

    None: there is none. Any replica of the stream answers. Raises: NatsError.
    """
    message = await nc.request(f"$JS.API.DIRECT.GET.{stream}.{subject}", b"", timeout=CALL_S)
    status = (message.headers or {}).get("Status")
    if status is None:
        return message.data
    if status == _NOT_FOUND:
        return None
    raise NatsError(f"{stream} answers {status} {(message.headers or {}).get('Description', '')}")


_NOT_FOUND = "404"


@dataclass(frozen=True, slots=True)
class Stored:
    """A message as a stream holds it."""

    subject: str
    payload: bytes
    headers: dict[str, str]


async def stored_at(nc: NatsConnection, stream: str, sequence: int) -> Stored:
    """Return the message with this sequence. Raises: ApiRefused, if there is none; NatsError."""
    found = (await ask(nc, f"STREAM.MSG.GET.{stream}", _Message, {"seq": sequence})).message
    try:
        head = base64.b64decode(found.hdrs).decode(errors="backslashreplace")
        payload = base64.b64decode(found.data)
    except (binascii.Error, ValueError) as error:
        raise NatsError(f"the message cannot be read: {error}") from error
    pairs = [line.partition(":") for line in head.splitlines()[1:] if ":" in line]
    return Stored(found.subject, payload, {name.strip(): value.strip() for name, _, value in pairs})


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a consumer has come."""

    delivered: int
    """The last message of the stream that was delivered."""
    deliveries: int
    """How many deliveries there were, redeliveries included."""


async def progress_of(nc: NatsConnection, stream: str, consumer: str) -> Progress:
    """Ask how far a consumer has come. Raises: NatsError."""
    delivered = (await ask(nc, f"CONSUMER.INFO.{stream}.{consumer}", _Consumer)).delivered
    return Progress(delivered.stream_seq, delivered.consumer_seq)
