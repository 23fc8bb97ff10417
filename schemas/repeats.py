"""Defines how jobs are asked for again: retries of what failed in a batch, and replays of any settled jobs."""

from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import Meta

from schemas.api import State
from schemas.instructions import Instruction
from schemas.job import StoredLabel
from schemas.units import Name

FAILED_STATES = (State.FAILED, State.EXPIRED, State.DEAD)
"""What a retry repeats unless it is told otherwise: what somebody cancelled is left alone."""
MOST_CHECKED = 5000
"""The most custom ids of one request."""
StoredId = Annotated[StoredLabel, Meta(min_length=1)]


class FixedBody(msgspec.Struct, frozen=True):
    """A body to take instead of the one that failed."""

    custom_id: StoredId
    body: msgspec.Raw
    model: Name | None = None
    """None: as the retry says, else the job's own."""
    endpoint: Name | None = None
    """None: the job's own."""


class RetryChoice(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which failures of a batch to retry. Those that succeeded in an earlier retry, or are open in one, are never taken."""

    batch: UUID
    states: Annotated[tuple[State, ...], Meta(max_length=8)] = FAILED_STATES
    kinds: Annotated[tuple[Name, ...], Meta(max_length=50)] = ()
    """Any of these failures (`engine_fault`, …) or codes of refusals. Empty: any failure."""


class RetryCheck(RetryChoice, frozen=True, kw_only=True, omit_defaults=True):
    """Ask which of these custom ids a retry of the same choice would not take."""

    custom_ids: Annotated[tuple[StoredId, ...], Meta(max_length=MOST_CHECKED)]


class RetryChecked(msgspec.Struct, frozen=True):
    not_retried: tuple[str, ...]
    """No job of the batch with this custom id can be retried: it succeeded, is open, failed otherwise, or never was."""


class BatchRetry(RetryChoice, frozen=True, kw_only=True, omit_defaults=True):
    """Retry what failed in a batch, in a new batch with the same lines and custom ids. The answer is an Instruction.

    It begins once as many bodies are there as `fixed_bodies` says. They may come in several requests, alike otherwise.
    """

    id: UUID
    """Of the instruction and of the new batch: a UUIDv7. A second request with it changes nothing."""
    model: Name | None = None
    """None: each job's own."""
    deadline_in_ms: Annotated[int, Meta(ge=1, le=10**12)] | None = None
    """None: the lane's default."""
    fixed_bodies: Annotated[int, Meta(ge=0, lt=2**31)] = 0
    bodies: Annotated[tuple[FixedBody, ...], Meta(max_length=1000)] = ()


class Given(msgspec.Struct, frozen=True):
    """What became of a request to repeat jobs."""

    instruction: Instruction
    is_begun: bool
    """False: more bodies must come."""
