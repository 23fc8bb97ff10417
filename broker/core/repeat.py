"""Makes the jobs that repeat others: as they were, byte by byte, but for what is changed on purpose."""

import hashlib
from uuid import UUID

import msgspec

from broker.core.admit import AdmissionContext, admit
from broker.core.records import Entry
from schemas.api import Problem
from schemas.codec import UNREADABLE
from schemas.endpoints import ENDPOINTS
from schemas.ids import uuid7
from schemas.job import Job
from schemas.units import Ms


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """A job to be repeated."""

    id: UUID
    model: str
    endpoint: str
    max_attempts: int
    priority: int
    line: int | None
    custom_id: str | None
    metadata: dict[str, str]
    body: bytes


class Edit(msgspec.Struct, frozen=True, kw_only=True):
    """What to change of each job."""

    patch: bytes | None = None
    """A JSON merge patch (RFC 7396) of the body."""
    max_tokens: int | None = None
    """The most output tokens, in whichever field the body or its endpoint has it."""


NO_EDIT = Edit()


def repeat_id(instruction: UUID, made_ms: Ms, source: UUID) -> UUID:
    """Derive the id of the job that repeats `source` for an instruction: the same however often its page is done."""
    return uuid7(made_ms, int.from_bytes(hashlib.blake2b(instruction.bytes + source.bytes, digest_size=16).digest()))


def repeated(source: Source, job: UUID, batch: UUID, context: AdmissionContext, edit: Edit = NO_EDIT) -> Entry:
    """Return the entry of a job that repeats `source`, as a job of this batch. It is refused like any other."""
    repeat = Job(
        id=job,
        batch=batch,
        line=source.line,
        custom_id=source.custom_id,
        endpoint=source.endpoint,
        max_attempts=source.max_attempts,
        priority=source.priority,
        metadata=source.metadata or None,
        body=edited(source.body, source.endpoint, edit),
    )
    return admit(repeat, context)


def edited(body: bytes, endpoint: str, edit: Edit) -> bytes:
    """Return the body with the changes; as it is if there are none. Nobody would read a stream, so none is asked for."""
    if b'"stream"' in body and _field(body, "stream") == b"true":
        body = patched(body, b'{"stream":null,"stream_options":null}')
    if edit.patch is not None:
        body = patched(body, edit.patch)
    if edit.max_tokens is not None and (limits := _limits(body, endpoint)):
        body = patched(body, msgspec.json.encode(dict.fromkeys(limits, edit.max_tokens)))
    return body


def patched(target: bytes, patch: bytes) -> bytes:
    """Apply a JSON merge patch. What it does not name keeps its bytes. A target that is no object is replaced by one."""
    changes = _fields(patch)
    if changes is None:
        return patch
    fields = _fields(target) or {}
    for name, value in changes.items():
        change = bytes(value)
        if change == b"null":
            fields.pop(name, None)
        elif change.startswith(b"{"):
            fields[name] = msgspec.Raw(patched(bytes(fields.get(name, b"null")), change))
        else:
            fields[name] = value
    return msgspec.json.encode(fields)


def patch_problem(patch: str | None) -> Problem | None:
    """Say what is wrong with a patch; None if nothing is."""
    if patch is None:
        return None
    try:
        _object.decode(patched(b"{}", patch.encode()))
        _object.decode(patch)
    except UNREADABLE as error:
        return Problem("bad_patch", f"the patch is no JSON object: {error}", "patch")
    return None


def _fields(body: bytes) -> dict[str, msgspec.Raw] | None:
    """Read the fields of a JSON object, each as its bytes. None: it is none."""
    try:
        return _object.decode(body)
    except UNREADABLE:
        return None


_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _field(body: bytes, name: str) -> bytes | None:
    value = (_fields(body) or {}).get(name)
    return None if value is None else bytes(value)


def _limits(body: bytes, endpoint: str) -> list[str]:
    """Return the fields of a body that limit its output: those that it has, else the usual one."""
    found = ENDPOINTS.get(endpoint)
    if found is None:
        return []
    fields = _fields(body) or {}
    return [name for name in found.limits if name in fields] or list(found.limits[:1])
