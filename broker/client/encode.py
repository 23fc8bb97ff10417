"""Encodes jobs, bodies and names for the wire, and refuses what the broker could not read before it is sent."""

import re
from collections.abc import Mapping
from typing import Any

from broker.client.errors import RequestRefused
from schemas import subjects
from schemas.api import Problem
from schemas.api_keys import ApiKey, BadKey, parse_key
from schemas.codec import Undecodable, decode_job, jsoned, packed, place_of
from schemas.endpoints import CHAT
from schemas.job import BODY_BYTES, Job
from schemas.units import LONGEST_NAME

_TOKEN_BYTES = 900
"""The longest name in a subject, escaped. NATS closes a connection that sends a control line of more than 4096 bytes, and
four names stand in one."""
_REST_BYTES = 64 * 1024
"""The most that a job without its body may have: more than its longest texts need."""


def body_of(body: Mapping[str, Any] | bytes) -> bytes:
    """Encode a request body as JSON; bytes are JSON already. Raises: RequestRefused, if JSON cannot hold it."""
    return body if isinstance(body, bytes) else json_of(body, "body_not_json", "body")


def json_of(value: object, code: str, field: str | None = None) -> bytes:
    """Encode a value as JSON. Raises: RequestRefused, with this code and field, if JSON cannot hold it."""
    try:
        return jsoned(value)
    except _UNWRITABLE as error:
        raise RequestRefused(Problem(code, f"JSON cannot hold it: {error}", field)) from error


_UNWRITABLE = (UnicodeEncodeError, OverflowError, RecursionError)


def payload_of(job: Job) -> bytes:
    """Encode a job as MessagePack. Raises: RequestRefused, if intake could not read it or no message could hold it."""
    size = len(job.body)
    if size > BODY_BYTES:
        message = f"the body is {size} bytes, the limit is {BODY_BYTES}: split the request or shorten the prompt"
        raise RequestRefused(Problem("body_too_large", message, "body", BODY_BYTES))
    try:
        payload = packed(job)
        decode_job(payload, None)
    except Undecodable as error:
        what, path = place_of(str(error.__cause__))
        raise RequestRefused(Problem("bad_job", what, path.removeprefix(".") or None)) from error
    except _UNWRITABLE as error:
        raise RequestRefused(Problem("bad_job", str(error), _unwritable(job))) from error
    if len(payload) > size + _REST_BYTES:
        message = f"it has {len(job.endpoint)} characters: it is an address such as {CHAT.path}"
        raise RequestRefused(Problem("endpoint_not_served", message, "endpoint"))
    return payload


def _unwritable(job: Job) -> str | None:
    """Return the name of the field that cannot be encoded."""
    for name in job.__struct_fields__:
        try:
            packed(getattr(job, name))
        except _UNWRITABLE:
            return name
    return None


def check_name(field: str, name: str, code: str = "bad_name") -> None:
    """Refuse a name that no subject can carry. Raises: RequestRefused."""
    fits = 1 <= len(name) <= LONGEST_NAME and len(subjects.token(name)) <= _TOKEN_BYTES
    if not fits or _SURROGATE.search(name):
        message = f"{name[:20]!r} has {len(name)} characters: a name has 1 to {LONGEST_NAME}, fewer beyond ASCII"
        raise RequestRefused(Problem(code, message, field, LONGEST_NAME))


def read_key(api_key: str) -> ApiKey:
    """Read the text of a key. Raises: RequestRefused."""
    try:
        return parse_key(api_key.strip())
    except BadKey as error:
        raise RequestRefused(Problem("bad_key", f"this is no API key: {error}")) from error


_SURROGATE = re.compile("[\ud800-\udfff]")
