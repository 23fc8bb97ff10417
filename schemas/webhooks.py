"""Defines webhooks: where tenants are told what has ended, and what they were told."""

from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import Meta

from schemas.accounts import Label, TenantName
from schemas.units import NO_NUL, DurationMs, Ms

OVERLAP_MS = Ms(24 * 3_600_000)
"""How long messages are signed with the old secret too after a rotation, unless somebody says."""
MOST_ENDPOINTS = 20
"""Of one tenant. A guess."""


class EventType(StrEnum):
    """What an endpoint can listen to."""

    BATCH_COMPLETED = "batch.completed"
    """All of its jobs have ended."""
    BATCH_FAILED = "batch.failed"
    """Nothing of it runs, since its file has bad lines."""
    BATCH_EXPIRED = "batch.expired"
    """All of its jobs have ended, some because their time was over."""
    BATCH_CANCELLED = "batch.cancelled"
    """It was cancelled, and none of its jobs runs any more."""
    JOB_SETTLED = "job.settled"
    """A job that is in no batch, and that nobody waited for in the lane `interactive`, has ended."""


TEST = "webhook.test"
"""The type of the event that `webhook-test` sends."""
WebhookUrl = Annotated[str, Meta(min_length=1, max_length=2000, pattern=NO_NUL)]
Events = Annotated[tuple[EventType, ...], Meta(max_length=len(EventType))]


class WebhookCreate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Register an endpoint. It is told of these events of its tenant, and of the end of batches that name it."""

    url: WebhookUrl
    events: Events = ()
    """None: it is told of batches that name it, and of nothing else."""
    label: Label | None = None
    """For people."""
    tenant: TenantName | None = None


class WebhookRef(msgspec.Struct, frozen=True, omit_defaults=True):
    id: UUID
    tenant: TenantName | None = None


class WebhookChange(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Change an endpoint. What is None stays as it is."""

    id: UUID
    url: WebhookUrl | None = None
    events: Events | None = None
    label: Label | None = None
    disabled: bool | None = None
    """Nothing is sent to an endpoint that is disabled, nor kept for it."""
    tenant: TenantName | None = None


class WebhookRotate(msgspec.Struct, frozen=True, omit_defaults=True):
    """Make another secret. For the overlap messages are signed with both."""

    id: UUID
    overlap_ms: DurationMs = OVERLAP_MS
    tenant: TenantName | None = None


class WebhookList(msgspec.Struct, frozen=True, omit_defaults=True):
    tenant: TenantName | None = None


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint, without its secret."""

    id: UUID
    tenant: str
    url: str
    events: tuple[str, ...]
    label: str | None = None
    created_ms: Ms
    made_by: str
    """The tenant and the key of whoever made it, with a slash between them."""
    disabled_ms: Ms | None = None
    """Since when nothing is sent to it. None: it is enabled."""
    disabled_why: str | None = None
    old_until_ms: Ms | None = None
    """Until when messages are signed with the secret before the last rotation too."""


class Webhooks(msgspec.Struct, frozen=True):
    webhooks: tuple[Webhook, ...]


class WebhookMade(msgspec.Struct, frozen=True):
    """An endpoint with a new secret. This answer is the only one that has it."""

    webhook: Webhook
    secret: str
    """`whsec_` and base64, as libraries of Standard Webhooks take it."""

    def __repr__(self) -> str:
        return f"WebhookMade({self.webhook!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("webhook", self.webhook)]


class WebhookDeleted(msgspec.Struct, frozen=True):
    id: UUID
    dropped: int
    """How many deliveries waited, which are given up."""


class DeliveryStatus(StrEnum):
    PENDING = "pending"
    """It is sent, at once or again later."""
    DELIVERED = "delivered"
    FAILED = "failed"
    """It is not sent any more, unless somebody asks for it."""


class Try(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One time that a message was sent, and what came of it."""

    at_ms: Ms
    took_ms: Ms
    status: int | None = None
    """The HTTP status of the answer. None: there was none."""
    answer: str | None = None
    """The first of its body."""
    error: str | None = None
    """Why there was no answer, or why that answer is none."""


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """A message about an event to an endpoint."""

    id: UUID
    webhook: UUID
    event: str
    """The id of the event, which is the header `webhook-id`: the same each time it is sent, and to each endpoint."""
    type: str
    data: msgspec.Raw
    made_ms: Ms
    status: DeliveryStatus
    next_ms: Ms | None
    """When it is sent next."""
    delivered_ms: Ms | None
    tries: tuple[Try, ...]
    """The last ones."""


class DeliveryList(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """List deliveries, the newest first. `before` is the last id of the previous page."""

    webhook: UUID | None = None
    id: UUID | None = None
    """Only this one."""
    status: DeliveryStatus | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 20
    before: UUID | None = None
    tenant: TenantName | None = None


class Deliveries(msgspec.Struct, frozen=True):
    deliveries: tuple[Delivery, ...]


class DeliveryResend(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Send messages again, now: these, and those that failed of an endpoint."""

    ids: Annotated[tuple[UUID, ...], Meta(max_length=1000)] = ()
    failed_of: UUID | None = None
    tenant: TenantName | None = None


class DeliveriesResent(msgspec.Struct, frozen=True):
    ids: tuple[UUID, ...]
    """A thousand at most. Those that are unknown, or whose endpoint is disabled or gone, are left out."""
