"""The dialect of OpenAI's /v1/responses, which is translated to a chat completion."""

from functools import partial
from typing import ClassVar, Final
from uuid import UUID

from msgspec.structs import replace

from broker.core.dialects.responses import ResponseStream, response
from broker.core.dialects.responses_request import ResponsesRequest, translated
from broker.doors.http.dialect import Answer, Ask
from broker.doors.http.openai import NAMES, error_of
from broker.doors.http.reading import Headers
from broker.doors.http.translating import TranslatedAnswer, ask_of
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
    stream = ResponseStream(request, job)
    return TranslatedAnswer(
        stream=stream,
        translate=partial(response, request, job),
        fail=lambda problem: stream.failed(problem.code, problem.message),
    )
