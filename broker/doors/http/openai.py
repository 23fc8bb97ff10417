"""The dialect of OpenAI's endpoints. The bodies of requests and answers pass through as they are."""

import re
from dataclasses import dataclass
from typing import Any, ClassVar, Final
from uuid import UUID

import msgspec

from broker.core.dialects.chunks import chunk_of, usage_chunk_of
from broker.doors.http.dialect import Ask
from broker.doors.http.problems import kind_of
from broker.doors.http.reading import Headers, Options, milliseconds, options_of, unreadable, without_extra
from schemas.api import Problem
from schemas.codec import UNREADABLE
from schemas.endpoints import Endpoint
from schemas.job import Job, Lane, Metadata

NAMES: Final = (b"x-request-id",)
DONE = b"data: [DONE]\n\n"
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    409: "conflict_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


_USAGE: Final = re.compile(rb'"usage"\s*:\s*\{')
_NO_CHOICES: Final = re.compile(rb'"choices"\s*:\s*\[\s*\]')


class _StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None


class _Read(msgspec.Struct, frozen=True):
    """The fields of a body that the door itself needs."""

    model: str
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    metadata: Metadata | None = None
    infermq: Options | None = None


_body = msgspec.json.Decoder(_Read)


@dataclass(frozen=True, slots=True)
class OpenAI:
    """One of OpenAI's endpoints that a model can serve."""

    endpoint: Endpoint
    names: ClassVar = NAMES

    def read(self, body: bytes, headers: Headers) -> Ask:
        try:
            read = _body.decode(body)
        except UNREADABLE as error:
            raise unreadable(error) from error
        options = options_of(headers, read.infermq)
        if read.infermq is not None:
            body = without_extra(body)
        return Ask(
            model=read.model if options.deployment is None else f"{read.model}@{options.deployment}",
            job=job_of(self.endpoint.path, body, options, metadata=read.metadata),
            lane=options.lane or Lane.INTERACTIVE,
            streamed=bool(read.stream) and self.endpoint.can_stream,
            answer=lambda _: Passed(
                self.endpoint,
                tells_answer=bool(options.answer),
                tells_usage=read.stream_options is not None and bool(read.stream_options.include_usage),
            ),
        )

    def error(self, problem: Problem, _: UUID, /) -> tuple[int, bytes]:
        return error_of(problem)


def job_of(path: str, body: bytes, options: Options, *, metadata: Metadata | None = None) -> Job:
    """Make the job of a request."""
    return Job(
        endpoint=path,
        body=body,
        custom_id=options.custom_id,
        deadline_in_ms=milliseconds(options.timeout_s),
        metadata=metadata if options.metadata is None else options.metadata,
    )


def error_of(problem: Problem) -> tuple[int, bytes]:
    """Return status and body of an error, as OpenAI's API writes it."""
    status = kind_of(problem).status
    return status, msgspec.json.encode({"error": _fields(problem, status)})


def _fields(problem: Problem, status: int) -> dict[str, Any]:
    """Return OpenAI's four fields, and beside them those of the Problem that these cannot hold."""
    shown = None if problem.field in (None, "body") else problem.field.removeprefix("body.")
    kind = _TYPES.get(status, "server_error")
    beside = {"field": problem.field, "limit": problem.limit, "retry_after_ms": problem.retry_after_ms}
    if problem.field == shown:
        del beside["field"]
    kept = {name: value for name, value in beside.items() if value is not None}
    return {"message": problem.message, "type": kind, "param": shown, "code": problem.code, **kept}


@dataclass(slots=True)
class Passed:
    """Passes an answer of an engine on: an `Answer`.

    A stream tells what it used, in a last chunk without choices, if that was asked for, whatever its engine does. Otherwise
    no chunk is without choices, since many programs read `chunk.choices[0]` of each.
    """

    endpoint: Endpoint
    tells_answer: bool = False
    """Whether a stream ends with an event `answer` that has the whole answer, or with one that is called `error`."""
    tells_usage: bool = False
    _has_told_usage: bool = False

    def whole(self, body: bytes) -> bytes:
        return body

    def begin(self) -> bytes:
        return b""

    def piece(self, data: bytes) -> bytes:
        if b'"usage"' in data and _USAGE.search(data):
            if not (self.tells_usage or self.tells_answer) and _NO_CHOICES.search(data):
                return b""
            self._has_told_usage = True
        return event(data)

    def end(self, body: bytes, *, pieces: int) -> bytes:
        last = b"event: answer\n" + event(body) + DONE if self.tells_answer else DONE
        if pieces == 0 and (chunk := chunk_of(body, self.endpoint)) is not None:  # its engine does not stream
            last = self.piece(chunk) + last
        if not self.tells_usage or self._has_told_usage:
            return last
        used = usage_chunk_of(body, self.endpoint)
        return last if used is None else event(used) + last

    def error(self, problem: Problem) -> bytes:
        return (b"event: error\n" if self.tells_answer else b"") + event(error_of(problem)[1])


def event(data: bytes) -> bytes:
    """Write an event whose data is JSON."""
    if b"\n" in data or b"\r" in data:
        data = msgspec.json.format(data, indent=-1)  # in JSON no text holds a line break
    return b"data: " + data + b"\n\n"
