"""The part of the client for interactive requests: ask and wait."""

import contextlib
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from uuid import UUID

from broker.client.encode import body_of, check_name, payload_of
from broker.client.errors import NoBroker, RequestRefused, RequestTimedOut, refusal_of
from broker.client.reading import StreamText, text_of, usage_of, was_cut
from broker.client.session import Session
from broker.errors import Unavailable
from schemas import codec, subjects
from schemas.api import Problem
from schemas.endpoints import CHAT
from schemas.jetstream import Message, NatsError, NatsTimeoutError
from schemas.job import Job
from schemas.outcome import Usage

_LONGEST_S = 7 * 24 * 3600
"""A week. The broker refuses a deadline that is further ahead."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A streamed chunk: the engine's OpenAI object, and its text, if it has some."""

    data: bytes
    text: str


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer."""

    job: UUID | None
    body: bytes
    """The OpenAI response."""

    def text(self) -> str:
        """Return the text of the first choice; "" if it has none, as when a tool is called."""
        return text_of(self.body)

    def was_cut(self) -> bool:
        """Say whether the text ends where a limit of tokens was reached (`finish_reason` is `length`)."""
        return was_cut(self.body)

    def usage(self) -> Usage:
        """Return the tokens that the engine counted; 0 where it did not say."""
        return usage_of(self.body)


class InferClient(Session):
    """Sends interactive requests."""

    async def infer(
        self, model: str, body: Mapping[str, Any] | bytes, *, endpoint: str = CHAT.path, timeout_s: float = 120.0
    ) -> Reply:
        """Wait for the whole answer. Raises: RequestRefused, RequestTimedOut, NoBroker, Unavailable."""
        async with contextlib.aclosing(self._conversation(model, body, endpoint, timeout_s)) as steps:
            async for step in steps:
                if isinstance(step, Reply):
                    return step
        raise AssertionError("a conversation ends with a reply or an error")

    async def infer_stream(
        self, model: str, body: Mapping[str, Any], *, endpoint: str = CHAT.path, timeout_s: float = 120.0
    ) -> AsyncGenerator[Piece | Reply, None]:
        """Yield pieces as they come, then the whole Reply, which is right even if a piece was lost.

        Leaving the loop early ends the request. Raises as `infer`.
        """
        streamed = {**body, "stream": True}
        async with contextlib.aclosing(self._conversation(model, streamed, endpoint, timeout_s)) as steps:
            async for step in steps:
                yield step

    async def _conversation(
        self, model: str, body: Mapping[str, Any] | bytes, endpoint: str, timeout_s: float
    ) -> AsyncGenerator[Piece | Reply, None]:
        payload = payload_of(Job(endpoint=endpoint, body=body_of(body), deadline_in_ms=_timeout_ms(timeout_s)))
        subject = _infer_subject(model, self._tenant, self._key)
        inbox = self._nc.new_inbox()
        async with self._entry.held():
            subscription = await self._nc.subscribe(inbox)
        try:
            await self._nc.publish(subject, payload, inbox)
            text = StreamText()
            while True:
                message = await self._next(subscription.next_msg, timeout_s)
                step = _step(message, text)
                if step is not None:
                    yield step
                if isinstance(step, Reply):
                    return
        finally:
            if not self._nc.is_closed:
                await subscription.unsubscribe()

    async def _next(self, next_msg: Any, timeout_s: float) -> Message:
        try:
            async with self._entry.held():
                message: Message = await next_msg(timeout=min(timeout_s + 1, self._silence_s))
        except NatsTimeoutError as error:
            raise RequestTimedOut("the broker went silent: ask again") from error
        except NatsError as error:
            raise Unavailable("NATS", str(error) or type(error).__name__) from error
        return message


def _step(message: Message, text: StreamText) -> Piece | Reply | None:
    """Read a message of the relay; None: a sign of life. Raises: RequestRefused, NoBroker, and as `refusal_of`."""
    headers = message.headers or {}
    if headers.get("Status") == "503":
        raise NoBroker
    match headers.get(codec.KIND):
        case codec.CHUNK:
            return Piece(message.data, text.of(message.data))
        case codec.FINAL:
            job = UUID(headers[codec.JOB]) if codec.JOB in headers else None
            return Reply(job, message.data)
        case codec.ERROR:
            raise refusal_of(message.data)
        case _:
            return None


def _timeout_ms(timeout_s: float) -> int:
    """Convert seconds to milliseconds. Raises: RequestRefused, if it is no possible timeout."""
    if not 0 < timeout_s <= _LONGEST_S:
        message = f"it is {timeout_s:g} s, it must be more than 0 and at most {_LONGEST_S}"
        raise RequestRefused(Problem("bad_timeout", message, "timeout_s", _LONGEST_S))
    return int(timeout_s * 1000)


@lru_cache(maxsize=1024)
def _infer_subject(model: str, tenant: str, key: str) -> str:
    """Build the subject of a request, once for each model. Raises: RequestRefused."""
    check_name("model", model, "unknown_model")
    return subjects.infer(model, tenant, key)
