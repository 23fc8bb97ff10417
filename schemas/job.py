"""Defines what a producer submits, a Job, and what a worker gets, an Attempt."""

from enum import StrEnum
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import Meta

from schemas.endpoints import EndpointPath
from schemas.units import NO_NUL, AttemptNumber, DurationMs, Instant, Name, Seal, Subject

BODY_BYTES = 256 * 1024
"""The largest request body that travels inline."""


class Lane(StrEnum):
    """The priority class of a job: someone waits for it, it is due soon, or it is due by its deadline.

    A submitted job may be of the interactive lane, too. An interactive *request* is one that a relay answers.
    """

    INTERACTIVE = "interactive"
    STANDARD = "standard"
    BULK = "bulk"


CustomId = Annotated[str, Meta(min_length=1, max_length=512)]
Label = Annotated[str, Meta(max_length=512)]
StoredLabel = Annotated[str, Meta(max_length=512, pattern=NO_NUL)]
"""A producer's label as admission lets it through."""
MOST_LABELS = 16
Metadata = Annotated[dict[Annotated[str, Meta(max_length=64)], Label], Meta(max_length=MOST_LABELS)]


MOST_PRIORITY = 100
Priority = Annotated[int, Meta(ge=-MOST_PRIORITY, le=MOST_PRIORITY)]
"""The order among one tenant's jobs of a model and lane: higher first, then by deadline."""


class JobFields(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All fields of a job but its body. Tenant, key, lane and model are tokens of its subject, never fields."""

    endpoint: EndpointPath
    id: UUID | None = None
    batch: UUID | None = None
    line: Annotated[int, Meta(ge=1, lt=2**31)] | None = None
    custom_id: CustomId | None = None
    deadline_ms: Annotated[int, Meta(ge=0, le=10**15)] | None = None
    """The instant after which a result is worthless, in ms since the epoch. None: see the next field."""
    deadline_in_ms: Annotated[int, Meta(ge=1, le=10**12)] | None = None
    """How long after its admission a result is worthless, whatever the producer's clock says. None: the lane's default."""
    max_attempts: Annotated[int, Meta(ge=1, le=20)] | None = None
    priority: Priority | None = None
    """None: its batch's, or 0."""
    idempotency_key: CustomId | None = None
    metadata: Metadata | None = None


class Job(JobFields, frozen=True, kw_only=True, omit_defaults=True):
    """One inference request as submitted in MessagePack. Its body is a bin that holds JSON."""

    body: bytes


class JsonJob(JobFields, frozen=True, kw_only=True, omit_defaults=True):
    """One inference request as submitted in JSON. Its body is a nested object."""

    body: msgspec.Raw


class Attempt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One try at a job, handed to a pool: the payload of RUN and NOW."""

    job: UUID
    number: AttemptNumber
    """Counted from 1 by the dispatcher, or by the relay for an interactive request."""
    tenant: Name
    lane: Lane
    model: Name
    deployment: Name
    endpoint: Name
    body: Annotated[bytes, Meta(max_length=BODY_BYTES)]
    admitted_ms: Instant
    deadline_ms: Instant
    dispatched_ms: Instant
    left_ms: DurationMs
    """The time from dispatch to the deadline, both by the dispatching broker's clock. A worker counts it from receipt, on a
    steady clock: it compares its own clock with no instant of a broker.
    """
    reply_to: Subject | None = None
    """Where the relay of an interactive request listens for chunks and the final body. None: nobody listens."""
    key: Name | None = None
    """Set only with `reply_to`, like custom_id and metadata, since the ledger does not have the job yet then."""
    custom_id: StoredLabel | None = None
    metadata: Annotated[dict[StoredLabel, StoredLabel], Meta(max_length=16)] | None = None
    traceparent: StoredLabel | None = None
    is_stray: bool = False
    """Whether neither its message nor its report was found in any stream: it must run, also on a worker that has reported
    it, since that report is gone."""
    seal: Seal = b""
    """What proves that a broker made the attempt. The worker returns it in its report."""
    max_output_tokens: Annotated[int, Meta(ge=1, le=10_000_000)] | None = None
    """How many tokens to generate at most if the body does not say. None: what the catalog tells the worker of the model.

    Set only if the job is pinned to a deployment off its model's route, whose workers are told nothing of that model.
    """
    group: UUID | None = None
    """Set if the attempt runs apart: its worker takes nothing else until it and the others of its group are over."""
