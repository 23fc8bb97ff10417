"""Takes jobs by the message, as over NATS: `POST /v1/bundles?lane=bulk&model=small-chat`."""

from collections.abc import Mapping

from broker.core.principal import Principal
from broker.doors.http.reading import Headers, Receive, body_of, traceparent_of
from broker.service.refusal import Refusal
from broker.service.submissions import SubmissionService
from schemas.api import Problem, Submitted
from schemas.codec import BUNDLE_BYTES, CONTENT_TYPE, JSON, TRACEPARENT
from schemas.job import BODY_BYTES, Lane

MOST_BYTES = max(BUNDLE_BYTES, BODY_BYTES) + 256 * 1024
"""The largest body of a job with all that belongs to it, and more than a message of several jobs should have."""


async def take(
    service: SubmissionService, principal: Principal, query: Mapping[str, str], receive: Receive, headers: Headers
) -> Submitted:
    """Store a message of jobs. Raises: Refusal, Unavailable."""
    lane, model = _lane(query.get("lane", Lane.BULK)), query.get("model", "")
    name = headers.get(b"idempotency-key", b"").decode("latin-1")
    message = await body_of(receive, headers, most_bytes=MOST_BYTES)
    kind = headers.get(b"content-type", JSON.encode()).decode("latin-1")
    passed = {CONTENT_TYPE: kind}
    if (traceparent := traceparent_of(headers)) is not None:
        passed[TRACEPARENT] = traceparent
    return await service.bundle(principal, lane, model, message, headers=passed, name=name)


def _lane(name: str) -> Lane:
    try:
        return Lane(name)
    except ValueError as error:
        what = f"there is no lane {name[:20]!r}: there are {', '.join(Lane)}"
        raise Refusal(Problem("bad_request", what, "lane")) from error
