"""Encodes results as OpenAI Batch's output and error lines, and describes failures."""

from uuid import UUID

import msgspec

from broker.client import Client
from schemas.api import Batch, Result, State
from schemas.files import Fault
from schemas.ids import line_id
from schemas.outcome import ContextTooLong, Failure, Refused, ResponseTooLarge, failure_kind, public_message

_FAILURES = 5
"""How many failures are shown when a batch has ended."""
_CANCELLED_STATUS = 499
"""The status of an answer that was cut off: nginx's for a client that closed its request."""
_LOOKED_AT = 10_000
"""How many results are searched for them."""


def output_line(result: Result) -> bytes:
    """Encode a result: with `response` if it succeeded, else with `error`.

    One that was cancelled while it ran has both, if it had answered anything: `response` with status 499, as far as it came.
    """
    error: dict[str, object] | None = None
    response: dict[str, object] | None = None
    if result.state is State.SUCCEEDED:
        response = {"status_code": 200, "request_id": str(result.job), "body": result.body}
    else:
        error = _error(result)
        if bytes(result.body) != b"null":
            response = {"status_code": _CANCELLED_STATUS, "request_id": str(result.job), "body": result.body}
    line = {"id": str(result.job), "custom_id": result.custom_id, "response": response, "error": error}
    return msgspec.json.encode(line) + b"\n"


def fault_line(fault: Fault, batch: UUID | None) -> bytes:
    """Encode a line of the input that is no job as what did not succeed, with the id that its job would have had.

    `batch=None`: it has none, since nothing was submitted.
    """
    job = None if batch is None else str(line_id(batch, fault.number))
    named: dict[str, object] = {"param": fault.field, "limit": fault.limit, "line": fault.number or None}
    error = {"code": fault.code, "message": fault.message, **_given(named)}
    return msgspec.json.encode({"id": job, "custom_id": fault.custom_id, "response": None, "error": error}) + b"\n"


def _error(result: Result) -> dict[str, object]:
    param, limit = _bounds(result.failure)
    named: dict[str, object] = {"param": param, "limit": limit, "line": result.line}
    return {
        "code": _code(result),
        "message": _message(result),
        **_given(named),
    }


def _given(fields: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not None}


def _bounds(failure: Failure | None) -> tuple[str | None, int | None]:
    """Return the field that was wrong and the limit that was passed, if the failure names them."""
    match failure:
        case Refused(_, _, field, limit):
            return field, limit
        case ContextTooLong(_, limit) | ResponseTooLarge(_, limit):
            return None, limit
        case _:
            return None, None


def _code(result: Result) -> str:
    return result.state.value if result.failure is None else failure_code(result.failure)


def _message(result: Result) -> str:
    return f"the job is {result.state}" if result.failure is None else public_message(result.failure)


def failure_code(failure: Failure) -> str:
    """Return the kind of a failure; of a refusal its own code, which is more precise."""
    return failure.code if isinstance(failure, Refused) else failure_kind(failure)


async def first_failures(client: Client, batch: Batch) -> list[Result]:
    """Return some results that did not succeed, if they are among those recorded first."""
    most = min(_FAILURES, batch.counts.settled() - batch.counts.succeeded)
    if most == 0:
        return []
    found: list[Result] = []
    looked_at = 0
    async for page in client.result_pages(batch.id, wait=False):
        found += [result for result in page.results if result.state is not State.SUCCEEDED]
        looked_at += len(page.results)
        if len(found) >= most or looked_at >= _LOOKED_AT:
            break
    return found[:most]


def failure_line(result: Result) -> str:
    """Describe a failed job in a line for a person."""
    where = f"job {result.job}" if result.line is None else f"line {result.line}"
    label = "" if result.custom_id is None else f" ({result.custom_id[:80]})"
    return f"{where}{label}: {_code(result)}: {_message(result)}"
