"""The verbs of the API over HTTP: `POST /v1/verbs/{verb}` with the same JSON as over NATS."""

from collections.abc import Mapping
from typing import Any

import msgspec

from broker.core.principal import Principal
from broker.doors.http.reading import Headers, Receive, body_of
from broker.doors.operations import Operation, invalid
from broker.service.refusal import Refusal
from schemas.api import Problem
from schemas.codec import UNREADABLE, jsoned
from schemas.subjects import Verb

Operations = Mapping[Verb, Operation[Any]]
MOST_BYTES = 8 * 1024 * 1024
"""As much as a message of our NATS servers may have, which is what can be asked there."""


def verb_of(name: str) -> Verb:
    """Raises: Refusal."""
    try:
        return Verb(name)
    except ValueError as error:
        raise Refusal(Problem("unknown_route", f"there is no verb {name[:50]!r}")) from error


async def answer(operation: Operation[Any], principal: Principal, receive: Receive, headers: Headers) -> bytes:
    """Answer one call. Raises: Refusal, Unavailable, and as the use-case does."""
    body = await body_of(receive, headers, most_bytes=MOST_BYTES)
    try:
        ask = msgspec.json.decode(body or b"{}", type=operation.request)
    except msgspec.ValidationError as error:
        raise Refusal(invalid(str(error))) from error
    except UNREADABLE as error:
        raise Refusal(Problem("bad_request", "the request is not a JSON object")) from error
    return jsoned(await operation.use_case(principal, ask))
