"""The reply to one interactive attempt: pieces, signs of life, and one end."""

import contextlib
import json
import logging

import msgspec

from schemas.api import ErrorBody, Problem
from schemas.codec import CHUNK, ERROR, FAILURE, FINAL, KEEPALIVE, KIND, SEQ, jsoned
from schemas.jetstream import NatsConnection, NatsError
from schemas.outcome import (
    Cancelled,
    ContextTooLong,
    EngineLost,
    Expired,
    Failed,
    Failure,
    Outcome,
    Released,
    ResponseTooLarge,
    Succeeded,
    failure_kind,
    public_message,
    retryable,
)
from schemas.units import Ms
from workers.ports import Clock

log = logging.getLogger(__name__)


class Replier:
    """Says to the relay what one attempt comes to; nothing, where the attempt names no subject to answer on."""

    def __init__(self, nc: NatsConnection, subject: str | None, *, clock: Clock) -> None:
        self._nc = nc
        self._subject = subject
        self._clock = clock
        self._said_ms = clock()
        self._pieces = 0

    def __repr__(self) -> str:
        return f"Replier({self._subject}, pieces={self._pieces})"

    async def piece(self, data: bytes) -> None:
        """Pass on one streaming object. The end repairs what is lost."""
        self._pieces += 1
        self._said_ms = self._clock()
        with contextlib.suppress(NatsError):
            await self._say(data, {KIND: CHUNK, SEQ: str(self._pieces)})

    async def keep_alive(self, now: Ms, *, every_ms: Ms) -> None:
        """Say that the attempt is still held, if nothing else was said for so long."""
        if now - self._said_ms >= every_ms:
            self._said_ms = now
            with contextlib.suppress(NatsError):
                await self._say(b"", {KIND: KEEPALIVE})

    async def end(self, outcome: Outcome) -> None:
        """Complete the reply. The outcome is durable by then, whether the relay hears of it or not."""
        headers = {KIND: ERROR, SEQ: str(self._pieces + 1)}
        if isinstance(outcome, Succeeded):
            headers[KIND] = FINAL
            data = outcome.body
        else:
            data = jsoned(ErrorBody(problem_of(outcome)))
            if (failure := _mendable(outcome)) is not None:
                headers[FAILURE] = json.dumps(msgspec.to_builtins(failure))  # ASCII, as headers are
        try:
            await self._say(data, headers)
        except NatsError as error:
            log.warning("reply lost error=%s", str(error) or type(error).__name__)

    async def _say(self, data: bytes, headers: dict[str, str]) -> None:
        if self._subject is not None:
            await self._nc.publish(self._subject, data, headers=headers)


def _mendable(outcome: Failed | Expired | Cancelled | Released) -> Failure | None:
    """The failure, if another deployment may do better."""
    match outcome:
        case Failed(failure) if retryable(failure):
            return failure
        case Released():
            return EngineLost("the worker stopped")
        case _:
            return None


def problem_of(outcome: Failed | Expired | Cancelled | Released) -> Problem:
    match outcome:
        case Failed(ContextTooLong(message, context_tokens)):
            return Problem("context_too_long", message, limit=context_tokens)
        case Failed(ResponseTooLarge(_, limit_bytes) as failure):
            return Problem("response_too_large", public_message(failure), limit=limit_bytes)
        case Failed(failure):
            return Problem(failure_kind(failure), public_message(failure))
        case Expired():
            return Problem("expired", "the deadline passed")
        case Cancelled():
            return Problem("cancelled", "the request was cancelled")
        case Released():
            return Problem("worker_stopped", "the worker stopped: try again")
