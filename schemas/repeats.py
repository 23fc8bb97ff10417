"""Defines how jobs are asked for again: retries of what failed in a batch, and replays of any settled jobs."""

from enum import StrEnum
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import Meta

from schemas.api import State
from schemas.instructions import Instruction
from schemas.job import BODY_BYTES, Lane, StoredLabel
from schemas.listing import JobFilter
from schemas.outcome import Usage
from schemas.units import MOST_TOKENS, Instant, Ms, Name, NanoUsd

FAILED_STATES = (State.FAILED, State.EXPIRED, State.DEAD)
"""What a retry repeats unless it is told otherwise: what somebody cancelled is left alone."""
MOST_CHECKED = 5000
"""The most custom ids of one request."""
StoredId = Annotated[StoredLabel, Meta(min_length=1)]


class FixedBody(msgspec.Struct, frozen=True):
    """A body to take instead of the one that failed."""

    custom_id: StoredId
    body: Annotated[str, Meta(max_length=BODY_BYTES)]
    """The JSON text of the body, which is kept as it is."""
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


class FileRetry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Retry what failed in a batch of a file. The new batch is of the same file."""

    id: UUID | None = None
    """Of the new batch: a UUIDv7. A second request with it changes nothing. None: any."""
    states: Annotated[tuple[State, ...], Meta(min_length=1, max_length=8)] = FAILED_STATES
    """How they ended: what was cancelled is retried only if it is named."""
    kinds: Annotated[tuple[Name, ...], Meta(max_length=50)] = ()
    """Any of these failures, which are the codes in the error file. Empty: any failure."""
    model: Name | None = None
    """None: each line's own."""
    completion_window: Annotated[str, Meta(max_length=20)] | None = None
    """How long it may take, from 15m to 7d. None: as long as the first."""


class Given(msgspec.Struct, frozen=True):
    """What became of a request to repeat jobs."""

    instruction: Instruction
    is_begun: bool
    """False: more bodies must come."""


class ReplayChoice(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which settled jobs to run again, and what to change of them."""

    filter: JobFilter = JobFilter()
    """Jobs that are not settled, or were submitted after the replay was asked for, are left out."""
    jobs: Annotated[tuple[UUID, ...], Meta(max_length=1000)] = ()
    """Only these jobs, whatever the filter says of others."""
    model: Name | None = None
    """None: each job's own."""
    deployment: Name | None = None
    """The one deployment that may run them. None: any of their model's route."""
    patch: Annotated[str, Meta(max_length=BODY_BYTES)] | None = None
    """The JSON text of a merge patch (RFC 7396) of each body."""
    max_tokens: Annotated[int, Meta(ge=1, le=MOST_TOKENS)] | None = None
    """The most output tokens, in whichever field the body has it."""


class Replay(ReplayChoice, frozen=True, kw_only=True, omit_defaults=True):
    """Run settled jobs again, as the jobs of a new batch. The answer is an Instruction."""

    id: UUID
    """Of the instruction and of the new batch: a UUIDv7. A second request with it changes nothing."""
    lane: Lane = Lane.BULK
    rate_per_s: Annotated[float, Meta(gt=0, le=1e6)] | None = None
    """How many jobs to make in a second. None: as many as possible."""
    deadline_in_ms: Annotated[int, Meta(ge=1, le=10**12)] | None = None
    """Counted from the request. None: the lane's default, for each job from when it is made."""


class ReplayEstimateAsk(ReplayChoice, frozen=True, kw_only=True, omit_defaults=True):
    """Ask what a replay would come to. One call looks at a part of the jobs; `after` is `next` of the answer before."""

    after: UUID | None = None
    before_ms: Instant | None = None
    """Leave out what was submitted at this instant or later. None: now."""


class ReplayEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """How many of the jobs looked at would be run again, and what they would cost, by what is recorded of them."""

    jobs: int = 0
    by_price: int = 0
    """Jobs whose recorded tokens are counted at the price of where they would run."""
    by_record: int = 0
    """Jobs of which the recorded cost is taken, since they would run as before and no price is known."""
    unknown: int = 0
    """Jobs that are not in the cost: no tokens are recorded of them, or no price is known."""
    usage: Usage = Usage()
    """The recorded tokens, with no more output than the replay allows."""
    cost_nano_usd: NanoUsd = NanoUsd(0)
    next: UUID | None = None
    """None: there are no more jobs."""


class Comparison(StrEnum):
    """What the new job came to, beside the one that it repeats."""

    SAME = "same"
    DIFFERENT = "different"
    NOW_SUCCEEDS = "now_succeeds"
    NOW_FAILS = "now_fails"
    BOTH_FAIL = "both_fail"
    UNKNOWN = "unknown"
    """The old job is gone from the ledger."""


class Side(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one of the two jobs came to."""

    job: UUID
    state: State
    model: str
    deployment: str | None = None
    """Where it ran last. None: it never ran."""
    failure: str | None = None
    """The kind of its failure, or the code of its refusal."""
    usage: Usage = Usage()
    cost_nano_usd: NanoUsd = NanoUsd(0)
    run_ms: Ms | None = None
    """How long its last execution ran. None: it never ran."""
    text: str = ""
    """The beginning of its answer's text."""


class Change(msgspec.Struct, frozen=True):
    """A field of the answer that is not the same. None: it is not there."""

    path: str
    old: str | None
    new: str | None


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """An old and a new job side by side."""

    comparison: Comparison
    custom_id: str | None
    line: int | None
    old: Side | None
    new: Side
    changes: tuple[Change, ...] = ()
    """What is different in their answers: if both are JSON, field by field; else the first place where the texts differ."""
    more_changes: int = 0
    """How many there are beside those."""
    similarity: float | None = None
    """How much of the words of both texts is the same, from 0 to 1. None: nothing to compare, or too long."""


class ReplayDiff(msgspec.Struct, frozen=True, omit_defaults=True):
    """Compare the settled jobs of a replay or a retry with those that they repeat, a page at a time."""

    batch: UUID
    cursor: Annotated[str, Meta(max_length=100)] | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 200


class ReplayDiffPage(msgspec.Struct, frozen=True):
    pairs: tuple[Compared, ...]
    cursor: str | None
    """Where the next page begins. None: there are no more pairs, as far as the jobs have ended."""
