"""The dialect of OpenAI's /v1/responses, which is translated to a chat completion."""

from dataclasses import dataclass
from typing import ClassVar, Final
from uuid import UUID

import msgspec
from msgspec.structs import replace

from broker.core.dialects.responses import ResponseStream, response
from broker.core.dialects.responses_request import ResponsesRequest, translated
from broker.doors.http.dialect import Answer, Ask
from broker.doors.http.openai import NAMES, error_of
from broker.doors.http.reading import Headers
from broker.doors.http.translating import ask_of, written
from schemas.api import Problem

PATH: Final = "/v1/responses"
_NAMES = {"body.max_tokens": "max_output_tokens"}
"""What fields of the chat completion that admission may name are called here."""


class Responses:
    names: ClassVar = NAMES

    def read(self, body: bytes, headers: Headers) -> Ask:
        return ask_of(body, headers, translated, _answer)

    def error(self, problem: Problem, _: UUID, /) -> tuple[int, bytes]:
        return error_of(_renamed(problem))


def _renamed(problem: Problem) -> Problem:
    """Call the field of an error as the caller does."""
    name = _NAMES.get(problem.field or "")
    if name is None or problem.field is None:
        return problem
    chat_name = problem.field.removeprefix("body.")
    return replace(problem, field=f"body.{name}", message=problem.message.replace(chat_name, name))


def _answer(request: ResponsesRequest, job: UUID) -> Answer:
    return _Answer(request, job, ResponseStream(request, job))


@dataclass(frozen=True, slots=True)
class _Answer:
    """Writes a response: an `Answer`."""

    request: ResponsesRequest
    job: UUID
    stream: ResponseStream

    def whole(self, body: bytes) -> bytes:
        return msgspec.json.encode(response(self.request, self.job, body))

    def begin(self) -> bytes:
        return written(self.stream.begin())

    def piece(self, data: bytes) -> bytes:
        return written(self.stream.piece(data))

    def end(self, body: bytes, *, pieces: int) -> bytes:  # noqa: ARG002 - the stream knows what has come
        return written(self.stream.end(body))

    def error(self, problem: Problem) -> bytes:
        return written(self.stream.failed(problem.code, problem.message))
