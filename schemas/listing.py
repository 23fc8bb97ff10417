"""Defines JobFilter, which says which jobs are meant when many are, and lists of jobs."""

from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import Meta

from schemas.api import State
from schemas.job import CustomId, Lane, StoredLabel
from schemas.outcome import Failure, Usage
from schemas.units import Instant, Ms, Name, NanoUsd

MOST_LISTED = 1000
"""The most jobs of one page."""


class JobFilter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which jobs of a tenant. A job must match all that is given; what is left out matches every job."""

    states: Annotated[tuple[State, ...], Meta(max_length=8)] = ()
    """Any of these. A job that is `accepted` is not in the ledger yet, so no filter finds it."""
    kinds: Annotated[tuple[Name, ...], Meta(max_length=50)] = ()
    """Any of these failures (`engine_fault`, `timed_out`, …), or codes of refusals (`unknown_model`, …)."""
    model: Name | None = None
    lane: Lane | None = None
    batch: UUID | None = None
    custom_id: Annotated[CustomId, Meta(pattern=r"^[^\x00]*$")] | None = None
    since_ms: Instant | None = None
    """Jobs whose id was made at this instant or later. An id is made when its job is submitted."""
    until_ms: Instant | None = None
    """Jobs whose id was made before this instant."""
    metadata: Annotated[dict[StoredLabel, StoredLabel], Meta(max_length=16)] = {}
    """Pairs that the job's metadata has, beside any others."""

    @property
    def is_everything(self) -> bool:
        """Whether every job matches."""
        return self == JobFilter()


class JobList(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """List jobs, the newest first: those submitted before the job `before`, if it is given."""

    filter: JobFilter = JobFilter()
    limit: Annotated[int, Meta(ge=1, le=MOST_LISTED)] = 20
    before: UUID | None = None
    tenant: Name | None = None
    """Whose jobs. None: the caller's own tenant's. Only operators may name another."""


class JobLine(msgspec.Struct, frozen=True, kw_only=True):
    """What a list says of a job."""

    id: UUID
    state: State
    lane: Lane
    model: str
    batch: UUID | None = None
    line: int | None = None
    custom_id: str | None = None
    attempts: int = 0
    """How many attempts it had when it ended. 0 while it is open: `job show` says how many it has had so far."""
    admitted_ms: Ms
    deadline_ms: Ms
    settled_ms: Ms | None = None
    failure: Failure | None = None
    usage: Usage = Usage()
    cost_nano_usd: NanoUsd = NanoUsd(0)
    metadata: dict[str, str] = {}


class JobPage(msgspec.Struct, frozen=True, kw_only=True):
    jobs: tuple[JobLine, ...] = ()
    next: UUID | None = None
    """`before` of the next page. None: there are no more jobs.

    A page may hold fewer jobs than its limit, even none, and have a next one: one call looks at a bounded number of jobs.
    """
