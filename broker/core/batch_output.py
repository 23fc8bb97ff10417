"""Writes what a batch came to as OpenAI's Batch API does: a line of JSON for each request, in two files.

The output has what was answered, with 200. The errors have all others: what was refused as the request's own fault, with
the status and body that it would have had by itself; and what expired, was cancelled, or failed for the engine's reasons.
"""

from typing import Any
from uuid import UUID

import msgspec

from broker.core.records import BadLine
from schemas.api import Result, State
from schemas.outcome import (
    BadRequest,
    ContextTooLong,
    CutWhileReasoning,
    Failure,
    Filtered,
    Refused,
    failure_kind,
    public_message,
)

_BAD_REQUEST = 400
_ENDS = {
    State.EXPIRED: ("batch_expired", "This request could not be executed before the completion window expired."),
    State.CANCELLED: ("batch_cancelled", "The batch was cancelled before this request was executed."),
}
SUCCESS_BYTES = len(
    b'{"id":"batch_req_%s","custom_id":,"response":{"status_code":200,"request_id":"%s","body":},"error":null}\n'
    % (b"0" * 32, b"0" * 36)
)
"""How long the line of a success is without its custom id, as JSON, and its body."""


def is_output(result: Result) -> bool:
    """Tell whether a result belongs into the output, not into the errors.

    OpenAI puts a line with status 400 into the errors, and names no output file if nothing succeeded (openai/openai-openapi,
    issue 302). Programs read every line of the output as an answer.
    """
    return result.state is State.SUCCEEDED


def line_of(result: Result) -> bytes:
    """Write the line of a result."""
    if result.state is State.SUCCEEDED:
        return _line(result, _response(result, 200, _one_line(result.body)), None)
    code, message = _words(result)
    if _is_own_fault(result.failure):
        error = {"message": message, "type": "invalid_request_error", "param": _param(result.failure), "code": code}
        return _line(result, _response(result, _BAD_REQUEST, {"error": error}), None)
    return _line(result, None, {"code": code, "message": message})


def bad_line_of(bad: BadLine, batch: UUID) -> bytes:
    """Write the error of a line that is no job."""
    error = {"code": bad.code, "message": bad.message, "param": bad.field, "line": bad.number}
    line = {"id": f"batch_req_{batch.hex}_{bad.number}", "custom_id": bad.custom_id, "response": None, "error": error}
    return msgspec.json.encode(line) + b"\n"


def _line(result: Result, response: dict[str, Any] | None, error: dict[str, Any] | None) -> bytes:
    line = {"id": f"batch_req_{result.job.hex}", "custom_id": result.custom_id, "response": response, "error": error}
    return msgspec.json.encode(line) + b"\n"


def _response(result: Result, status: int, body: object) -> dict[str, Any]:
    return {"status_code": status, "request_id": str(result.job), "body": body}


def _one_line(body: msgspec.Raw) -> msgspec.Raw:
    """Some APIs answer with line breaks, between which no JSON text can be."""
    written = bytes(body)
    if b"\n" in written or b"\r" in written:
        return msgspec.Raw(msgspec.json.format(written, indent=-1))
    return body


def _is_own_fault(failure: Failure | None) -> bool:
    return isinstance(failure, Refused | BadRequest | ContextTooLong | Filtered | CutWhileReasoning)


def _words(result: Result) -> tuple[str, str]:
    if result.failure is None or result.state in _ENDS:
        return _ENDS.get(result.state, (str(result.state), f"the job ended as {result.state}"))
    code = result.failure.code if isinstance(result.failure, Refused) else failure_kind(result.failure)
    return code, public_message(result.failure)


def _param(failure: Failure | None) -> str | None:
    field = failure.field if isinstance(failure, Refused | CutWhileReasoning) else None
    return None if field in (None, "body") else field.removeprefix("body.")
