"""The part of the client for interactive requests: ask and wait."""

import contextlib
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from broker.client.door import Piece, Question, Reply
from broker.client.encode import body_of, check_name, payload_of
from broker.client.errors import RequestRefused
from broker.client.session import Session
from schemas.api import Problem
from schemas.endpoints import CHAT
from schemas.job import Job

_LONGEST_S = 7 * 24 * 3600
"""A week. The broker refuses a deadline that is further ahead."""


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
        check_name("model", model, "unknown_model")
        job = Job(endpoint=endpoint, body=body_of(body), deadline_in_ms=_timeout_ms(timeout_s))
        asked = Question(model=model, job=job, payload=payload_of(job), timeout_s=timeout_s)
        async with contextlib.aclosing(self._door.converse(asked)) as steps:
            async for step in steps:
                yield step


def _timeout_ms(timeout_s: float) -> int:
    """Convert seconds to milliseconds. Raises: RequestRefused, if it is no possible timeout."""
    if not 0 < timeout_s <= _LONGEST_S:
        message = f"it is {timeout_s:g} s, it must be more than 0 and at most {_LONGEST_S}"
        raise RequestRefused(Problem("bad_timeout", message, "timeout_s", _LONGEST_S))
    return int(timeout_s * 1000)
