"""The broker's API: what is asked on `infermq.api.<verb>.<tenant>.<key>`, and the answers.

Always JSON. An answer with the header `Infermq-Kind: error` is an ErrorBody, every other is the verb's answer.
"""

from enum import StrEnum
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import Meta

from schemas.job import CustomId, Lane, Metadata
from schemas.outcome import Failure, Usage
from schemas.units import Ms, NanoUsd
from schemas.worker import WorkerBeat


class State(StrEnum):
    """Of a job. The last five are terminal."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    DEAD = "dead"


TERMINAL = frozenset({State.SUCCEEDED, State.FAILED, State.EXPIRED, State.CANCELLED, State.DEAD})


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """What went wrong, where, the limit: the `error` of every refusal, at every door."""

    code: str
    message: str
    field: str | None = None
    limit: int | None = None


class ErrorBody(msgspec.Struct, frozen=True):
    error: Problem


class BatchCreate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Asking again with the same id answers the batch as it is."""

    id: UUID
    lane: Lane = Lane.BULK
    deadline_ms: Annotated[int, Meta(ge=0, le=10**15)] | None = None
    """For its jobs that have none of their own."""
    metadata: Metadata = {}


class BatchSeal(msgspec.Struct, frozen=True):
    """No more jobs will come: `jobs` were submitted, and the batch is complete when as many are settled."""

    id: UUID
    jobs: Annotated[int, Meta(ge=0, lt=2**31)]


class BatchRef(msgspec.Struct, frozen=True):
    id: UUID


class BatchList(msgspec.Struct, frozen=True, omit_defaults=True):
    """Newest first; `before` is the last id of the page before."""

    limit: Annotated[int, Meta(ge=1, le=1000)] = 20
    before: UUID | None = None


class BatchStatus(StrEnum):
    OPEN = "open"
    """Jobs may still be added."""
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"


class Counts(msgspec.Struct, frozen=True):
    """Jobs of a batch by where they are."""

    admitted: int = 0
    succeeded: int = 0
    failed: int = 0
    expired: int = 0
    cancelled: int = 0
    dead: int = 0

    def settled(self) -> int:
        return self.succeeded + self.failed + self.expired + self.cancelled + self.dead


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    id: UUID
    status: BatchStatus
    lane: Lane
    created_ms: Ms
    sealed_ms: Ms | None
    completed_ms: Ms | None
    deadline_ms: Ms | None
    jobs: int | None
    """How many it was sealed with. None: still open."""
    counts: Counts
    usage: Usage
    cost_nano_usd: NanoUsd
    metadata: dict[str, str]


class Batches(msgspec.Struct, frozen=True):
    batches: tuple[Batch, ...]


class BatchResults(msgspec.Struct, frozen=True, omit_defaults=True):
    """A page of results in the order in which they were recorded, after `cursor`: `limit`, or fewer large ones."""

    id: UUID
    cursor: str | None = None
    limit: Annotated[int, Meta(ge=1, le=5000)] = 500


class Execution(msgspec.Struct, frozen=True, kw_only=True):
    """One delivery of an attempt that really ran: the unit of cost."""

    attempt: int
    delivery: int
    deployment: str
    worker: str
    outcome: str
    """succeeded, failed, expired, cancelled or released."""
    failure: str | None
    """The kind of failure."""
    waste: bool
    """Its work did not become the job's result."""
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
    """The OpenAI response; `null` unless it succeeded."""
    failure: Failure | None
    usage: Usage
    """Of all its executions."""
    cost_nano_usd: NanoUsd
    attempts: int
    total_ms: Ms
    """Admitted to settled."""


class ResultPage(msgspec.Struct, frozen=True):
    results: tuple[Result, ...]
    cursor: str | None
    """Where to go on; None only if there is nothing yet and none was given."""
    completed: bool
    """The batch is completed and this page is its last."""
    more: bool = False
    """There was more already when the page was read; maybe not to be read yet, while an older transaction is open."""


class JobRef(msgspec.Struct, frozen=True):
    id: UUID


class HoldCode(StrEnum):
    """What can hold a deployment, a model or a job. Of several, a refusal bears the first."""

    BUSY = "busy"
    THROTTLED = "throttled"
    UPSTREAM_DOWN = "upstream_down"
    PAUSED = "paused"
    """Its workers offer no slots, and do not say why."""
    DAILY_CAP = "daily_cap"
    DENIED = "denied"
    DRAINING = "draining"
    NO_WORKER = "no_worker"
    UNKNOWN_DEPLOYMENT = "unknown_deployment"
    UNKNOWN_MODEL = "unknown_model"
    BACKING_OFF = "backing_off"
    """The job's last attempt failed, and it is tried again later."""


class Hold(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why something waits."""

    code: HoldCode
    message: str
    """One line for people, which names the deployment or the model."""
    until_ms: Ms | None = None
    """When it will have passed by itself, if that is known."""


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """Where a job stands that waits, and why it does."""

    ahead: int
    """The jobs of its flow (its model, lane and tenant) that come first; counted up to a thousand."""
    more_ahead: bool = False
    """There are more than that."""
    tried: tuple[str, ...] = ()
    """Deployments that failed it, and leave it to others."""
    holds: tuple[Hold, ...] = ()
    """Empty: nothing holds it but the jobs before it."""


class JobShow(msgspec.Struct, frozen=True, kw_only=True):
    """All that the ledger knows of a job but its prompt."""

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
    """The OpenAI response, once it succeeded, else `null`."""
    waiting: Waiting | None = None
    """While it waits."""


class CatalogApply(msgspec.Struct, frozen=True):
    toml: str


class CatalogShow(msgspec.Struct, frozen=True):
    """The active revision; `toml` as it was written."""

    number: int
    applied_ms: Ms
    toml: str


class Nothing(msgspec.Struct, frozen=True):
    """A request without parameters."""


class LaneBacklog(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    lane: Lane
    waiting: int
    oldest_ms: Ms
    """How long its first job has waited."""


class PoolStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What the workers of a deployment can take. Those that drain are left out, but for `workers`."""

    deployment: str
    workers: int
    slots: int
    reserve: int
    running: int
    """Dispatched attempts in their engines."""
    interactive: int
    """Interactive attempts beside those."""
    hold: Hold | None
    """Why no waiting job would start here now."""


class ModelStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A model of the active catalog, or one that is gone from it while jobs wait for it."""

    model: str
    deployments: tuple[str, ...]
    """Of its route, in order. Empty: it is gone from the catalog."""
    waiting: int
    holds: tuple[Hold, ...]
    """Why none of its jobs would start now: what holds each deployment of the route."""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What a broker sees right now."""

    name: str
    """The broker that answers."""
    version: str
    now_ms: Ms
    """Its clock, to compare with one's own."""
    database_now_ms: Ms
    leader: str | None
    term: int
    revision: int | None
    workers: tuple[WorkerBeat, ...]
    backlog: tuple[LaneBacklog, ...]
    pools: tuple[PoolStatus, ...] = ()
    models: tuple[ModelStatus, ...] = ()


class ResultNotice(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One entry of the live feed `infermq.result.<tenant>.<batch|->`, which carries a JSON list of these."""

    job: UUID
    state: State
    custom_id: CustomId | None = None
