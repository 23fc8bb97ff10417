"""The table of all routes: what the router serves, and what the OpenAPI document says."""

from typing import Final, Literal

import msgspec

from broker.doors.http.batches import BatchAsk
from broker.doors.http.jobs import JobView
from broker.doors.http.objects import (
    BadLineObjects,
    BatchObject,
    BatchObjects,
    FileDeleted,
    FileObject,
    FileObjects,
    UploadObject,
)
from schemas.api import JobCancelled
from schemas.asks import JobAccepted, JobAsk, JobChangeAsk
from schemas.changes import JobChanged
from schemas.endpoints import CHAT, COMPLETIONS, EMBEDDINGS, Endpoint
from schemas.listing import JobPage
from schemas.repeats import FileRetry

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
Media = Literal["application/json", "multipart/form-data", "application/octet-stream", "text/html"]


class Parameter(msgspec.Struct, frozen=True):
    """A part of the query."""

    name: str
    says: str
    kind: Literal["string", "integer", "number"] = "string"
    least: int | None = None
    most: int | None = None
    values: tuple[str, ...] = ()
    """The only ones that are taken. Empty: any."""


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One way in. `name` is what the handler is found by, and the operation is called in the document."""

    name: str
    method: Method
    path: str
    says: str
    """In one line."""
    group: str
    takes: type | None = None
    """The type of the body. None: it has none, or the door does not read all of it."""
    example: str | None = None
    """A body, in JSON."""
    sends: Media | None = None
    """The media type of the body. None: it has none."""
    answers: type | None = None
    """The type of the answer. None: an object, or no JSON."""
    media: Media = "application/json"
    status: int = 200
    ranges: bool = False
    """Whether a Range of the answer can be asked for."""
    query: tuple[Parameter, ...] = ()
    streams: bool = False
    """Whether the answer is a stream of events if the request asks for it."""
    open: bool = False
    """Whether it needs no key."""


def _limit(most: int) -> Parameter:
    return Parameter("limit", "How many at most.", "integer", 1, most)


ANSWERS: Final = "answers"
"""The group of the routes that ask a model."""
_LIMIT, _AFTER = (
    Parameter("limit", "How many at most.", "integer"),
    Parameter("after", "The last id of the page before."),
)
_SHA256 = Parameter("sha256", "The digest of the whole file, in hexadecimal digits.")
_JOB_FILTER = (
    Parameter("states", "Of these states; several times for several."),
    Parameter("kinds", "Of these failures; several times for several."),
    *(Parameter(name, "As it was submitted.") for name in ("model", "lane", "batch", "custom_id", "metadata.NAME")),
    Parameter("since_ms", "Submitted at this instant or later.", "integer"),
    Parameter("until_ms", "Submitted before this instant.", "integer"),
    _LIMIT,
    Parameter("before", "The job after which the page begins."),
)


def _asks(endpoint: Endpoint, name: str, says: str, example: str) -> Route:
    return Route(
        name=name,
        method="POST",
        path=endpoint.path,
        says=says,
        group=ANSWERS,
        takes=endpoint.body,
        example=example,
        sends="application/json",
        streams=endpoint.can_stream,
    )


_CHAT = '{"model": "small-chat", "messages": [{"role": "user", "content": "Hello."}]}'
ROUTES: Final = (
    _asks(CHAT, "chat", "Answer a chat.", _CHAT),
    _asks(COMPLETIONS, "completions", "Continue a text.", '{"model": "small-chat", "prompt": "Once upon"}'),
    _asks(EMBEDDINGS, "embeddings", "Embed texts.", '{"model": "small-chat", "input": "Hello."}'),
    Route(
        name="responses",
        method="POST",
        path="/v1/responses",
        says="Answer as OpenAI's Responses API does, without keeping state.",
        group=ANSWERS,
        example='{"model": "small-chat", "input": "Hello."}',
        sends="application/json",
        streams=True,
    ),
    Route(
        name="messages",
        method="POST",
        path="/v1/messages",
        says="Answer as Anthropic's Messages API does.",
        group=ANSWERS,
        example='{"model": "small-chat", "max_tokens": 50, "messages": [{"role": "user", "content": "Hello."}]}',
        sends="application/json",
        streams=True,
    ),
    Route(
        name="models", method="GET", path="/v1/models", says="List the models that the key may ask.", group="models"
    ),
    Route(name="model", method="GET", path="/v1/models/{model:path}", says="Show a model.", group="models"),
    Route(
        name="job_submit",
        method="POST",
        path="/v1/jobs",
        says="Submit a job, to be read later. It is accepted when this is answered.",
        group="jobs",
        takes=JobAsk,
        example=f'{{"model": "small-chat", "body": {_CHAT}}}',
        sends="application/json",
        answers=JobAccepted,
        status=202,
    ),
    Route(
        name="job_list",
        method="GET",
        path="/v1/jobs",
        says="List jobs, the newest first.",
        group="jobs",
        answers=JobPage,
        query=_JOB_FILTER,
    ),
    Route(
        name="job_show",
        method="GET",
        path="/v1/jobs/{job}",
        says="Show a job, with its answer once it has ended.",
        group="jobs",
        answers=JobView,
        query=(Parameter("wait_s", "How long to wait for its end, up to 60 seconds.", "number"),),
    ),
    Route(
        name="job_change",
        method="PATCH",
        path="/v1/jobs/{job}",
        says="Change the lane, deadline or priority of a job that waits.",
        group="jobs",
        takes=JobChangeAsk,
        example='{"priority": 10}',
        sends="application/json",
        answers=JobChanged,
    ),
    Route(
        name="job_cancel",
        method="POST",
        path="/v1/jobs/{job}/cancel",
        says="Cancel a job. One that has ended stays as it is.",
        group="jobs",
        answers=JobCancelled,
    ),
    Route(
        name="bundle",
        method="POST",
        path="/v1/bundles",
        says="Submit up to 1000 jobs for a model in one message, as over NATS (docs/wire.md).",
        group="jobs",
        sends="application/octet-stream",
        status=202,
        query=(
            Parameter("lane", "The lane of all of them."),
            Parameter("model", "The model of all of them."),
        ),
    ),
    Route(
        name="file_create",
        method="POST",
        path="/v1/files",
        says="Store a file: the fields are file, purpose (batch), and expires_after.",
        group="files",
        sends="multipart/form-data",
        answers=FileObject,
    ),
    Route(
        name="upload_show",
        method="GET",
        path="/v1/uploads",
        says="Say how much of a file is stored, from its first byte on: an upload that was cut off goes on there.",
        group="files",
        answers=UploadObject,
        query=(_SHA256,),
    ),
    Route(
        name="upload_go_on",
        method="PUT",
        path="/v1/uploads",
        says="Store a file, or the rest of one: the body is its content from a byte on.",
        group="files",
        sends="application/octet-stream",
        answers=FileObject,
        query=(
            _SHA256,
            Parameter("bytes", "The size of the whole file.", "integer"),
            Parameter("offset", "The byte with which the body begins: how much is stored.", "integer"),
            Parameter("name", "The name of the file."),
            Parameter("expires_in_s", "How long the file is kept, an hour to thirty days.", "integer"),
        ),
    ),
    Route(
        name="file_list",
        method="GET",
        path="/v1/files",
        says="List files that were stored.",
        group="files",
        answers=FileObjects,
        query=(
            _limit(10_000),
            _AFTER,
            Parameter("order", "By when they were made.", values=("asc", "desc")),
            Parameter("purpose", "For this purpose."),
        ),
    ),
    Route(
        name="file_show",
        method="GET",
        path="/v1/files/{file}",
        says="Show a file.",
        group="files",
        answers=FileObject,
    ),
    Route(
        name="file_delete",
        method="DELETE",
        path="/v1/files/{file}",
        says="Delete a file.",
        group="files",
        answers=FileDeleted,
    ),
    Route(
        name="file_content",
        method="GET",
        path="/v1/files/{file}/content",
        says="Send the content of a file, or a Range of it.",
        group="files",
        media="application/octet-stream",
        ranges=True,
    ),
    Route(
        name="batch_create",
        method="POST",
        path="/v1/batches",
        says="Make a batch of the lines of a file, or of the requests that come along.",
        group="batches",
        takes=BatchAsk,
        example='{"input_file_id": "file-…", "endpoint": "/v1/chat/completions", "completion_window": "24h"}',
        sends="application/json",
        answers=BatchObject,
    ),
    Route(
        name="batch_list",
        method="GET",
        path="/v1/batches",
        says="List batches, the newest first.",
        group="batches",
        answers=BatchObjects,
        query=(_limit(100), _AFTER),
    ),
    Route(
        name="batch_bad_lines",
        method="GET",
        path="/v1/batches/{batch}/bad_lines",
        says="List the lines that cannot run, in order.",
        group="batches",
        answers=BadLineObjects,
        query=(Parameter("after", "The last line of the page before.", "integer"), _limit(1000)),
    ),
    Route(
        name="batch_show",
        method="GET",
        path="/v1/batches/{batch}",
        says="Show a batch.",
        group="batches",
        answers=BatchObject,
    ),
    Route(
        name="batch_cancel",
        method="POST",
        path="/v1/batches/{batch}/cancel",
        says="Cancel a batch.",
        group="batches",
        answers=BatchObject,
    ),
    Route(
        name="batch_retry",
        method="POST",
        path="/v1/batches/{batch}/retry",
        says="Run again what failed, as a batch whose results replace the failures of the first.",
        group="batches",
        takes=FileRetry,
        example="{}",
        sends="application/json",
        answers=BatchObject,
    ),
    Route(
        name="batch_results",
        method="GET",
        path="/v1/batches/{batch}/results",
        says="Send what its jobs came to, in the order of their ends: a page, or a stream of events while it runs.",
        group="batches",
        query=(
            Parameter("cursor", "The cursor of the page before, or the id of the last event."),
            Parameter("tail", "Without a cursor: begin with so many of the last ones.", "integer"),
            _LIMIT,
            Parameter("own", "true leaves what retries of it came to out."),
            Parameter("wait_s", "Of a page: how long to wait for a result, up to 60 seconds.", "number"),
        ),
        streams=True,
    ),
    Route(
        name="verb",
        method="POST",
        path="/v1/verbs/{verb}",
        says="Call a verb of the API, with the same JSON as over NATS (docs/wire.md).",
        group="verbs",
        example="{}",
        sends="application/json",
        query=(Parameter("wait_s", "Of batch-results: how long to wait for more, in seconds.", "number"),),
    ),
    Route(name="openapi", method="GET", path="/openapi.json", says="This document.", group="about", open=True),
    Route(
        name="docs",
        method="GET",
        path="/docs",
        says="A page of all routes.",
        group="about",
        media="text/html",
        open=True,
    ),
    Route(
        name="health",
        method="GET",
        path="/health",
        says="Whether requests are taken, as load testers and balancers ask.",
        group="about",
        open=True,
    ),
    Route(name="index", method="GET", path="/", says="What is served here.", group="about", open=True),
)
"""Of several that match a path, the first."""
UPLOADS: Final = frozenset(
    route.path for route in ROUTES if route.sends == "multipart/form-data" or route.method == "PUT"
)
"""Bodies that are passed on as they come."""
