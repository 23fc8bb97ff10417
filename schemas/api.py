"""Defines the broker's API: the requests on `infermq.api.<verb>.<tenant>.<key>`, and their answers.

All are JSON. An answer with the header `Infermq-Kind: error` is an ErrorBody; any other is the answer of the verb.
"""

from enum import StrEnum
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import Meta

from schemas.control import Pause
from schemas.job import CustomId, Lane, Metadata, Priority, StoredLabel
from schemas.outcome import Failure, Usage
from schemas.units import Instant, Ms, Name, NanoUsd
from schemas.worker import WorkerBeat


class State(StrEnum):
    """The state of a job. The last five are terminal."""

    ACCEPTED = "accepted"
    """It is in SUBMIT and not in the ledger yet."""
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    DEAD = "dead"


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """What went wrong, in which field, and the limit: the `error` of every refusal, at every door."""

    code: str
    message: str
    field: str | None = None
    limit: int | None = None
    retry_after_ms: Annotated[int, Meta(ge=0)] | None = None
    """When to try again, counted from now. None: it is not known, or the same request will fail again."""


class ErrorBody(msgspec.Struct, frozen=True):
    error: Problem


class Submitted(msgspec.Struct, frozen=True):
    """The answer to a message of jobs over HTTP, once it is stored."""

    jobs: int


class BatchCreate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Create a batch. A second request with the same id is answered with the batch as it is."""

    id: UUID
    lane: Lane = Lane.BULK
    deadline_ms: Annotated[int, Meta(ge=0, le=10**15)] | None = None
    """The deadline of its jobs that have none of their own."""
    priority: Priority = 0
    """The priority of its jobs that have none of their own."""
    metadata: Metadata = {}
    webhook: UUID | None = None
    """The endpoint that is told of its end, whatever that listens to; beside those that listen to all batches."""


class BatchSeal(msgspec.Struct, frozen=True):
    """Seal a batch: `jobs` were submitted and no more will come. It is complete once that many are settled."""

    id: UUID
    jobs: Annotated[int, Meta(ge=0, lt=2**31)]


class BatchRef(msgspec.Struct, frozen=True):
    id: UUID


class HoldCode(StrEnum):
    """What can hold a deployment, a model or a job. If several do, a refusal carries the first."""

    BUSY = "busy"
    THROTTLED = "throttled"
    UPSTREAM_DOWN = "upstream_down"
    NO_SLOTS = "no_slots"
    """Its workers offer no slots and do not say why."""
    SPEND_UNKNOWN = "spend_unknown"
    """It has a daily cap, and the broker could not read lately what it has spent."""
    DAILY_CAP = "daily_cap"
    DENIED = "denied"
    PAUSED = "paused"
    """Somebody paused it: `infermq resume` ends that."""
    DRAINING = "draining"
    NO_WORKER = "no_worker"
    UNKNOWN_DEPLOYMENT = "unknown_deployment"
    UNKNOWN_MODEL = "unknown_model"
    BACKING_OFF = "backing_off"
    """The job's last attempt failed, and it will be tried again later."""
    CANCELLING = "cancelling"
    """The job's batch was cancelled, and the job will be ended in a moment."""
    SUSPECTED = "suspected"
    """The job's worker died while it ran, and it waits for a run apart from others."""


