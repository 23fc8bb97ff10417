"""Defines dead letters: jobs that are out of attempts or end their workers, and messages that are no jobs or no outcomes."""

from enum import StrEnum
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import Meta

from schemas.job import BODY_BYTES, Lane
from schemas.units import Instant, Ms, Name, Text

MOST_AT_ONCE = 10_000
"""The most dead letters that one call requeues or drops."""


class DeadWhat(StrEnum):
    """What a dead letter is."""

    JOB = "job"
    """A job that ended as `dead`. Its cause is the kind of its last failure."""
    MESSAGE = "message"
    """A message that could not be read, believed or recorded. See DeadCause."""


class DeadCause(StrEnum):
    """Why a message is a dead letter."""

    NOT_A_JOB = "not_a_job"
    UNSTORABLE = "unstorable"
    """A job that Postgres cannot store."""
    NOT_AN_OUTCOME = "not_an_outcome"
    """A report or rulings that cannot be read."""
    FALSE_SEAL = "false_seal"
    """A report or rulings that no broker of this system sealed, or a report that oversteps its deployment."""
    UNRECORDABLE = "unrecordable"
    """An outcome that can be read and not recorded."""
    MAX_DELIVERIES = "max_deliveries"
    """JetStream delivered it as often as it may."""
    TERMINATED = "terminated"
    """A worker could not read it, and stopped its delivery."""


class DeadFilter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which dead letters. One must match all that is given."""

    what: DeadWhat | None = None
    causes: Annotated[tuple[Name, ...], Meta(max_length=50)] = ()
    """Any of these: kinds of failures, or a DeadCause."""
    model: Name | None = None
    batch: UUID | None = None
    """Jobs of this batch. Messages are of none."""
    since_ms: Instant | None = None
    """It died, or came, at this instant or later."""
    until_ms: Instant | None = None
    tenant: Name | None = None
    """Whose. None: those of the caller's tenant; to an operator, all."""


class DeadList(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Count dead letters by their causes."""

    filter: DeadFilter = DeadFilter()


class DeadGroup(msgspec.Struct, frozen=True, kw_only=True):
    """The dead letters of one cause."""

    what: DeadWhat
    cause: str
    count: int
    first_ms: Ms
    last_ms: Ms
    models: dict[str, int]
    """How many are of which model, the most frequent first; not all, if there are many models."""
    example: UUID
    """The newest of them."""
    reason: str
    """What is said of the example."""
    advice: str
    """What to do about it."""


class DeadGroups(msgspec.Struct, frozen=True):
    groups: tuple[DeadGroup, ...]


class DeadEach(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """List single dead letters, the newest first. `before` is the last id of the previous page."""

    filter: DeadFilter = DeadFilter()
    limit: Annotated[int, Meta(ge=1, le=1000)] = 20
    before: UUID | None = None


class DeadLine(msgspec.Struct, frozen=True, kw_only=True):
    """What a list says of a dead letter. Its id is the job's, or one that is made for a message."""

    id: UUID
    what: DeadWhat
    cause: str
    at_ms: Ms
    """When the job died, or the message came."""
    reason: str
    tenant: str | None = None
    """None: nobody can tell whose it is."""
    model: str | None = None
    batch: UUID | None = None
    custom_id: str | None = None
    attempts: int = 0
    size_bytes: int = 0
    """The size of the message, or of the job's body."""
    stream: str | None = None
    subject: str | None = None
    """Where a message came from."""
    sequence: int | None = None


class DeadPage(msgspec.Struct, frozen=True):
    letters: tuple[DeadLine, ...]


class DeadRef(msgspec.Struct, frozen=True, omit_defaults=True):
    """Show a dead letter, with a piece of its bytes from `offset` on."""

    id: UUID
    offset: Annotated[int, Meta(ge=0, le=10**9)] = 0


class DeadShow(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter, with a piece of its bytes: of a job, the body of its request; of a message, its payload."""

    letter: DeadLine
    headers: dict[str, str]
    advice: str
    piece: bytes
    """From the offset that was asked for. There is more until `size_bytes` of the letter are read."""


class DeadDrop(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Drop dead letters: these, or those that match. Messages are deleted, jobs leave the list and stay in the ledger."""

    ids: Annotated[tuple[UUID, ...], Meta(max_length=1000)] = ()
    filter: DeadFilter | None = None
    limit: Annotated[int, Meta(ge=1, le=MOST_AT_ONCE)] = 1000
    """At most so many of those that match, the newest first."""
    dry_run: bool = False


class DeadRequeue(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Run dead letters again: a message is published again, a job is submitted again as a new one.

    What was submitted can be edited: its model, and its body by a merge patch (RFC 7396).
    """

    ids: Annotated[tuple[UUID, ...], Meta(max_length=1000)] = ()
    filter: DeadFilter | None = None
    limit: Annotated[int, Meta(ge=1, le=MOST_AT_ONCE)] = 1000
    dry_run: bool = False
    lane: Lane = Lane.BULK
    """Of the new jobs. A message keeps its own."""
    model: Name | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=10**9)] | None = None
    patch: Annotated[str, Meta(max_length=BODY_BYTES)] | None = None
    """The text of a JSON object."""
    payload: Annotated[bytes, Meta(max_length=BODY_BYTES)] | None = None
    """What to send instead of a message: of one only."""


class DeadSkipped(msgspec.Struct, frozen=True):
    id: UUID
    why: Text


class DeadDone(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it."""

    messages: int = 0
    jobs: int = 0
    """How many of each were requeued or dropped; would be, in a dry run."""
    skipped: tuple[DeadSkipped, ...] = ()
    """Those that were left as they are, and why; the first few."""
    left: int = 0
    """How many were left as they are."""
    more: bool = False
    """Whether more match than the limit."""
    dry_run: bool = False
    instructions: tuple[UUID, ...] = ()
    """What submits the jobs again, in pages, one for each tenant: `infermq instruction show` says how far it is.

    The batch of the new jobs has the same id.
    """
