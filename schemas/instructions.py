"""Defines instructions: recorded orders over many jobs, which brokers carry out in pages; and how they are shown."""

from enum import StrEnum
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import Meta

from schemas.units import Ms


class InstructionKind(StrEnum):
    """What is to be done with the jobs."""

    CANCEL = "cancel"
    CHANGE = "change"
    RETRY = "retry"
    REPLAY = "replay"
    REQUEUE = "requeue"
    EXPAND = "expand"
    """Make the jobs of a batch out of the lines of a file."""


class Instruction(msgspec.Struct, frozen=True, kw_only=True):
    """How far an instruction is. It goes on by itself, whoever gave it and whichever broker took it."""

    id: UUID
    """A UUIDv7, made by whoever gave it. The batch that it makes, if it makes one, has the same."""
    kind: InstructionKind
    key: str
    """The key of whoever gave it."""
    made_ms: Ms
    what: msgspec.Raw
    """What was asked."""
    counts: dict[str, int]
    """How many jobs it did what with, so far."""
    ended_ms: Ms | None
    """When it had done all. None: it goes on."""
    failure: str | None = None
    """Why it ended early."""


class InstructionRef(msgspec.Struct, frozen=True):
    id: UUID


class InstructionList(msgspec.Struct, frozen=True, omit_defaults=True):
    """List instructions, the newest first. `before` is the last id of the previous page."""

    limit: Annotated[int, Meta(ge=1, le=1000)] = 20
    before: UUID | None = None


class Instructions(msgspec.Struct, frozen=True):
    instructions: tuple[Instruction, ...]