class Hold(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why something waits."""

    code: HoldCode
    message: str
    """One line for people, which names the deployment or the model."""
    until_ms: Ms | None = None
    """When the hold will end by itself, if that is known."""


class BatchStatus(StrEnum):
    OPEN = "open"
    """Jobs may still be added."""
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    CANCELLING = "cancelling"
    """Nothing of it starts any more. Its waiting jobs are being ended, and what runs is told to stop."""
    CANCELLED = "cancelled"
    """It was cancelled, and all its jobs have ended."""


class BatchList(msgspec.Struct, frozen=True, omit_defaults=True):
    """List batches, the newest first. A batch must match all that is given."""

    limit: Annotated[int, Meta(ge=1, le=1000)] = 20
    before: UUID | None = None
    """The last id of the previous page."""
    statuses: Annotated[tuple[BatchStatus, ...], Meta(max_length=8)] = ()
    """Any of these; empty: any status."""
    lane: Lane | None = None
    since_ms: Instant | None = None
    """Batches that were created at this instant or later."""
    until_ms: Instant | None = None
    """Batches that were created before this instant."""
    metadata: Annotated[dict[StoredLabel, StoredLabel], Meta(max_length=16)] = {}
    """Pairs that the batch's metadata has, beside any others."""
    tenant: Name | None = None
    """Whose batches. None: the caller's own tenant's. Only operators may name another."""


class Counts(msgspec.Struct, frozen=True):
    """How many jobs of a batch were admitted, and how many are in each terminal state."""

    admitted: int = 0
    succeeded: int = 0
    failed: int = 0
    expired: int = 0
    cancelled: int = 0
    dead: int = 0

    def settled(self) -> int:
        return self.succeeded + self.failed + self.expired + self.cancelled + self.dead


class Merged(msgspec.Struct, frozen=True, kw_only=True):
    """What a batch and its retries came to together: each line counts once, where its last retry has brought it."""

    counts: Counts
    usage: Usage
    """The tokens of all executions."""
    cost_nano_usd: NanoUsd
    is_completed: bool
    """Whether the batch and all its retries are complete."""


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    id: UUID
    status: BatchStatus
    lane: Lane
    created_ms: Ms
    sealed_ms: Ms | None
    completed_ms: Ms | None
    deadline_ms: Ms | None
    jobs: int | None
    """How many jobs it was sealed with. None: it is still open."""
    counts: Counts
    usage: Usage
    cost_nano_usd: NanoUsd
    metadata: dict[str, str]
    cancel_ms: Ms | None = None
    """When it was cancelled. None: it was not."""
    priority: int = 0
    refused: int = 0
    """How many jobs came for it when it had all the jobs that it was sealed with. Each has failed, outside of the batch."""
    holds: tuple[Hold, ...] = ()
    """Why none of its jobs starts, if somebody paused it, its lane or its tenant, or cancelled it."""
    retry_of: UUID | None = None
    """The batch whose failures it retries."""
    root: UUID | None = None
    """The first batch of a chain of retries, with whose results its own are merged."""
    is_replay: bool = False
    """Whether its jobs are replays."""
    of_file: bool = False
    """Whether its jobs are the lines of a file that is stored: a broker makes them, and seals it then."""
    retries: tuple[UUID, ...] = ()
    """Its retries, and those of its retries, the oldest first. Only in the answers to `batch-show`, like the next field."""
    merged: Merged | None = None
    """None: it was not retried."""
    failures: dict[str, int] = {}
    """How many of its jobs ended otherwise than succeeded, by kind, the most first; of a hundred thousand at most. Only in
    the answers to `batch-show`.
    """
    ahead: int | None = None
    """While none of its jobs has ended: how many jobs of other batches, or of none, come before the first of its jobs that
    waits, in its flow; counted up to a thousand. Only in the answers to `batch-show`.
    """
    more_ahead: bool = False
    """Whether there are more than were counted."""
    webhook: UUID | None = None
    """The endpoint that is told of its end, beside those that listen to it."""

    def never_came(self) -> int:
        """Return how many of its jobs were accepted and lost. It is complete without them, since it was cancelled."""
        return 0 if self.completed_ms is None else max(0, (self.jobs or 0) - self.counts.settled())

    def without_result(self) -> int:
        """Return how many jobs were sent and have none: they were refused, or will never come."""
        return self.refused + self.never_came()

    def without_success(self) -> int:
        """Return how many jobs have ended without success, or will never come."""
        return self.counts.settled() - self.counts.succeeded + self.without_result()


class Batches(msgspec.Struct, frozen=True):
    batches: tuple[Batch, ...]


class BatchResults(msgspec.Struct, frozen=True, omit_defaults=True):
    """Read a page of results after `cursor`, in the order of their recording: at most `limit`, fewer if they are large."""

    id: UUID
    cursor: Annotated[str, Meta(max_length=100)] | None = None
    limit: Annotated[int, Meta(ge=1, le=5000)] = 500
    own: bool = False
    """Whether to leave its retries out. Otherwise, what failed is replaced by what its retries came to."""
    final: bool = False
    """Whether a page ends before a failure that an open retry may still replace."""


class Execution(msgspec.Struct, frozen=True, kw_only=True):
    """One delivery of an attempt that a worker really ran: the unit of cost."""

    id: UUID
    """A UUIDv7 that the worker made when it started."""
    attempt: int
    delivery: int
    """How often the attempt had been delivered, as NATS counts."""
    deployment: str
    worker: str
    outcome: str
    """succeeded, failed, expired, cancelled or released; lost, if its worker died before it could report."""
    failure: str | None
    """The kind of failure; None if it did not fail."""
    waste: bool
    """Whether its work did not become the job's result."""
    mended: bool = False
    """Whether its answer held what is no JSON (a byte that is no UTF-8, half a character, NaN), which was replaced."""
    usage: Usage
    cost_nano_usd: NanoUsd
    cost_source: str
    started_ms: Ms
    queue_ms: Ms
    ttft_ms: Ms | None
    run_ms: Ms


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The recorded end of a job."""

    job: UUID
    custom_id: str | None
    line: int | None
    state: State
    model: str
    body: msgspec.Raw
    """The OpenAI response if the job succeeded; if it was cancelled while it ran, what it had answered until then; else
    `null`."""
    failure: Failure | None
    usage: Usage
    """The tokens of all its executions."""
    cost_nano_usd: NanoUsd
    attempts: int
    total_ms: Ms
    """The time from admitted to settled."""


class ResultPage(msgspec.Struct, frozen=True):
    results: tuple[Result, ...]
    cursor: str | None
    """Where the next page begins. None only if there is no result yet and no cursor was given."""
    completed: bool
    """Whether the batch is completed and this is its last page."""
    more: bool = False
    """There was more already when the page was read; maybe not to be read yet, while an older transaction is open."""


class JobRef(msgspec.Struct, frozen=True):
    id: UUID


class JobCancel(msgspec.Struct, frozen=True):
    """Cancel jobs of the caller's tenant."""

    ids: Annotated[tuple[UUID, ...], Meta(min_length=1, max_length=1000)]


class CancelAnswer(StrEnum):
    """What a cancel came to for one job. It and the job's end exclude each other: what is recorded first stays."""

    CANCELLED = "cancelled"
    """It waited, or was an interactive request under way, and has ended as cancelled by this call."""
    CANCELLING = "cancelling"
    """It runs. Its worker is told to stop, and it never runs again."""
    ON_ARRIVAL = "on_arrival"
    """It is not in the ledger yet, and will be cancelled when it comes there."""
    ENDED = "ended"
    """It had ended before, in the state that is given."""
    UNKNOWN = "unknown"
    """There is no such job of this tenant."""


class JobCancelled(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a cancel came to for one job."""

    id: UUID
    answer: CancelAnswer
    state: State | None = None
    """Its state after the call. None: it is unknown."""


class JobsCancelled(msgspec.Struct, frozen=True):
    """One answer for each id, in the order asked."""

    jobs: tuple[JobCancelled, ...]


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """The place of a waiting job in its flow, and why it waits."""

    ahead: int
    """How many jobs of its flow (its model, lane and tenant) come before it; counted up to a thousand."""
    more_ahead: bool = False
    """Whether there are more than were counted."""
    tried: tuple[str, ...] = ()
    """The deployments that failed it; it is left to the others."""
    suspected: bool = False
    """Whether its worker died while it ran, so that it waits for a run apart."""
    holds: tuple[Hold, ...] = ()
    """What holds it. Empty: only the jobs before it."""


class JobShow(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is known of a job, except its prompt. One that is `accepted` may still be refused by intake."""

    id: UUID
    state: State
    lane: Lane
    model: str
    endpoint: str
    batch: UUID | None
    line: int | None
    custom_id: str | None
    attempt: int
    max_attempts: int
    admitted_ms: Ms
    deadline_ms: Ms
    dispatched_ms: Ms | None
    settled_ms: Ms | None
    not_before_ms: Ms | None
    failure: Failure | None
    usage: Usage
    cost_nano_usd: NanoUsd
    metadata: dict[str, str]
    executions: tuple[Execution, ...]
    body: msgspec.Raw
    """The OpenAI response if the job succeeded; if it was cancelled while it ran, what it had answered until then; else
    `null`."""
    waiting: Waiting | None = None
    """Why it waits; None if it does not."""
    cancel_ms: Ms | None = None
    """Since when a running job is to be cancelled. None: it is not."""
    priority: int = 0
    """Among its tenant's jobs of its model and lane; higher first."""
    replay_of: UUID | None = None
    """The job that it repeats."""


class CatalogApply(msgspec.Struct, frozen=True, omit_defaults=True):
    """Make a catalog the active one. The text that is active already makes no new revision."""

    toml: Annotated[str, Meta(max_length=4_000_000)]
    dry_run: bool = False
    """Only check it, and say what it would change."""


class CatalogShow(msgspec.Struct, frozen=True):
    """The active revision of the catalog, with `toml` as it was written."""

    number: int
    applied_ms: Ms
    toml: str
    warnings: tuple[str, ...] = ()
    """What is allowed in it and probably not meant. Only in the answer to `apply`."""
    changes: tuple[str, ...] = ()
    """What is different from the revision before: `+` came, `-` went, `~` changed. Only in the answer to `apply`."""
    is_new: bool = True
    """Whether `apply` made a revision. If not, `number` is the one that is active."""
    note: str | None = None
    """What is unusual about the revision in force where the broker answers."""


class Nothing(msgspec.Struct, frozen=True):
    """A request without parameters."""


class LaneBacklog(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    lane: Lane
    waiting: int
    oldest_ms: Ms
    """How long the oldest job has waited."""


class PoolStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What the workers of a deployment can take. Draining workers count only in `workers`."""

    deployment: str
    workers: int
    slots: int
    reserve: int
    running: int
    """How many dispatched attempts their engines run."""
    interactive: int
    """How many interactive attempts they run beside those."""
    hold: Hold | None
    """Why no waiting job would start here now; None if one would."""
    requests_waiting: int = 0
    """How many interactive requests wait for a slot, at all brokers, as far as the workers were told."""


class ModelStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A model of the active catalog, or one that is no longer in it although jobs wait for it."""

    model: str
    deployments: tuple[str, ...]
    """The deployments of its route, in order. Empty: the model is no longer in the catalog."""
    waiting: int
    holds: tuple[Hold, ...]
    """Why none of its jobs would start now: what holds each deployment of its route."""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the system as one broker sees it now."""

    name: str
    """The name of the broker that answers."""
    version: str
    now_ms: Ms
    """The time by the broker's clock, to compare with the caller's."""
    database_now_ms: Ms
    leader: str | None
    term: int
    revision: int | None
    """The revision of the catalog that is in force. None: none is."""
    workers: tuple[WorkerBeat, ...]
    backlog: tuple[LaneBacklog, ...]
    pools: tuple[PoolStatus, ...] = ()
    models: tuple[ModelStatus, ...] = ()
    pauses: tuple[Pause, ...] = ()
    """What people have paused."""
    catalog_note: str | None = None
    """What is unusual about the revision in force: it is not the ledger's, or could not be compared with it."""


class ResultNotice(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One entry of a message on `infermq.result.<tenant>.<batch|->`, which is a JSON list of these."""

    job: UUID
    state: State
    custom_id: CustomId | None = None
