"""Calls JetStream's API, each call with its own time-out."""

import json
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from schemas.codec import UNREADABLE
from schemas.jetstream.connection import NatsConnection, NatsError
from schemas.jetstream.errors import ApiRefused, ServerError

CALL_S = 5.0
"""How long the server may take to answer. Making a stream with three replicas takes about half a second."""
A = TypeVar("A")


class _Answer(msgspec.Struct, frozen=True):
    error: ServerError | None = None


async def ask(
    nc: NatsConnection,
    subject: str,
    kind: type[A],
    body: Mapping[str, Any] | None = None,
    *,
    within_s: float = CALL_S,
) -> A:
    """Ask `$JS.API.<subject>` and decode the answer. Raises: ApiRefused, NatsError."""
    payload = json.dumps(body).encode() if body else b""
    answer = (await nc.request(f"$JS.API.{subject}", payload, timeout=within_s)).data
    try:
        error = msgspec.json.decode(answer, type=_Answer).error
        found = msgspec.json.decode(answer, type=kind) if error is None else None
    except UNREADABLE as unreadable:
        raise NatsError(f"the answer cannot be read: {unreadable}") from unreadable
    if found is None:
        raise ApiRefused(error or ServerError())
    return found


async def call(nc: NatsConnection, subject: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Ask for something whose answer is only whether it was done, or not ours to describe. Raises as `ask`."""
    answer: dict[str, Any] = await ask(nc, subject, dict, body)
    return answer
