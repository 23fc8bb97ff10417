"""OpenAI's files, over HTTP."""

import logging
import re
from collections.abc import AsyncIterator
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import quote

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from broker.core.files import Part
from broker.core.openai_batch import file_id, output_file, output_id, read_file_id, shown_file
from broker.core.principal import Principal
from broker.doors.http.caller import Send
from broker.doors.http.multipart import Form
from broker.doors.http.reading import Receive, headers_of, wrong
from broker.doors.http.writing import json_answer, page_answer
from broker.service.files import FileService
from broker.service.refusal import EXPECTED, Refusal
from schemas.api import Problem
from schemas.codec import UNREADABLE
from schemas.files import FileList, FileName, Purpose

log = logging.getLogger(__name__)
HOUR_S, MONTH_S = 3600, 30 * 24 * 3600
"""How long OpenAI keeps files that expire."""
_NAME_CHARACTERS: Final = 512


class _Content(msgspec.Struct, frozen=True):
    sha256: Annotated[str, Meta(pattern="^[0-9a-fA-F]{64}$")]
    size: Annotated[int, Meta(ge=0, lt=2**50)] = msgspec.field(name="bytes", default=0)

    def digest(self) -> bytes:
        return bytes.fromhex(self.sha256)


class _Rest(_Content, frozen=True, kw_only=True):
    offset: Annotated[int, Meta(ge=0, lt=2**50)] = 0
    name: FileName = "file"
    expires_in_s: Annotated[int, Meta(ge=HOUR_S, le=MONTH_S)] | None = None


Asked = TypeVar("Asked", bound=_Content)


class FileRoutes:
    """What the routes of files do. Each raises Refusal, Unavailable, or ConnectionError."""

    def __init__(self, service: FileService) -> None:
        self._service = service

    async def create(self, principal: Principal, request: Request) -> Response:
        """Store the file of a form."""
        form = Form(request.receive, headers_of(request.scope))
        name = (await form.begin())[:_NAME_CHARACTERS] or "file"
        _check(form.fields, is_whole=False)
        file = await self._service.store(principal, name, form.content())
        try:
            await form.end()
            expires_in_ms = _check(form.fields, is_whole=True)
        except (Refusal, ConnectionError):
            await self._service.delete(principal, file.id)
            raise
        if expires_in_ms is not None:
            file = await self._service.expire(principal, file.id, expires_in_ms)
        return json_answer(shown_file(file, file_id(file.id)))

    async def upload(self, principal: Principal, request: Request) -> Response:
        """Say how much of the file with a digest is here, and which file it is once it is whole."""
        ask = _upload_of(request, _Content)
        known = await self._service.upload(principal, ask.digest(), size=ask.size)
        kept = 0 if known is None else known.file.bytes
        name = file_id(known.file.id) if known is not None and known.is_whole else None
        return json_answer({"object": "upload", "bytes": kept, "file_id": name})

    async def go_on(self, principal: Principal, request: Request) -> Response:
        """Store the rest of a file, which is the body."""
        ask = _upload_of(request, _Rest)
        kept_ms = None if ask.expires_in_s is None else ask.expires_in_s * 1000
        part = Part(sha256=ask.digest(), bytes=ask.size, offset=ask.offset, name=ask.name, kept_ms=kept_ms)
        file = await self._service.go_on(principal, part, _chunks(request.receive))
        return json_answer(shown_file(file, file_id(file.id)))

    async def list(self, principal: Principal, request: Request) -> Response:
        query = request.query_params
        after = None
        if "after" in query:
            found = read_file_id(query["after"])
            if found is None:
                raise Refusal(Problem("bad_request", f"{query['after'][:100]!r} is no id of a file", "after"))
            after = found[0]
        try:
            ask = msgspec.convert(
                {
                    "limit": query.get("limit", 10_000),
                    "after": after,
                    "oldest_first": _order(query.get("order", "desc")),
                },
                FileList,
                strict=False,
            )
        except UNREADABLE as error:
            raise wrong(error) from error
        if query.get("purpose", Purpose.BATCH) != Purpose.BATCH:
            return page_answer([], has_more=False)
        page = await self._service.list(principal, ask)
        data = [shown_file(file, file_id(file.id)) for file in page.files]
        return page_answer(data, has_more=page.has_more)

    async def show(self, principal: Principal, request: Request) -> Response:
        named, which = _plain(request.path_params["file"])
        if which is None:
            return json_answer(shown_file(await self._service.show(principal, named), file_id(named)))
        state = await self._service.batch(principal, named, which)
        return json_answer(output_file(state, which, await self._service.size(state, which)))

    async def delete(self, principal: Principal, request: Request) -> Response:
        named, which = _plain(request.path_params["file"])
        if which is None:
            await self._service.delete(principal, named)
        else:
            await self._service.delete_output(principal, named, which)
        name = file_id(named) if which is None else output_id(named, which)
        return json_answer({"id": name, "object": "file", "deleted": True})

    async def content(self, principal: Principal, request: Request) -> Response:
        """Send the content, or a range of it. That of a batch which still runs is what it came to by now."""
        named, which = _plain(request.path_params["file"])
        if which is None:
            file = await self._service.show(principal, named)
            size, filename = file.bytes, file.name
        else:
            state = await self._service.batch(principal, named, which)
            size, filename = await self._service.size(state, which), f"{output_id(named, which)}.jsonl"
        begin, end, status = _range(request.headers.get("range"), size)
        if which is None:
            content = self._service.content(file, begin, end)
        else:
            content = _between(self._service.lines(state, which), begin, end)
        headers = {
            "content-length": str(end - begin),
            "accept-ranges": "bytes",
            "content-disposition": f"attachment; filename*=UTF-8''{quote(filename, safe='')}",
        }
        if status == 206:
            headers["content-range"] = f"bytes {begin}-{end - 1}/{size}"
        return Download(await _begun(content), status, headers, media_type="application/octet-stream")


