"""Encodes and decodes messages, and names their content types and headers.

Broker and workers use MessagePack; producers may also send JSON. Unknown fields are ignored everywhere, so that versions can
differ.
"""

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Generic, TypeVar
from uuid import UUID

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
SEAL = "Infermq-Seal"
"""The seal of a message of rulings."""
FAILURE = "Infermq-Failure"
"""The Failure in ASCII JSON, which a worker sends the relay with an error if another deployment may succeed."""
TRACEPARENT = "traceparent"
MSG_ID = "Nats-Msg-Id"

CHUNK = "chunk"
FINAL = "final"
ERROR = "error"
KEEPALIVE = "keepalive"
FULL = "full"
"""The kind of a worker's word to a relay: it has no free slot, and has not begun the attempt."""
OFFER = "offer"
"""The kind of a worker's word to a relay: it has free slots for it."""

CANCEL = "cancel"
"""The kind of an order to end leased attempts."""
ABORT = "abort"
"""The kind of an order to end an interactive attempt."""
WANTED = "wanted"
"""The kind of the news for workers how many requests of a relay wait for a slot."""

BUNDLE = 1000
"""The most values in one message."""
BUNDLE_BYTES = 256 * 1024
"""The most bytes of a message with several values: small enough to bound a group of messages."""

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What a decoder raises for bytes that it cannot decode."""

T = TypeVar("T")
V = TypeVar("V")

_msgpack = msgspec.msgpack.Encoder(uuid_format="bytes")
_json = msgspec.json.Encoder()
_json_job = msgspec.json.Decoder(JsonJob)
_msgpack_job = msgspec.msgpack.Decoder(Job)


class Undecodable(ValueError):
    """Bytes cannot be decoded. The message names the field."""


def packed(value: Any) -> bytes:
    """Encode a value as MessagePack, with ids as 16 bytes."""
    return _msgpack.encode(value)


def jsoned(value: Any) -> bytes:
    """Encode a value as JSON."""
    return _json.encode(value)


def unpacker(kind: type[T]) -> msgspec.msgpack.Decoder[T]:
    """Make a MessagePack decoder, to be kept. It raises: UNREADABLE."""
    return msgspec.msgpack.Decoder(kind)


def place_of(message: str) -> tuple[str, str]:
    """Split a message of msgspec (`… - at `$.n``) into its text and the path without `$`, empty if it names none."""
    text, _, path = message.partition(" - at ")
    return text, path.strip("`").removeprefix("$")


def field_of(message: str) -> tuple[str, str]:
    """Split a message as `place_of` does. The path goes on to the field that is missing, or that nobody knows."""
    text, path = place_of(message)
    named = _NAMED.fullmatch(text)
    return text, path if named is None else f"{path}.{named[1]}"


_NAMED = re.compile(r"Object (?:missing required|contains unknown) field `(.{1,200})`", re.DOTALL)


def bundles(values: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Group packed values, in their order, so that each group fits into one message."""
    return grouped(values, len, most=BUNDLE, most_bytes=BUNDLE_BYTES)


def grouped(values: Iterable[V], size_of: Callable[[V], int], *, most: int, most_bytes: int) -> Iterator[list[V]]:
    """Group values, in their order, by number and bytes. A value that is too large gets a group of its own."""
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
    """Join packed values into one MessagePack array."""
    return _msgpack.encode([msgspec.Raw(value) for value in values])


class Bundle(Generic[T]):
    """Decodes arrays of one kind of value, or of a union of kinds."""

    def __init__(self, kind: type[T] | UnionType) -> None:
        self._all: msgspec.msgpack.Decoder[list[T]] = msgspec.msgpack.Decoder(list[kind])  # type: ignore[valid-type]
        self._each: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(kind)

    def unpack(self, data: bytes) -> tuple[list[T], str | None]:
        """Return the values that can be decoded, and why others cannot. A broken value does not affect the others."""
        try:
            return self._all.decode(data), None
        except UNREADABLE as error:
            reason = str(error)
        try:
            raws = _raws.decode(data)
        except UNREADABLE:
            return [], reason
        values: list[T] = []
        for raw in raws:
            try:
                values.append(self._each.decode(raw))
            except UNREADABLE:
                continue
        return values, reason


