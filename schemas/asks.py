"""Defines single jobs as they are submitted over HTTP."""

from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from schemas.endpoints import CHAT, EndpointPath
from schemas.job import CustomId, Lane, Metadata, Priority
from schemas.units import Name

_WEEK_S = 7 * 24 * 3600


class JobAsk(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A job, to be run when its turn comes."""

    model: Name
    body: msgspec.Raw
    """The request, as it would be sent to the endpoint. It need name no model."""
    endpoint: EndpointPath = CHAT.path
    lane: Lane = Lane.STANDARD
    id: UUID | None = None
    """A UUIDv7. Sent again with the same id, it is the same job. None: one is made."""
    custom_id: CustomId | None = None
    metadata: Metadata | None = None
    timeout_s: Annotated[float, Meta(gt=0, le=_WEEK_S)] | None = None
    """How long its result is worth waiting for, in seconds. None: the default of its lane."""
    deadline_ms: Annotated[int, Meta(ge=0, le=10**15)] | None = None
    """The same as an instant, in ms since the epoch."""
    priority: Priority | None = None
    max_attempts: Annotated[int, Meta(ge=1, le=20)] | None = None
    idempotency_key: CustomId | None = None
    """Stands for this job, whatever its id: the same request with the same key is the same job."""


class JobChangeAsk(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to change of a job that waits."""

    lane: Lane | None = None
    deadline_ms: Annotated[int, Meta(ge=0, le=10**15)] | None = None
    timeout_s: Annotated[float, Meta(gt=0, le=_WEEK_S)] | None = None
    """Counted from now."""
    priority: Priority | None = None


class JobAccepted(msgspec.Struct, frozen=True, kw_only=True):
    """A job that is accepted: it will end, and never be lost."""

    id: UUID
    object: Literal["job"] = "job"
    state: Literal["accepted"] = "accepted"
    model: str
    lane: Lane
    custom_id: str | None
