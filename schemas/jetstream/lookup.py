"""Reads the state of streams and consumers by JetStream's API."""

import base64
import binascii
import json
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from schemas.codec import UNREADABLE
from schemas.jetstream.connection import NatsConnection, NatsError

_TIMEOUT_S = 5.0
_NANOSECONDS = 1_000_000_000
_MISSING = {10037, 10059}
"""The server's error codes for a message and a stream that do not exist."""


class LookupRefused(NatsError):
    """The server has no such stream, consumer or message, or cannot answer now."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.is_missing = code in _MISSING
        """There is no such stream or message."""


class _Error(msgspec.Struct, frozen=True):
    err_code: int = 0
    description: str = "refused"


class _Answer(msgspec.Struct, frozen=True):
    error: _Error | None = None


class _State(msgspec.Struct, frozen=True):
    last_seq: int


class _Stream(msgspec.Struct, frozen=True):
    state: _State


class _Stored(msgspec.Struct, frozen=True):
    seq: int
    data: str = ""


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


A = TypeVar("A", _Stream, _Message, _Consumer)


async def last_sequence(nc: NatsConnection, stream: str) -> int:
    """Return the sequence of the newest message that the stream ever stored. Raises: NatsError."""
    return (await _request(nc, f"STREAM.INFO.{stream}", _Stream)).state.last_seq


async def last_message(nc: NatsConnection, stream: str, subject: str) -> bytes:
    """Return the newest message of the subject. Raises: NatsError."""
    return (await last_stored(nc, stream, subject))[1]


async def last_stored(nc: NatsConnection, stream: str, subject: str) -> tuple[int, bytes]:
    """Return the sequence and the data of the newest message of the subject. Raises: NatsError."""
    found = await _request(nc, f"STREAM.MSG.GET.{stream}", _Message, {"last_by_subj": subject})
    try:
        return found.message.seq, base64.b64decode(found.message.data)
    except (binascii.Error, ValueError) as error:
        raise LookupRefused(f"the message cannot be read: {error}") from error


async def ack_wait_s(nc: NatsConnection, stream: str, consumer: str) -> float | None:
    """Return how long a message of the consumer may stay unacknowledged; None if it needs no acknowledgement.

    Raises: NatsError.
    """
    wait_ns = (await _request(nc, f"CONSUMER.INFO.{stream}.{consumer}", _Consumer)).config.ack_wait
    return None if wait_ns is None else wait_ns / _NANOSECONDS


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a consumer has come."""

    delivered: int
    """The last message of the stream that was delivered."""
    deliveries: int
    """How many deliveries there were, redeliveries included."""


async def progress_of(nc: NatsConnection, stream: str, consumer: str) -> Progress:
    """Ask how far a consumer has come. Raises: NatsError."""
    delivered = (await _request(nc, f"CONSUMER.INFO.{stream}.{consumer}", _Consumer)).delivered
    return Progress(delivered.stream_seq, delivered.consumer_seq)


async def _request(nc: NatsConnection, subject: str, kind: type[A], body: dict[str, str] | None = None) -> A:
    payload = json.dumps(body).encode() if body else b""
    answer = (await nc.request(f"$JS.API.{subject}", payload, timeout=_TIMEOUT_S)).data
    try:
        if (error := msgspec.json.decode(answer, type=_Answer).error) is not None:
            raise LookupRefused(f"{error.description} ({error.err_code})", error.err_code)
        return msgspec.json.decode(answer, type=kind)
    except UNREADABLE as unreadable:
        raise LookupRefused(f"the answer cannot be read: {unreadable}") from unreadable
