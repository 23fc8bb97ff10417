"""What APIs differ in: how a request is read, and how its answer or an error is written."""

from collections.abc import Callable
from typing import Protocol
from uuid import UUID

import msgspec

from broker.doors.http.reading import Headers
from schemas.api import Problem
from schemas.job import Job, Lane


class Answer(Protocol):
    """Writes one answer. It is of one request, and may remember what it has written."""

    def whole(self, body: bytes) -> bytes:
        """Return the answer at once, out of what the engine answered."""

    def begin(self) -> bytes:
        """Return the first events of a stream, before any piece has come."""

    def piece(self, data: bytes) -> bytes:
        """Return the events that pass on a piece of the engine's stream."""

    def end(self, body: bytes, *, pieces: int) -> bytes:
        """Return the last events of a stream, out of the whole answer and of how many pieces of it had come."""

    def error(self, problem: Problem) -> bytes:
        """Return the last event of a stream that cannot go on."""


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """A request as its dialect reads it."""

    model: str
    job: Job
    lane: Lane
    streamed: bool
    """Whether the answer is to be a stream of events."""
    answer: Callable[[UUID], Answer]
    """Makes what writes the answer, out of the job's id."""


class Dialect(Protocol):
    @property
    def names(self) -> tuple[bytes, ...]:
        """The headers that say what a request is called, `x-request-id` among them."""

    def read(self, body: bytes, headers: Headers) -> Ask:
        """Read a request. Raises: Refusal."""

    def error(self, problem: Problem, request: UUID, /) -> tuple[int, bytes]:
        """Return the status and the body of an error; `request` is what the request is called."""