_raws = msgspec.msgpack.Decoder(list[msgspec.Raw])
_Jobs = Annotated[list[Job], Meta(min_length=1, max_length=BUNDLE)]
_JsonJobs = Annotated[list[JsonJob], Meta(min_length=1, max_length=BUNDLE)]
_msgpack_jobs: msgspec.msgpack.Decoder[list[Job]] = msgspec.msgpack.Decoder(_Jobs)
_json_jobs: msgspec.json.Decoder[list[JsonJob]] = msgspec.json.Decoder(_JsonJobs)
_ARRAYS = frozenset({*(bytes([first]) for first in range(0x90, 0xA0)), b"\xdc", b"\xdd"})
"""The bytes with which a MessagePack array can begin."""
_SHOWN = 5
_json_raws = msgspec.json.Decoder(list[msgspec.Raw])


def decode_jobs(data: bytes, headers: Mapping[str, str] | None) -> tuple[dict[int | None, Job], str | None]:
    """Decode a submitted message, one job or an array of jobs. Also say why jobs of it cannot be decoded, if any cannot.

    The key is the place in the array; None if the message is one job. Raises: Undecodable, if nothing can be decoded.
    """
    content_type = _content_type(headers)
    is_json = content_type == JSON
    is_array = data.lstrip()[:1] == b"[" if is_json else content_type == MSGPACK and data[:1] in _ARRAYS
    if not is_array:
        return {None: decode_job(data, headers)}, None
    with contextlib.suppress(*UNREADABLE):
        all_jobs = [_from_json(job) for job in _json_jobs.decode(data)] if is_json else _msgpack_jobs.decode(data)
        return dict(enumerate(all_jobs, 1)), None
    raws = _raws_of(data, json=is_json)
    jobs: dict[int | None, Job] = {}
    problems: list[str] = []
    for place, raw in enumerate(raws, 1):
        try:
            jobs[place] = decode_job(bytes(raw), headers)
        except Undecodable as error:
            problems.append(f"job {place} of {len(raws)} is {error}")
    return jobs, "; ".join(problems[:_SHOWN]) or None


class JobNames(msgspec.Struct, frozen=True):
    """What can be read of a job that cannot be decoded: how its producer knows it."""

    id: UUID | None = None
    batch: UUID | None = None
    line: int | None = None
    custom_id: str | None = None


def unreadable_jobs(data: bytes, headers: Mapping[str, str] | None) -> dict[int | None, tuple[JobNames, str]]:
    """Name the jobs of a message that cannot be decoded, each with the reason; by their places, as in `decode_jobs`.

    A message of which nothing can be read is one such job, without a name. Of too long an array, the first BUNDLE are named.
    """
    is_json = _content_type(headers) == JSON
    try:
        jobs, why = decode_jobs(data, headers)
    except Undecodable as error:
        jobs, why = {}, str(error)
    if why is None:
        return {}
    try:
        raws: list[msgspec.Raw] = (_json_raws if is_json else _raws).decode(data)
    except UNREADABLE:
        return {None: (_names(data, json=is_json), why)}
    found: dict[int | None, tuple[JobNames, str]] = {}
    for place, raw in enumerate(raws[:BUNDLE], 1):
        if place not in jobs:
            found[place] = _names(bytes(raw), json=is_json), _reason(bytes(raw), headers) or why
    return found or {None: (JobNames(), why)}


def _reason(data: bytes, headers: Mapping[str, str] | None) -> str | None:
    try:
        decode_job(data, headers)
    except Undecodable as error:
        return str(error)
    return None


def _names(data: bytes, *, json: bool) -> JobNames:
    try:
        read = msgspec.json.decode(data) if json else msgspec.msgpack.decode(data)
    except UNREADABLE:
        return JobNames()
    if not isinstance(read, dict):
        return JobNames()
    line, custom_id = read.get("line"), read.get("custom_id")
    is_line = isinstance(line, int) and not isinstance(line, bool) and 1 <= line < 2**31
    return JobNames(
        id=_uuid(read.get("id")),
        batch=_uuid(read.get("batch")),
        line=line if is_line else None,
        custom_id=custom_id[:512] if isinstance(custom_id, str) and custom_id else None,
    )


def _uuid(value: object) -> UUID | None:
    try:
        return msgspec.convert(value, UUID)
    except msgspec.ValidationError:
        return None


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
    """Decode a submitted job by its Content-Type header. Raises: Undecodable."""
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
