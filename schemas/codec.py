"""Bytes to values and back: content types, headers, one encoder each.

MessagePack inside the system; producers choose. Unknown fields are ignored everywhere, so that versions can differ.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import Meta

from schemas.job import Job, JsonJob

MSGPACK = "application/msgpack"
JSON = "application/json"

CONTENT_TYPE = "Content-Type"
KIND = "Infermq-Kind"
SEQ = "Infermq-Seq"
JOB = "Infermq-Job"
"""The id of the job that a reply is about."""
FAILURE = "Infermq-Failure"
"""From a worker to a relay, beside an error after which another deployment may help: the Failure, in ASCII JSON."""
TRACEPARENT = "traceparent"
MSG_ID = "Nats-Msg-Id"

CHUNK = "chunk"
FINAL = "final"
ERROR = "error"
KEEPALIVE = "keepalive"

BUNDLE = 1000
"""Values of one message at most."""
BUNDLE_BYTES = 256 * 1024
"""Bytes of a message of more than one value: small enough that a group of messages can be bounded."""

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What a decoder raises over bytes that are not what they should be."""

T = TypeVar("T")
V = TypeVar("V")

_msgpack = msgspec.msgpack.Encoder(uuid_format="bytes")
_json = msgspec.json.Encoder()
_json_job = msgspec.json.Decoder(JsonJob)
_msgpack_job = msgspec.msgpack.Decoder(Job)


class Undecodable(ValueError):
    """Bytes that are not what they should be; the message names the field."""


def packed(value: Any) -> bytes:
    """MessagePack, ids as 16 bytes."""
    return _msgpack.encode(value)


def jsoned(value: Any) -> bytes:
    return _json.encode(value)


def unpacker(kind: type[T]) -> msgspec.msgpack.Decoder[T]:
    """A decoder to keep. It raises: UNREADABLE."""
    return msgspec.msgpack.Decoder(kind)


def place_of(message: str) -> tuple[str, str]:
    """Msgspec's words, and the place they speak of without its `$`: it says `… - at `$.n``; empty for the whole."""
    what, _, path = message.partition(" - at ")
    return what, path.strip("`").removeprefix("$")


def bundles(values: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Packed values in groups, in their order, each small enough for one message."""
    return grouped(values, len, most=BUNDLE, most_bytes=BUNDLE_BYTES)


def grouped(values: Iterable[V], size_of: Callable[[V], int], *, most: int, most_bytes: int) -> Iterator[list[V]]:
    """In their order, so many and so many bytes at most; one that is larger by itself is a group of its own."""
    group: list[V] = []
    size = 0
    for value in values:
        length = size_of(value)
        if group and (len(group) == most or size + length > most_bytes):
            yield group
            group, size = [], 0
        group.append(value)
        size += length
    if group:
        yield group


def bundled(values: Sequence[bytes]) -> bytes:
    """Packed values as one MessagePack array."""
    return _msgpack.encode([msgspec.Raw(value) for value in values])


class Bundle(Generic[T]):
    """Reads arrays of one kind of value, or of a union of kinds."""

    def __init__(self, kind: type[T] | UnionType) -> None:
        self._all: msgspec.msgpack.Decoder[list[T]] = msgspec.msgpack.Decoder(list[kind])  # type: ignore[valid-type]
        self._each: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(kind)

    def unpack(self, data: bytes) -> tuple[list[T], str | None]:
        """The values that can be read, and why the others cannot. One that is broken does not cost the others."""
        try:
            return self._all.decode(data), None
        except UNREADABLE as error:
            whole = str(error)
        try:
            raws = _raws.decode(data)
        except UNREADABLE:
            return [], whole
        values: list[T] = []
        for raw in raws:
            try:
                values.append(self._each.decode(raw))
            except UNREADABLE:
                continue
        return values, whole


_raws = msgspec.msgpack.Decoder(list[msgspec.Raw])
_Jobs = Annotated[list[Job], Meta(min_length=1, max_length=BUNDLE)]
_JsonJobs = Annotated[list[JsonJob], Meta(min_length=1, max_length=BUNDLE)]
_msgpack_jobs: msgspec.msgpack.Decoder[list[Job]] = msgspec.msgpack.Decoder(_Jobs)
_json_jobs: msgspec.json.Decoder[list[JsonJob]] = msgspec.json.Decoder(_JsonJobs)
_ARRAYS = frozenset({*(bytes([first]) for first in range(0x90, 0xA0)), b"\xdc", b"\xdd"})
"""First bytes of a MessagePack array."""
_SHOWN = 5
_json_raws = msgspec.json.Decoder(list[msgspec.Raw])


def decode_jobs(data: bytes, headers: Mapping[str, str] | None) -> tuple[dict[int | None, Job], str | None]:
    """The jobs of a submitted message, which is one job or an array of them, and why others of it cannot be read.

    The key is the place in the array, None for a message that is one job. Raises: Undecodable, if nothing can be read.
    """
    content_type = _content_type(headers)
    is_json = content_type == JSON
    is_array = data.lstrip()[:1] == b"[" if is_json else content_type == MSGPACK and data[:1] in _ARRAYS
    if not is_array:
        return {None: decode_job(data, headers)}, None
    with contextlib.suppress(*UNREADABLE):
        whole = [_from_json(job) for job in _json_jobs.decode(data)] if is_json else _msgpack_jobs.decode(data)
        return dict(enumerate(whole, 1)), None
    raws = _raws_of(data, json=is_json)
    jobs: dict[int | None, Job] = {}
    problems: list[str] = []
    for place, raw in enumerate(raws, 1):
        try:
            jobs[place] = decode_job(bytes(raw), headers)
        except Undecodable as error:
            problems.append(f"job {place} of {len(raws)} is {error}")
    return jobs, "; ".join(problems[:_SHOWN]) or None


def _raws_of(data: bytes, *, json: bool) -> list[msgspec.Raw]:
    try:
        raws = _json_raws.decode(data) if json else _raws.decode(data)
    except UNREADABLE as error:
        raise Undecodable(f"not an array of jobs: {error}") from error
    if not 1 <= len(raws) <= BUNDLE:
        raise Undecodable(f"an array of {len(raws)} jobs: a message holds 1 to {BUNDLE}")
    return raws


def _content_type(headers: Mapping[str, str] | None) -> str:
    return (headers or {}).get(CONTENT_TYPE, MSGPACK).partition(";")[0].strip().lower()


def decode_job(data: bytes, headers: Mapping[str, str] | None) -> Job:
    """A submitted job, by its Content-Type header. Raises: Undecodable."""
    content_type = _content_type(headers)
    try:
        match content_type:
            case "application/msgpack":
                return _msgpack_job.decode(data)
            case "application/json":
                return _from_json(_json_job.decode(data))
            case other:
                raise Undecodable(f"{CONTENT_TYPE} {other!r} is neither {MSGPACK} nor {JSON}")
    except UNREADABLE as error:
        raise Undecodable(f"not a job as {content_type}: {error}") from error


def _from_json(job: JsonJob) -> Job:
    fields = {name: getattr(job, name) for name in JsonJob.__struct_fields__}
    return Job(**{**fields, "body": bytes(job.body)})
