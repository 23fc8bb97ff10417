"""Bytes to values and back: content types, headers, one encoder each.

MessagePack inside the system; producers choose. Unknown fields are ignored everywhere, so that versions can differ.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from schemas.job import Job, JsonJob

MSGPACK = "application/msgpack"
JSON = "application/json"

CONTENT_TYPE = "Content-Type"
KIND = "Infermq-Kind"
SEQ = "Infermq-Seq"
TRACEPARENT = "traceparent"
MSG_ID = "Nats-Msg-Id"

CHUNK = "chunk"
FINAL = "final"
ERROR = "error"
KEEPALIVE = "keepalive"

T = TypeVar("T")

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
    """A decoder to keep; its errors are msgspec's."""
    return msgspec.msgpack.Decoder(kind)


def decode_job(data: bytes, headers: Mapping[str, str] | None) -> Job:
    """A submitted job, by its Content-Type header. Raises: Undecodable."""
    content_type = (headers or {}).get(CONTENT_TYPE, MSGPACK)
    try:
        match content_type.partition(";")[0].strip().lower():
            case "application/msgpack":
                return _msgpack_job.decode(data)
            case "application/json":
                return _from_json(_json_job.decode(data))
            case other:
                raise Undecodable(f"{CONTENT_TYPE} {other!r} is neither {MSGPACK} nor {JSON}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Undecodable(f"not a job as {content_type}: {error}") from error


def _from_json(job: JsonJob) -> Job:
    fields = {name: getattr(job, name) for name in JsonJob.__struct_fields__}
    return Job(**{**fields, "body": bytes(job.body)})
