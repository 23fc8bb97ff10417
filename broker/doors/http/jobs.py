"""Single jobs over HTTP: submit one, read it later, wait for it, list, change and cancel them."""

from typing import Any, Literal
from uuid import UUID

import msgspec
from msgspec.structs import fields
from starlette.requests import Request
from starlette.responses import Response

from broker.core.principal import Principal
from broker.core.relay import Answered, Erred
from broker.doors.http.reading import (
    Headers,
    body_of,
    decoded,
    headers_of,
    milliseconds,
    traceparent_of,
    wrong,
)
from broker.doors.http.verbs import seconds
from broker.doors.http.writing import json_answer
from broker.service import Services
from broker.service.refusal import Refusal
from schemas.api import CancelAnswer, JobCancel, JobShow, Problem, State
from schemas.asks import JobAccepted, JobAsk, JobChangeAsk
from schemas.changes import Change, JobChange
from schemas.codec import UNREADABLE
from schemas.job import CustomId, Job
from schemas.listing import JobList
from schemas.outcome import Failure, Refused, failure_kind, public_message

_ask = msgspec.json.Decoder(JobAsk)
_change = msgspec.json.Decoder(JobChangeAsk)
_LONGEST_KEY = 512
_NOT_SHOWN = frozenset({"body", "failure"})
"""Of a JobShow: the answer or the error has them."""
_LISTS = ("states", "kinds")


class JobAnswer(msgspec.Struct, frozen=True):
    """The answer of a job that succeeded."""

    status_code: int
    request_id: str
    body: msgspec.Raw
    """As its endpoint answers."""


class JobFault(msgspec.Struct, frozen=True):
    """Why a job that ended has no answer."""

    code: str
    message: str


JobView = msgspec.defstruct(
    "JobView",
    [
        *((field.name, field.type) for field in fields(JobShow) if field.name not in _NOT_SHOWN),
        ("object", Literal["job"]),
        ("response", JobAnswer | None),
        ("error", JobFault | None),
    ],
    frozen=True,
    kw_only=True,
    namespace={"__doc__": "A job, with its answer or its error once it has ended."},
    module=__name__,
)


class JobRoutes:
    """What the routes of jobs do. Each raises Refusal, Unavailable, Conflict, or ConnectionError."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def create(self, principal: Principal, request: Request) -> Response:
        headers = headers_of(request.scope)
        ask = decoded(_ask, await body_of(request.receive, headers))
        job = Job(
            id=ask.id,
            endpoint=ask.endpoint,
            body=bytes(ask.body),
            custom_id=ask.custom_id,
            metadata=ask.metadata,
            deadline_ms=ask.deadline_ms,
            deadline_in_ms=milliseconds(ask.timeout_s),
            priority=ask.priority,
            max_attempts=ask.max_attempts,
            idempotency_key=ask.idempotency_key or _key_in(headers),
        )
        name = await self._services.single_jobs.submit(
            principal,
            ask.model,
            ask.lane,
            job,
            traceparent=traceparent_of(headers),
        )
        return json_answer(JobAccepted(id=name, model=ask.model, lane=ask.lane, custom_id=ask.custom_id), 202)

    async def show(self, principal: Principal, request: Request) -> Response:
        wait_s = seconds(request.query_params.get("wait_s"))
        job = await self._services.single_jobs.show_within(principal, _named(request), wait_s=wait_s)
        return json_answer(shown(job))

    async def list(self, principal: Principal, request: Request) -> Response:
        query = request.query_params
        wanted: dict[str, Any] = {}
        for name in dict.fromkeys(query):
            wanted[name] = query.getlist(name) if name in _LISTS else query[name]
        labels = [name for name in wanted if name.startswith("metadata.")]
        metadata = {name.removeprefix("metadata."): wanted.pop(name) for name in labels}
        asked: dict[str, Any] = {name: wanted.pop(name) for name in ("limit", "before") if name in wanted}
        asked["filter"] = {**wanted, "metadata": metadata}
        try:
            ask = msgspec.convert(asked, JobList, strict=False)
            unknown = set(wanted) - set(type(ask.filter).__struct_fields__)
        except UNREADABLE as error:
            raise wrong(error, within="filter.") from error
        if unknown:
            name = min(unknown)
            raise Refusal(Problem("bad_request", f"jobs are not listed by {name[:50]!r}", name[:50]))
        return json_answer(await self._services.jobs.list(principal, ask))

    async def cancel(self, principal: Principal, request: Request) -> Response:
        job = _named(request)
        [cancelled] = (await self._services.cancels.cancel_jobs(principal, JobCancel((job,)))).jobs
        if cancelled.answer is CancelAnswer.UNKNOWN:
            raise _unknown(str(job))
        return json_answer(cancelled)

    async def change(self, principal: Principal, request: Request) -> Response:
        ask = decoded(_change, await body_of(request.receive, headers_of(request.scope)))
        in_ms = milliseconds(ask.timeout_s)
        change = Change(lane=ask.lane, deadline_ms=ask.deadline_ms, deadline_in_ms=in_ms, priority=ask.priority)
        return json_answer(await self._services.changes.change_job(principal, JobChange(_named(request), change)))


def shown(job: JobShow) -> dict[str, Any]:
    """Show a job with its answer or its error, as a line of a batch has them."""
    known = {name: getattr(job, name) for name in job.__struct_fields__ if name not in _NOT_SHOWN}
    response, error = None, None
    if job.state is State.SUCCEEDED:
        response = JobAnswer(200, str(job.id), job.body)
    elif job.settled_ms is not None:
        error = JobFault(*words(job.state, job.failure))
    return {"object": "job", **known, "response": response, "error": error}


def end_of(job: JobShow) -> Answered | Erred:
    """Say how a job ended as a relay says it of a request."""
    if job.state is State.SUCCEEDED:
        return Answered(bytes(job.body), None)
    code, message = words(job.state, job.failure)
    field, limit = (job.failure.field, job.failure.limit) if isinstance(job.failure, Refused) else (None, None)
    return Erred(Problem(code, message, field, limit))


def words(state: State, failure: Failure | None) -> tuple[str, str]:
    """Say in a code and in words why a job that ended has no answer."""
    if failure is None:
        return str(state), f"the job ended as {state}"
    return failure.code if isinstance(failure, Refused) else failure_kind(failure), public_message(failure)


def _named(request: Request) -> UUID:
    name = request.path_params["job"]
    try:
        return UUID(name)
    except ValueError:
        raise _unknown(name) from None


def _unknown(name: str) -> Refusal:
    return Refusal(Problem("unknown_job", f"there is no job {name[:100]}", "id"))


def _key_in(headers: Headers) -> str | None:
    """Read the idempotency key of a request. Raises: Refusal."""
    if (key := headers.get(b"idempotency-key")) is None:
        return None
    try:
        return msgspec.convert(key.decode("latin-1"), CustomId)
    except msgspec.ValidationError as error:
        raise Refusal(Problem("bad_request", str(error), "idempotency-key", _LONGEST_KEY)) from error
