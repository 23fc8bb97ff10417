"""One attempt through the engine."""

import logging
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from schemas.codec import UNREADABLE
from schemas.endpoints import ENDPOINTS
from schemas.job import Attempt
from schemas.outcome import EngineFault, Failed, Outcome
from schemas.units import Ms
from workers.core.leases import priority
from workers.ports import Alive, Chunk, Clock, Engine, EngineDied, Request

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Held:
    """An attempt that this worker has, from its delivery until its outcome is durable."""

    attempt: Attempt
    delivery: int
    ack: str
    """The ack subject of its message."""
    is_live: bool
    """Interactive: it came from NOW, and the gateway waits for its reply."""
    leased_ms: Ms
    progressed_ms: Ms
    first_ms: Ms | None = None
    ended: Outcome | None = None
    """Why it was ended from outside."""
    task: "asyncio.Task[None] | None" = field(default=None, repr=False)
    begun: bool = False
    """A task that is cancelled before it begins never runs."""
    chunks: int = 0
    spent: Alive | None = None
    """What an attempt that is ended from outside will have cost."""
    spoken_ms: Ms | None = None
    """When the gateway last heard of it."""

    def end(self, outcome: Outcome) -> None:
        """Stop it, with this outcome."""
        if self.ended is None and self.task is not None:
            self.ended = outcome
            if self.begun:
                self.task.cancel()

    def as_ended(self, outcome: Outcome) -> Outcome:
        """The outcome that it was ended with, and what had been spent."""
        if self.spent is None or self.spent.usage is None:
            return outcome
        return msgspec.structs.replace(outcome, usage=self.spent.usage, charge=self.spent.charge)


def request_of(held: Held, *, max_output_tokens: int) -> Request:
    """The request of an attempt whose endpoint is known, as `before_run` has seen to."""
    attempt = held.attempt
    endpoint = ENDPOINTS[attempt.endpoint]
    return Request(
        id=f"{attempt.job}.{attempt.number}.{held.delivery}",
        model=attempt.model,
        endpoint=endpoint,
        body=attempt.body,
        max_output_tokens=max_output_tokens,
        streamed=held.is_live and endpoint.can_stream and _asks_for_stream(attempt.body),
        priority=priority(attempt.lane),
        attempt=attempt.number,
    )


class _Asked(msgspec.Struct, frozen=True):
    stream: bool | None = None


_asked = msgspec.json.Decoder(_Asked)


def _asks_for_stream(body: bytes) -> bool:
    try:
        return bool(_asked.decode(body).stream)
    except UNREADABLE:
        return False


async def outcome_of(
    held: Held, request: Request, engine: Engine, *, clock: Clock, chunk: "Callable[[Held, bytes], Awaitable[None]]"
) -> Outcome:
    """Run it to its outcome. Raises: EngineDied; CancelledError, also when it was ended from outside."""
    try:
        async with aclosing(engine.run(request)) as steps:
            async for step in steps:
                now = clock()
                held.progressed_ms = now
                if isinstance(step, Alive):
                    held.spent = step if step.usage is not None else held.spent
                    continue
                if held.first_ms is None and isinstance(step, Chunk):
                    held.first_ms = now
                if not isinstance(step, Chunk):
                    return step
                if step.data and request.streamed:
                    await chunk(held, step.data)
    except EngineDied:
        raise
    except Exception as error:
        log.exception("engine failed job=%s", held.attempt.job)
        return held.as_ended(Failed(EngineFault(f"{type(error).__name__} in the engine")))
    return held.as_ended(Failed(EngineFault("the engine ended without an outcome")))
