"""Reads the state of streams and consumers by JetStream's API."""

import base64
import json
from typing import Any

from schemas.jetstream.connection import NatsConnection, NatsError

_TIMEOUT_S = 5.0
_NANOSECONDS = 1_000_000_000


class LookupRefused(NatsError):
    """The server has no such stream, consumer or message, or cannot answer now."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(f"{error.get('description', 'refused')} ({error.get('err_code', 0)})")


async def last_sequence(nc: NatsConnection, stream: str) -> int:
    """Return the sequence of the newest message that the stream ever stored. Raises: NatsError."""
    return int((await _request(nc, f"STREAM.INFO.{stream}"))["state"]["last_seq"])


async def last_message(nc: NatsConnection, stream: str, subject: str) -> bytes:
    """Return the newest message of the subject. Raises: NatsError."""
    found = await _request(nc, f"STREAM.MSG.GET.{stream}", {"last_by_subj": subject})
    return base64.b64decode(found["message"].get("data", ""))


async def ack_wait_s(nc: NatsConnection, stream: str, consumer: str) -> float | None:
    """Return how long a message of the consumer may stay unacknowledged; None if it needs no acknowledgement.

    Raises: NatsError.
    """
    wait_ns = (await _request(nc, f"CONSUMER.INFO.{stream}.{consumer}"))["config"].get("ack_wait")
    return None if wait_ns is None else wait_ns / _NANOSECONDS


async def _request(nc: NatsConnection, subject: str, body: dict[str, str] | None = None) -> dict[str, Any]:
    payload = json.dumps(body).encode() if body else b""
    answer: dict[str, Any] = json.loads((await nc.request(f"$JS.API.{subject}", payload, timeout=_TIMEOUT_S)).data)
    if "error" in answer:
        raise LookupRefused(answer["error"])
    return answer
