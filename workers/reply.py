"""Sends the reply to one interactive attempt: pieces, keep-alives and one end, or that it is turned back."""

import contextlib
import json
import logging

import msgspec

from schemas.api import ErrorBody, Problem
from schemas.codec import CHUNK, ERROR, FAILURE, FINAL, FULL, KEEPALIVE, KIND, SEQ, jsoned
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


ASK_MS = Ms(1_000)
"""How often to ask the server whether the relay is there."""
_LOST_AFTER = 3
"""After how many such questions in a row the relay counts as lost: it needs a second or two to connect again."""


class Replier:
    """Replies to the relay of one attempt. An attempt that names no subject for its reply gets none.

    Now and then a message names a subject on which the server says if nobody hears it, as `unheard` is told then.
    """

    def __init__(self, nc: NatsConnection, subject: str | None, *, clock: Clock, unheard_at: str = "") -> None:
        self._nc = nc
        self._subject = subject
        self._clock = clock
        self._last_sent_ms = self._asked_ms = clock()
        self._unheard_at = unheard_at
        self._unheard = 0
        """How many of the last questions in a row nobody heard."""
        self._is_unheard = False
        """Whether that is so of the very last."""
        self._pieces = 0

    def __repr__(self) -> str:
        return f"Replier({self._subject}, pieces={self._pieces})"

    async def piece(self, data: bytes) -> None:
        """Send one streaming object. If it is lost, the end still carries the complete response."""
        self._pieces += 1
        now = self._last_sent_ms = self._clock()
        with contextlib.suppress(NatsError):
            await self._send(data, {KIND: CHUNK, SEQ: str(self._pieces)}, self._asking(now))

    async def keep_alive(self, now: Ms, *, every_ms: Ms) -> None:
        """Send a keep-alive if nothing else has been sent for this long."""
        if now - self._last_sent_ms >= every_ms:
            self._last_sent_ms = now
            with contextlib.suppress(NatsError):
                await self._send(b"", {KIND: KEEPALIVE}, self._asking(now))

    def unheard(self) -> bool:
        """Note that nobody heard the last question. True: the relay is lost."""
        self._is_unheard = True
        return self._unheard + 1 >= _LOST_AFTER

    def _asking(self, now: Ms) -> str:
        """Return the subject on which the server is to say that nobody hears this message. Empty: it need not say."""
        if now - self._asked_ms < ASK_MS:
            return ""
        self._asked_ms = now
        self._unheard = self._unheard + 1 if self._is_unheard else 0
        self._is_unheard = False
        return self._unheard_at

    async def turn_back(self) -> None:
        """Say that there is no free slot for the attempt. If that is lost, the relay hears nothing, and gives it up."""
        with contextlib.suppress(NatsError):
            await self._send(b"", {KIND: FULL})

    async def end(self, outcome: Outcome) -> None:
        """Complete the reply. The outcome must be durable already, since this message may be lost."""
        headers = {KIND: ERROR, SEQ: str(self._pieces + 1)}
        if isinstance(outcome, Succeeded):
            headers[KIND] = FINAL
            data = outcome.body
        else:
            data = jsoned(ErrorBody(problem_of(outcome)))
            if (failure := _retryable_elsewhere(outcome)) is not None:
                headers[FAILURE] = json.dumps(msgspec.to_builtins(failure))  # ASCII, as headers are
        try:
            await self._send(data, headers)
        except NatsError as error:
            log.warning("reply lost error=%s", str(error) or type(error).__name__)

    async def _send(self, data: bytes, headers: dict[str, str], unheard_at: str = "") -> None:
        if self._subject is not None:
            await self._nc.publish(self._subject, data, unheard_at, headers=headers)


def _retryable_elsewhere(outcome: Failed | Expired | Cancelled | Released) -> Failure | None:
    """Return the failure if another deployment may succeed, else None."""
    match outcome:
        case Failed(failure) if retryable(failure):
            return failure
        case Released():
            return EngineLost("the worker stopped", sent=False)  # as for a job, the attempt does not count
        case _:
            return None


def problem_of(outcome: Failed | Expired | Cancelled | Released) -> Problem:
    """Say for the caller what went wrong."""
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
