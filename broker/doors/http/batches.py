"""OpenAI's batches, over HTTP."""

from collections.abc import AsyncIterator
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import Meta
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response

from broker.core.openai_batch import batch_id, read_file_id, read_id, shown_batch
from broker.core.principal import Principal
from broker.core.records import FileBatchState
from broker.doors.http.files import HOUR_S, MONTH_S
from broker.doors.http.reading import batch_named, body_of, decoded, headers_of, wrong
from broker.doors.http.writing import json_answer, page_answer
from broker.service.cancels import CancelService
from broker.service.file_batches import FileBatchService, NewFileBatch
from broker.service.files import FileService
from broker.service.refusal import Refusal
from schemas.api import Problem
from schemas.codec import UNREADABLE
from schemas.job import Lane, Metadata, Priority
from schemas.repeats import FileRetry
from schemas.units import Ms

MOST_INLINE_BYTES = 16 * 1024 * 1024
"""The largest request that brings its lines along. Larger ones are stored as a file first."""
_LISTED = 100


class ExpiresAfter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long the files can be read that a batch comes to."""

    anchor: Literal["created_at"]
    """When they were made: when the batch ended."""
    seconds: Annotated[int, Meta(ge=HOUR_S, le=MONTH_S)]


class BatchAsk(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Make a batch of a file, or of the requests that come with it."""

    completion_window: Annotated[str, Meta(max_length=20)]
    """How long it may take, from 15m to 7d; OpenAI allows 24h."""
    deadline_ms: Annotated[int, Meta(ge=0, le=10**15)] | None = None
    """The instant until which it may take; `completion_window` is only shown then. Not OpenAI's."""
    endpoint: Annotated[str, Meta(max_length=200)]
    """Where all lines go; `any`, which is not OpenAI's: each where it says."""
    input_file_id: Annotated[str, Meta(max_length=100)] | None = None
    requests: Annotated[list[msgspec.Raw], Meta(min_length=1)] | None = None
    """The lines of a file, as an array. Not OpenAI's."""
    metadata: Metadata | None = None
    output_expires_after: ExpiresAfter | None = None
    on_bad_line: Literal["fail", "skip"] = "fail"
    """Whether a bad line fails the batch, as at OpenAI, or is left out. Not OpenAI's."""
    lane: Lane = Lane.BULK
    """Not OpenAI's."""
    priority: Priority = 0
    """Before your other jobs of the lane; higher first. Not OpenAI's."""
    model: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    """For lines whose body names none. Not OpenAI's."""
    id: UUID | None = None
    """A new UUIDv7: asked for again under it, it is the same batch. Not OpenAI's."""
    webhook: UUID | None = None
    """The id of the webhook that is told of its end. Not OpenAI's."""


class _BadLineList(msgspec.Struct, frozen=True):
    after: Annotated[int, Meta(ge=-1, lt=2**31)] = -1
    limit: Annotated[int, Meta(ge=1, le=1000)] = 1000


_ask = msgspec.json.Decoder(BatchAsk)
_retry = msgspec.json.Decoder(FileRetry)