class Download(StreamingResponse):
    """Sends the content of a file. Where that cannot be read any more, it breaks off: its length tells the client so."""

    async def stream_response(self, send: Send) -> None:
        try:
            await super().stream_response(send)
        except EXPECTED as error:
            log.warning("a download breaks off error=%s", error)


async def _begun(content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Read the first part, so that what is wrong from the beginning can still be the answer."""
    first = await anext(content, b"")

    async def whole() -> AsyncIterator[bytes]:
        yield first
        async for part in content:
            yield part

    return whole()


async def _between(parts: AsyncIterator[bytes], begin: int, end: int) -> AsyncIterator[bytes]:
    """Yield the bytes from `begin` to before `end`."""
    at = 0
    async for part in parts:
        if at + len(part) > begin and at < end:
            yield part[max(0, begin - at) : end - at]
        at += len(part)
        if at >= end:
            return


def _range(asked: str | None, size: int) -> tuple[int, int, int]:
    """Return begin, end and status of what is asked of a file. What is no single range is all of it, as HTTP allows."""
    match = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", asked or "")
    if match is None or match[0] == "bytes=-":
        return 0, size, 200
    first, last = match[1], match[2]
    begin = int(first) if first else max(0, size - int(last))
    end = min(size, int(last) + 1) if first and last else size
    if begin >= end:
        raise Refusal(
            Problem("bad_range", f"the file has {size} bytes: there are none from byte {begin} on", "range", size)
        )
    return begin, end, 206


def _upload_of(request: Request, kind: type[Asked]) -> Asked:
    """Read what the query says of an upload. Raises: Refusal."""
    try:
        return msgspec.convert(dict(request.query_params), kind, strict=False)
    except UNREADABLE as error:
        raise wrong(error) from error


async def _chunks(receive: Receive) -> AsyncIterator[bytes]:
    """Yield a body as it comes. Raises: ConnectionError."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError("the client left before its file was whole")
        yield message.get("body", b"")
        if not message.get("more_body", False):
            return


def _plain(name: str) -> tuple[Any, str | None]:
    found = read_file_id(name)
    if found is None:
        raise Refusal(Problem("unknown_file", f"there is no file {name[:100]!r}", "id"))
    return found


def _check(fields: dict[str, str], *, is_whole: bool) -> int | None:
    """Check the fields of a form that came so far; return how long the file is kept. Raises: Refusal."""
    purpose = fields.get("purpose")
    if purpose != Purpose.BATCH and (is_whole or purpose is not None):
        said = "none is named" if purpose is None else f"not {purpose[:80]!r}"
        raise Refusal(Problem("bad_request", f"files are kept for the purpose batch, {said}", "purpose"))
    anchor, seconds = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    if not is_whole and (anchor is None or seconds is None):
        return None
    if anchor != "created_at":
        raise Refusal(Problem("bad_request", "the anchor must be created_at", "expires_after.anchor"))
    if seconds is None or not seconds.isdigit() or not HOUR_S <= int(seconds[:9]) <= MONTH_S:
        message = f"it must be {HOUR_S} to {MONTH_S} seconds"
        raise Refusal(Problem("bad_request", message, "expires_after.seconds", MONTH_S))
    return int(seconds) * 1000


def _order(text: str) -> bool:
    if text not in {"asc", "desc"}:
        raise Refusal(Problem("bad_request", f"{text[:20]!r} is not asc or desc", "order"))
    return text == "asc"
