"""Reads a request in a dialect that is translated to a chat completion, and writes events that have names."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar
from uuid import UUID

import msgspec

from broker.core.dialects.reading import Event
from broker.doors.http.dialect import Answer, Ask
from broker.doors.http.openai import job_of
from broker.doors.http.reading import Headers, options_in
from broker.service.refusal import Refusal
from schemas.api import Problem
from schemas.endpoints import CHAT
from schemas.job import Lane
from schemas.outcome import Refused

_json = msgspec.json.Encoder()


class Translated(Protocol):
    """A request as its translation leaves it."""

    @property
    def chat(self) -> bytes: ...
    @property
    def model(self) -> str: ...
    @property
    def streams(self) -> bool: ...
    @property
    def metadata(self) -> dict[str, str]: ...


class EventStream(Protocol):
    """Makes the events of one answer out of the pieces of a chat completion."""

    def begin(self) -> list[Event]: ...
    def piece(self, data: bytes) -> list[Event]: ...
    def end(self, whole: bytes) -> list[Event]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TranslatedAnswer:
    """Writes an answer that is translated: an `Answer`."""

    stream: EventStream
    translate: Callable[[bytes], object]
    """Translates the whole chat completion."""
    fail: Callable[[Problem], Iterable[Event]]
    """Makes the last events of a stream that cannot go on."""

    def whole(self, body: bytes) -> bytes:
        return _json.encode(self.translate(body))

    def begin(self) -> bytes:
        return written(self.stream.begin())

    def piece(self, data: bytes) -> bytes:
        return written(self.stream.piece(data))

    def end(self, body: bytes, *, pieces: int) -> bytes:  # noqa: ARG002 - the stream knows what has come
        return written(self.stream.end(body))

    def error(self, problem: Problem) -> bytes:
        return written(self.fail(problem))


T = TypeVar("T", bound=Translated)


def ask_of(
    body: bytes,
    headers: Headers,
    translate: Callable[[bytes], T | Refused],
    answer: Callable[[T, UUID], Answer],
) -> Ask:
    """Read a request, which becomes a chat completion. Raises: Refusal."""
    options, body = options_in(body, headers)
    request = translate(body)
    if isinstance(request, Refused):
        raise Refusal(Problem(request.code, request.message, request.field, request.limit))
    return Ask(
        model=request.model if options.deployment is None else f"{request.model}@{options.deployment}",
        job=job_of(CHAT.path, request.chat, options, metadata=request.metadata or None),
        lane=options.lane or Lane.INTERACTIVE,
        streamed=request.streams,
        answer=lambda job: answer(request, job),
    )


def written(events: Iterable[Event]) -> bytes:
    """Write events as a stream has them."""
    return b"".join([b"event: %s\ndata: %s\n\n" % (name.encode(), _json.encode(data)) for name, data in events])
