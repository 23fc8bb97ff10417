"""The dialect of Anthropic's /v1/messages, which is translated to a chat completion."""

from functools import partial
from typing import ClassVar, Final
from uuid import UUID

import msgspec

from broker.core.dialects.messages import MessageStream, message
from broker.core.dialects.messages_request import MessagesRequest, translated
from broker.core.dialects.reading import Event
from broker.doors.http.dialect import Answer, Ask
from broker.doors.http.openai import NAMES
from broker.doors.http.problems import kind_of
from broker.doors.http.reading import Headers
from broker.doors.http.translating import TranslatedAnswer, ask_of
from schemas.api import Problem

PATH: Final = "/v1/messages"
_STATUS = {503: 529}
"""Statuses that Anthropic's API has instead of others."""
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    431: "request_too_large",
    504: "timeout_error",
    529: "overloaded_error",
}
_NO_THREADS = {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
"""Tells Anthropic's client, which offers to store conversations in threads, to go on without."""


class Messages:
    names: ClassVar = (*NAMES, b"request-id")

    def read(self, body: bytes, headers: Headers) -> Ask:
        return ask_of(body, headers, translated, _answer)

    def error(self, problem: Problem, request: UUID, /) -> tuple[int, bytes]:
        status, body = _error(problem, request)
        return status, msgspec.json.encode(body)


def _error(problem: Problem, request: UUID) -> tuple[int, dict[str, object]]:
    status = kind_of(problem).status
    status = _STATUS.get(status, status)
    error: dict[str, object] = {"type": _TYPES.get(status, "api_error"), "message": problem.message}
    if problem.field == "body.thread":
        error["details"] = _NO_THREADS
    return status, {"type": "error", "error": error, "request_id": str(request)}


def _answer(request: MessagesRequest, job: UUID) -> Answer:
    return TranslatedAnswer(
        stream=MessageStream(request, job),
        translate=partial(message, request, job),
        fail=lambda problem: [Event("error", _error(problem, job)[1])],
    )