class BatchRoutes:
    """What the routes of batches do. Each raises Refusal, Unavailable, Conflict, or ConnectionError."""

    def __init__(self, service: FileBatchService, files: FileService, cancels: CancelService) -> None:
        self._service = service
        self._files = files
        self._cancels = cancels

    async def create(self, principal: Principal, request: Request) -> Response:
        body = await body_of(request.receive, headers_of(request.scope), most_bytes=MOST_INLINE_BYTES)
        ask = decoded(_ask, body)
        if (ask.input_file_id is None) is (ask.requests is None):
            raise Refusal(Problem("bad_request", "name a file, or send requests: one of both", "input_file_id"))
        if ask.input_file_id is not None:
            state = await self._created(principal, ask, await self._input(principal, ask.input_file_id))
        else:
            state = await self._created_of_lines(principal, ask, ask.requests or [])
        return await self._shown(state)

    async def _created_of_lines(
        self, principal: Principal, ask: BatchAsk, requests: list[msgspec.Raw]
    ) -> FileBatchState:
        """Make a batch of requests that are stored as a file first. If no batch is made of that, it is deleted."""
        file = (await self._files.store(principal, "requests.jsonl", _lines(requests))).id
        try:
            state = await self._created(principal, ask, file)
        except Refusal:
            await self._files.delete(principal, file)
            raise
        if state.file != file:  # the batch was made before
            await self._files.delete(principal, file)
        return state

    async def _created(self, principal: Principal, ask: BatchAsk, file: UUID) -> FileBatchState:
        wanted = NewFileBatch(
            id=ask.id,
            file=file,
            endpoint=ask.endpoint,
            window=ask.completion_window,
            deadline_ms=None if ask.deadline_ms is None else Ms(ask.deadline_ms),
            metadata=dict(ask.metadata or {}),
            lane=ask.lane,
            priority=ask.priority,
            model=ask.model,
            skips_bad=ask.on_bad_line == "skip",
            webhook=ask.webhook,
            files_last_ms=None if ask.output_expires_after is None else ask.output_expires_after.seconds * 1000,
        )
        return await self._service.create(principal, wanted)

    async def _input(self, principal: Principal, name: str) -> UUID:
        """Find the id of a file of requests. Raises: Refusal."""
        found = read_file_id(name)
        if found is None:
            raise Refusal(Problem("unknown_file", f"there is no file {name!r}", "input_file_id"))
        file, which = found
        if which is not None:
            try:
                await self._files.batch(principal, file, which)
            except Refusal as refusal:
                raise Refusal(replace(refusal.problem, field="input_file_id")) from refusal
            message = f"{name!r} is what a batch came to: send requests as a file of the purpose batch"
            raise Refusal(Problem("wrong_purpose", message, "input_file_id"))
        return file

    async def show(self, principal: Principal, request: Request) -> Response:
        return await self._shown(await self._service.show(principal, batch_named(request).id))

    async def cancel(self, principal: Principal, request: Request) -> Response:
        """Let nothing of it start any more. What it came to by then can be read."""
        named = batch_named(request)
        before = await self._service.show(principal, named.id)
        if before.batch.completed_ms is not None and before.batch.cancel_ms is None:
            raise Refusal(Problem("batch_completed", f"the batch {batch_id(named.id)} has ended", "id"))
        await self._cancels.cancel_batch(principal, named)
        return await self._shown(await self._service.show(principal, named.id))

    async def retry(self, principal: Principal, request: Request) -> Response:
        body = await body_of(request.receive, headers_of(request.scope))
        retry = decoded(_retry, body or b"{}")
        return await self._shown(await self._service.retry(principal, batch_named(request).id, retry))

    async def list(self, principal: Principal, request: Request) -> Response:
        query = request.query_params
        limit = query.get("limit", "20")
        if not (limit.isascii() and limit.isdigit() and 1 <= int(limit[:4]) <= _LISTED):
            raise Refusal(Problem("bad_request", f"{limit[:20]!r} is not 1 to {_LISTED}", "limit", _LISTED))
        before = None
        if "after" in query and (before := read_id(query["after"], "batch_")) is None:
            raise Refusal(Problem("bad_request", f"{query['after'][:100]!r} is no id of a batch", "after"))
        found = await self._service.list(principal, limit=int(limit) + 1, before=before)
        page = found[: int(limit)]
        data = [shown_batch(state, await self._service.errors(state)) for state in page]
        return page_answer(data, has_more=len(found) > len(page))

    async def bad_lines(self, principal: Principal, request: Request) -> Response:
        """List the lines that cannot run, in order, once all were checked."""
        try:
            ask = msgspec.convert(dict(request.query_params), _BadLineList, strict=False)
        except UNREADABLE as error:
            raise wrong(error) from error
        found = await self._service.bad_lines(
            principal, batch_named(request).id, after=ask.after, limit=ask.limit + 1
        )
        return json_answer({"object": "list", "data": found[: ask.limit], "has_more": len(found) > ask.limit})

    async def _shown(self, state: FileBatchState) -> Response:
        return json_answer(shown_batch(state, await self._service.errors(state)))


async def _lines(requests: list[msgspec.Raw]) -> AsyncIterator[bytes]:
    """Write requests as the lines of a file, many at a time."""
    for at in range(0, len(requests), 1000):
        lines = (msgspec.json.format(bytes(one), indent=-1) for one in requests[at : at + 1000])
        yield b"".join(line + b"\n" for line in lines)
