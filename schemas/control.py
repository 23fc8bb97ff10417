"""Defines what people ask of jobs that were submitted already: to pause and resume them; and the record of who asked."""

from enum import StrEnum
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import Meta

from schemas.units import NO_NUL, Ms


class PauseKind(StrEnum):
    """What can be paused."""

    BATCH = "batch"
    MODEL = "model"
    LANE = "lane"
    TENANT = "tenant"
    DEPLOYMENT = "deployment"


PauseName = Annotated[str, Meta(min_length=1, max_length=200, pattern=NO_NUL)]
"""The name of a model, lane, tenant or deployment, or the id of a batch."""
Reason = Annotated[str, Meta(max_length=500, pattern=NO_NUL)]


class PauseAsk(msgspec.Struct, frozen=True, omit_defaults=True):
    """Start nothing of it from now on. What runs goes on."""

    kind: PauseKind
    name: PauseName
    reason: Reason | None = None


class ResumeAsk(msgspec.Struct, frozen=True):
    """Let it start again."""

    kind: PauseKind
    name: PauseName


class Pause(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that is paused."""

    kind: PauseKind
    name: str
    paused_ms: Ms
    tenant: str
    """Who paused it: the tenant, and the key."""
    key: str
    reason: str | None = None


class PauseAnswer(msgspec.Struct, frozen=True):
    pause: Pause | None
    """How it is paused now. None: it is not."""
    changed: bool
    """Whether this call changed that."""


class Pauses(msgspec.Struct, frozen=True):
    pauses: tuple[Pause, ...]


class AuditList(msgspec.Struct, frozen=True, omit_defaults=True):
    """List who changed what, the newest first. `before` is the last id of the previous page."""

    limit: Annotated[int, Meta(ge=1, le=1000)] = 50
    before: UUID | None = None


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A change that somebody made."""

    id: UUID
    at_ms: Ms
    tenant: str
    key: str
    action: str
    target: msgspec.Raw
    """What was changed, as JSON."""
    before: msgspec.Raw
    """How it was; `null`, if that is not known or there was nothing."""
    after: msgspec.Raw


class AuditPage(msgspec.Struct, frozen=True):
    entries: tuple[AuditEntry, ...]
