"""Reads the key, the options and the body of a request."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta
from msgspec.structs import replace
from starlette.requests import Request

from broker.core.openai_batch import read_id
from broker.service.refusal import Refusal
from schemas.api import BatchRef, Problem
from schemas.codec import TRACEPARENT, UNREADABLE, field_of, place_of
from schemas.job import CustomId, Lane, Metadata
from schemas.units import Name

T = TypeVar("T")
Receive = Callable[[], Awaitable[Any]]
Headers = Mapping[bytes, bytes]
"""By their names in small letters; of several of one name the last."""
MOST_BODY_BYTES = 1024 * 1024
"""Larger than a job's body may be, so that admission can say what is too large."""
_LONGEST_S = 7 * 24 * 3600
_LARGEST_OPTION = 16 * 1024
EXTRA = "infermq"
"""The extra field of a body that holds options. It is taken out before the body travels."""


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a request may say beside its body: each by a header such as `x-infermq-timeout-s`, or in the extra field."""

    timeout_s: Annotated[float, Meta(gt=0, le=_LONGEST_S)] | None = None
    """How long the answer is worth waiting for, in seconds."""
    lane: Lane | None = None
    metadata: Metadata | None = None
    custom_id: CustomId | None = None
    deployment: Name | None = None
    """Pins the request to this deployment."""
    answer: bool | None = None
    """Whether a stream ends with the whole answer, as an event `answer`."""


_OF_HEADERS = {b"x-infermq-" + name.replace("_", "-").encode(): name for name in Options.__struct_fields__}
_metadata = msgspec.json.Decoder(Metadata)
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])


def headers_of(scope: Mapping[str, Any]) -> Headers:
    return dict(scope["headers"])


def key_text(headers: Headers) -> str | None:
    """Find the API key that a request shows: as a bearer token, or as Anthropic's clients do."""
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    shown = token if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")
    return shown.strip().decode("latin-1") or None


async def body_of(receive: Receive, headers: Headers, *, most_bytes: int = MOST_BODY_BYTES) -> bytes:
    """Read the whole body. Raises: Refusal, as soon as it is too large; ConnectionError, if the client leaves."""
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length) > most_bytes:
        raise too_large(most_bytes)
    chunks, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError("the client left before its request was whole")
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > most_bytes:
            raise too_large(most_bytes)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def too_large(most_bytes: int) -> Refusal:
    message = f"the body is larger than {most_bytes} bytes: split the request or shorten the prompt"
    return Refusal(Problem("body_too_large", message, "body", most_bytes))


def options_of(headers: Headers, extra: Options | None = None) -> Options:
    """Read the options of a request; a header counts before the extra field. Raises: Refusal."""
    told = {name: headers[header] for header, name in _OF_HEADERS.items() if header in headers}
    options = _NONE if extra is None else extra
    return replace(options, **{name: _option(name, text) for name, text in told.items()}) if told else options


_NONE = Options()


class _Extra(msgspec.Struct, frozen=True):
    infermq: Options | None = None


_extra = msgspec.json.Decoder(_Extra)


def options_in(body: bytes, headers: Headers) -> tuple[Options, bytes]:
    """Read the options of a request, and return its body without them. Raises: Refusal."""
    if EXTRA.encode() not in body:
        return options_of(headers), body
    try:
        extra = _extra.decode(body).infermq
    except UNREADABLE as error:
        raise unreadable(error) from error
    return options_of(headers, extra), body if extra is None else without_extra(body)


def decoded(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Decode a body that is of one of our own types. Raises: Refusal."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise wrong(error) from error
    except UNREADABLE as error:
        raise Refusal(Problem("body_not_json", f"the body is not JSON: {error}", "body")) from error


def wrong(error: Exception, *, within: str = "") -> Refusal:
    """Say what is wrong with a value, and in which field of what is asked; `within` is what its path begins with."""
    what, path = field_of(str(error))
    return Refusal(Problem("bad_request", what, path.removeprefix(".").removeprefix(within) or None))


def traceparent_of(headers: Headers) -> str | None:
    """Find the trace that a request is part of."""
    shown = headers.get(TRACEPARENT.encode())
    return None if shown is None else shown.decode("latin-1")


def milliseconds(timeout_s: float | None) -> int | None:
    """Return a time-out in milliseconds, of which there is at least one. None: there is none."""
    return None if timeout_s is None else max(1, int(timeout_s * 1000))


def unreadable(error: Exception) -> Refusal:
    """Say why the body of a request for an answer cannot be read."""
    if isinstance(error, msgspec.ValidationError):
        what, path = place_of(str(error))
        if "missing required field `model`" in what:
            return Refusal(Problem("body_shape", "say which model is to answer", "body.model"))
        return Refusal(Problem("body_shape", what, f"body{path}"))
    why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
    return Refusal(Problem("body_not_json", f"the body is not JSON: {why}", "body"))


def without_extra(body: bytes) -> bytes:
    """Take the extra field out of a body that is an object. Other fields stay as they were written."""
    fields = _fields.decode(body)
    fields.pop(EXTRA, None)
    return msgspec.json.encode(fields)


def _option(name: str, text: bytes) -> Any:
    """Read the option of a header. Raises: Refusal."""
    header = "x-infermq-" + name.replace("_", "-")
    if len(text) > _LARGEST_OPTION:
        message = f"the header has {len(text)} bytes, the limit is {_LARGEST_OPTION}"
        raise Refusal(Problem("bad_request", message, header, _LARGEST_OPTION))
    value: Any
    try:
        value = _metadata.decode(text) if name == "metadata" else text.decode()
        return getattr(msgspec.convert({name: value}, Options, strict=False), name)
    except UNREADABLE as error:
        raise Refusal(Problem("bad_request", place_of(str(error))[0], header)) from error


def batch_named(request: Request) -> BatchRef:
    """Read which batch a path names. Raises: Refusal."""
    name = request.path_params["batch"]
    if (found := read_id(name, "batch_")) is None:
        raise Refusal(Problem("unknown_batch", f"there is no batch {name[:100]!r}", "id"))
    return BatchRef(found)
