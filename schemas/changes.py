"""Defines changes of jobs that wait: their lane, deadline and priority."""

from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import Meta

from schemas.job import Lane, Priority
from schemas.units import Ms


class Change(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What to change. None: it stays as it is."""

    lane: Lane | None = None
    deadline_ms: Annotated[int, Meta(ge=0, le=10**15)] | None = None
    deadline_in_ms: Annotated[int, Meta(ge=1, le=10**12)] | None = None
    """The same, in milliseconds from now, by the broker's clock."""
    priority: Priority | None = None


class JobChange(msgspec.Struct, frozen=True):
    """Change a job that waits. One that runs or has ended is refused."""

    id: UUID
    change: Change


class JobTerms(msgspec.Struct, frozen=True):
    """What a change can change."""

    lane: Lane
    deadline_ms: Ms
    priority: int


class JobChanged(msgspec.Struct, frozen=True):
    id: UUID
    before: JobTerms
    after: JobTerms


class BatchChange(msgspec.Struct, frozen=True):
    """Change all jobs of a batch that wait, and those that come later. The answer is an Instruction."""

    id: UUID
    """Of the instruction: a new UUIDv7. A second request with it changes nothing more."""
    batch: UUID
    change: Change
