"""The verbs of the API over HTTP: `POST /v1/verbs/{verb}` with the same JSON as over NATS."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec

from broker.core.principal import Principal
from broker.doors.http.reading import Headers, Receive, body_of
from broker.doors.operations import Operation, invalid
from broker.service import Services
from broker.service.refusal import Refusal
from schemas.api import BatchResults, Problem
from schemas.codec import UNREADABLE, jsoned
from schemas.subjects import Verb

Operations = Mapping[Verb, Operation[Any]]
MOST_BYTES = 8 * 1024 * 1024
"""As much as a message of our NATS servers may have, which is what can be asked there."""


LONGEST_WAIT_S = 60
"""Proxies cut connections that are silent for longer."""


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


def waiting(services: Services, wait_s: float) -> Operation[BatchResults]:
    """Return the operation that reads results, but waits for some if there is none."""
    return Operation(BatchResults, partial(services.batches.results_within, wait_s=wait_s))


def seconds(text: str | None) -> float:
    """Read how long a call may be kept waiting; 0 if it does not say. Raises: Refusal."""
    try:
        value = 0.0 if text is None else float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= LONGEST_WAIT_S:
        raise Refusal(
            Problem("bad_request", f"it is a number of seconds from 0 to {LONGEST_WAIT_S}", "wait_s", LONGEST_WAIT_S)
        )
    return value
