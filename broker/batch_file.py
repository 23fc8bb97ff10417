"""Reads a JSONL file in the format of OpenAI's Batch API: one request on each line.

{"custom_id": "…", "method": "POST", "url": ENDPOINT, "body": {"model": "…", …}}

The file is read once, a line at a time, so its size does not matter. A bad line becomes a Fault, and reading goes on with
the next one.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, BinaryIO
from uuid import UUID

import msgspec
from msgspec import Meta

from broker.core.admit import AdmissionContext, admit
from broker.core.principal import open_principal
from broker.core.records import BatchInfo
from schemas.catalog import Catalog
from schemas.codec import UNREADABLE, field_of, place_of
from schemas.endpoints import ENDPOINTS
from schemas.files import Fault
from schemas.ids import line_id
from schemas.job import BODY_BYTES, CustomId, Job
from schemas.subjects import DEFAULT
from schemas.units import Ms

LINE_BYTES = BODY_BYTES + 16 * 1024
"""The longest line: a body at its limit, and room for the rest."""
_BOM = b"\xef\xbb\xbf"
_WIDE_BOMS = (b"\xff\xfe", b"\xfe\xff")
_TAIL_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Line:
    """A good line: its job, and the model that it names."""

    number: int
    model: str
    job: Job


class _Request(msgspec.Struct, frozen=True):
    custom_id: CustomId
    body: msgspec.Raw
    url: str
    method: str = "POST"


class _Body(msgspec.Struct, frozen=True):
    model: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    stream: bool | None = None


class _Named(msgspec.Struct, frozen=True):
    custom_id: str | None = None


_request = msgspec.json.Decoder(_Request)
_body = msgspec.json.Decoder(_Body)
_named = msgspec.json.Decoder(_Named)


class _Bad(Exception):
    def __init__(self, code: str, message: str, field: str | None = None, limit: int | None = None) -> None:
        super().__init__(message)
        self.as_fault = (code, message, field, limit)


def read_lines(
    stream: BinaryIO, *, model: str | None, batch: UUID, deadline_ms: int | None = None
) -> Iterator[Line | Fault]:
    """Yield each request of the file, or what is wrong with its line. `model` is for lines that name none.

    A job's id is made from the batch and the line's number, so reading the file again gives the same jobs.
    """
    is_empty = True
    for item in read_part(stream, model=model, batch=batch, deadline_ms=deadline_ms):
        is_empty = False
        yield item
    if is_empty:
        yield Fault(0, "empty_file", "there is no request in it")


def read_part(
    stream: BinaryIO, *, model: str | None, batch: UUID, deadline_ms: int | None = None, first: int = 1
) -> Iterator[Line | Fault]:
    """Yield the requests of a part of a file, which begins with the line `first`. A custom id is compared within it only."""
    seen: set[bytes] = set()
    for number, (text, ended) in enumerate(_raw_lines(stream, is_begin=first == 1), first):
        if isinstance(text, Fault):
            yield replace(text, number=text.number and number)
            continue
        if not text.strip():
            continue
        try:
            yield _line(number, text, model=model, batch=batch, deadline_ms=deadline_ms, seen=seen)
        except _Bad as bad:
            what = bad.as_fault if ended or bad.as_fault[0] != "not_json" else _truncated(bad)
            yield Fault(number, *what, _custom_id(text))


def admissible(
    items: Iterable[Line | Fault], *, batch: BatchInfo, catalog: Catalog, now: Ms
) -> Iterator[Line | Fault]:
    """Yield the same items, with each line that admission would refuse turned into a Fault."""
    for item in items:
        yield item if isinstance(item, Fault) else _admissible(item, batch, catalog, now)


def _admissible(line: Line, batch: BatchInfo, catalog: Catalog, now: Ms) -> Line | Fault:
    context = AdmissionContext(
        principal=open_principal(batch.tenant, DEFAULT),
        lane=batch.lane,
        model=line.model,
        catalog=catalog,
        now=now,
        new_id=lambda _: batch.id,
        batches={batch.id: batch},
    )
    return refusal(line, context) or line


def refusal(line: Line, context: AdmissionContext) -> Fault | None:
    """Say why admission would refuse a line. None: it would not."""
    if (refused := admit(line.job, context).refused) is None:
        return None
    field = _FIELDS.get(refused.field, refused.field)
    return Fault(line.number, refused.code, refused.message, field, refused.limit, line.job.custom_id)


_FIELDS: dict[str | None, str] = {"model": "body.model", "endpoint": "url"}
"""The names that the fields of a job have in a line."""


def _truncated(bad: _Bad) -> tuple[str, str, str | None, int | None]:
    return "truncated", f"the last line ends in the middle, the file seems cut off ({bad})", None, None


def _raw_lines(stream: BinaryIO, *, is_begin: bool = True) -> Iterator[tuple[bytes | Fault, bool]]:
    """Yield each line without its end, and whether it had one. A line over the limit is skipped without being held."""
    number = 0
    while text := stream.readline(LINE_BYTES + 1):
        number += 1
        if is_begin and number == 1 and text.startswith(_WIDE_BOMS):
            message = "the file is UTF-16: save it as UTF-8"
            yield Fault(0, "not_utf8", message), True
            return
        text = text.removeprefix(_BOM)  # files that were joined have one at each beginning
        if len(text) > LINE_BYTES and not text.endswith(b"\n"):
            size = len(text) + _skip_line(stream)
            message = f"the line is {size} bytes, the limit is {LINE_BYTES}"
            yield Fault(number, "line_too_large", message, None, LINE_BYTES), True
            continue
        yield text.rstrip(b"\r\n"), text.endswith(b"\n")


def _skip_line(stream: BinaryIO) -> int:
    """Skip the rest of a line; return how many bytes it had."""
    size = 0
    while text := stream.readline(_TAIL_BYTES):
        size += len(text.rstrip(b"\r\n"))
        if text.endswith(b"\n"):
            break
    return size


def _line(
    number: int, text: bytes, *, model: str | None, batch: UUID, deadline_ms: int | None, seen: set[bytes]
) -> Line:
    """Make a Line of the text of one. Raises: _Bad."""
    request = _decoded(text)
    _check(request, seen)
    body = _decoded_body(request.body)
    name = body.model or model
    if name is None:
        raise _Bad("no_model", "the body names no model: add one, or use --model", "body.model")
    if body.stream:
        raise _Bad("stream_not_allowed", "nobody reads a stream of a batch: leave `stream` out", "body.stream")
    job = Job(
        id=line_id(batch, number),
        batch=batch,
        line=number,
        custom_id=request.custom_id,
        endpoint=request.url,
        body=bytes(request.body),
        deadline_ms=deadline_ms,
    )
    return Line(number, name, job)


def _custom_id(text: bytes) -> str | None:
    """Return the name of a bad line, if that can be read."""
    try:
        return _named.decode(text).custom_id
    except UNREADABLE:
        return None


def _decoded(text: bytes) -> _Request:
    try:
        return _request.decode(text)
    except msgspec.ValidationError as error:
        what, path = field_of(str(error))
        raise _Bad("bad_line", what, path.removeprefix(".") or None) from error
    except UNREADABLE as error:
        raise _Bad("not_json", f"not JSON: {error}") from error


def _check(request: _Request, seen: set[bytes]) -> None:
    if request.method != "POST":
        raise _Bad("bad_method", f"{request.method[:80]!r} is not POST", "method")
    if request.url not in ENDPOINTS:
        raise _Bad("bad_url", f"{request.url[:80]!r} is not one of {', '.join(ENDPOINTS)}", "url")
    if "\0" in request.custom_id:
        raise _Bad("nul_character", "it holds a NUL character", "custom_id")
    mark = name_mark(request.custom_id)
    if mark in seen:
        raise _Bad("duplicate_custom_id", said_before(request.custom_id), "custom_id")
    seen.add(mark)


def name_mark(custom_id: str) -> bytes:
    """Return what stands for a custom id where many are compared. Of a million two are taken for the same by chance in one
    of 10⁷ files.
    """
    return hashlib.blake2b(custom_id.encode(errors="surrogatepass"), digest_size=8).digest()


def said_before(custom_id: str) -> str:
    return f"{custom_id[:80]!r} was on a line before"


def _decoded_body(raw: msgspec.Raw) -> _Body:
    if len(bytes(raw)) > BODY_BYTES:
        raise _Bad("body_too_large", f"it is {len(bytes(raw))} bytes, the limit is {BODY_BYTES}", "body", BODY_BYTES)
    try:
        return _body.decode(raw)
    except msgspec.ValidationError as error:
        what, path = place_of(str(error))
        raise _Bad("body_shape", what, f"body{path}") from error
    except UNREADABLE as error:
        raise _Bad("body_not_json", f"the body is not JSON: {error}", "body") from error
