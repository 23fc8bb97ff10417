"""What the jobs of a batch came to, over HTTP: by the page, or as a stream of events while it runs.

Each result is written as the line that it has in the output or in the errors of its batch.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Annotated, Final

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from broker.core.batch_output import line_of
from broker.core.principal import Principal
from broker.core.records import ReadPage
from broker.doors.http.caller import KEEP_ALIVE
from broker.doors.http.events import EventStream, event
from broker.doors.http.reading import batch_named, wrong
from broker.doors.http.verbs import seconds
from broker.doors.http.writing import json_answer
from broker.service.batches import BatchService
from schemas.api import BatchRef, BatchResults
from schemas.codec import UNREADABLE

Kept = Callable[[Principal, Request], AbstractAsyncContextManager[None]]
"""Runs a block while the key of a request is let in. Raises: Refusal, as soon as it is not."""
_AT_ONCE: Final = 200
"""How many results a stream reads at once, unless they are large. A guess."""
_AGAIN: Final = b"retry: 1000\n\n"
"""How soon a client comes back whose stream broke, in ms."""
_OVER: Final = "-end"
"""What the id of the last event ends with. Who names it has read everything."""


class ResultsAsk(msgspec.Struct, frozen=True, kw_only=True):
    """Which results are asked for: a query."""

    cursor: Annotated[str, Meta(max_length=100)] | None = None
    tail: Annotated[int, Meta(ge=0)] | None = None
    """Without a cursor: begin with the last ones, so many. 0: with those that come."""
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    own: bool = False
    """Whether to leave the retries of the batch out. Otherwise, what failed is replaced by what its retries came to."""


class ResultRoutes:
    """What the routes of results do. Each raises Refusal or Unavailable."""

    def __init__(self, service: BatchService, kept: Kept) -> None:
        self._service = service
        self._kept = kept

    async def read(self, principal: Principal, request: Request) -> Response:
        """Answer with a page, or with events if that is what the client accepts."""
        batch = batch_named(request)
        follows = "text/event-stream" in request.headers.get("accept", "")
        last = request.headers.get("last-event-id", "") if follows else ""
        if last.endswith(_OVER):
            return Response(status_code=204)  # which tells a browser to come no more
        ask = _ask_of({**request.query_params, **({"cursor": last} if last else {})})
        cursor = ask.cursor
        if cursor is None and ask.tail is not None:
            settled = (await self._service.show(principal, batch)).counts.settled()
            cursor = str(max(0, settled - ask.tail))
        if follows:
            wanted = BatchResults(batch.id, cursor, _AT_ONCE, own=ask.own, final=True)
            pages = self._service.follow(principal, wanted)
            first = await anext(pages)
            return EventStream(_events(batch, first, pages), self._kept(principal, request))
        wanted = BatchResults(batch.id, cursor, ask.limit, own=ask.own, final=True)
        wait_s = seconds(request.query_params.get("wait_s"))
        page = await self._service.results_within(principal, wanted, wait_s=wait_s)
        lines = [msgspec.Raw(line_of(one)[:-1]) for one in page.results]
        return json_answer(
            {
                "object": "list",
                "data": lines,
                "cursor": page.cursor,
                "has_more": page.more,
                "completed": page.completed,
            }
        )


async def _events(batch: BatchRef, first: ReadPage, pages: AsyncGenerator[ReadPage]) -> AsyncGenerator[bytes]:
    async with aclosing(pages):
        yield _AGAIN + _written(batch, first)
        async for read in pages:
            yield _written(batch, read)


def _written(batch: BatchRef, read: ReadPage) -> bytes:
    page = read.page
    parts = [
        event(line_of(result)[:-1], name="result", place=str(ordinal))
        for result, ordinal in zip(page.results, read.ordinals, strict=True)
    ]
    if page.completed:
        says = {"object": "batch.results.end", "batch_id": batch.id, "cursor": page.cursor}
        parts.append(event(msgspec.json.encode(says), name="end", place=f"{page.cursor or 0}{_OVER}"))
    return b"".join(parts) or KEEP_ALIVE


def _ask_of(query: dict[str, str]) -> ResultsAsk:
    try:
        return msgspec.convert(query, ResultsAsk, strict=False)
    except UNREADABLE as error:
        raise wrong(error) from error
