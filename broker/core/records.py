"""The values that the core decides on and the ledger stores.

A job's states and its edges:

    queued ──► running ──► succeeded | failed | expired | cancelled | dead
      ▲          │
      └──────────┘ retry, release; with a not-before time
    queued ──► expired | cancelled | failed | dead
    (insert) ──► any terminal state, for an interactive or a refused job
"""

from collections.abc import Mapping
from typing import NewType
from uuid import UUID

import msgspec

from schemas.api import Batch, ResultPage, State
from schemas.changes import Change
from schemas.dead import DeadCause
from schemas.ids import derived_id
from schemas.job import Lane
from schemas.outcome import Failure, Refused, Usage
from schemas.ruling import Suspicion
from schemas.subjects import SUBMIT, Source, parse_submit
from schemas.units import Ms, NanoUsd

Shard = NewType("Shard", int)
"""What one dispatch leader serves: deployments, and all models that draw on them."""
ONLY_SHARD = Shard(0)
"""So far all deployments are one shard."""


JOB_TOKENS = 1
"""What each job counts for in the order of dispatch, as long as nothing estimates its tokens: jobs are counted."""


class Flow(msgspec.Struct, frozen=True, order=True):
    """The waiting jobs of one (model, lane, tenant): what fairness is between."""

    model: str
    lane: Lane
    tenant: str


class Place(msgspec.Struct, frozen=True, order=True):
    """Where a job stands in its flow: highest priority first, then earliest deadline, then the order of submission."""

    rank: int
    """0 minus the priority."""
    deadline_ms: Ms
    job: UUID


class Head(msgspec.Struct, frozen=True):
    """The first waiting job of a priority of a flow. No other of that priority has an earlier deadline."""

    flow: Flow
    rank: int
    deadline_ms: Ms


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A job as the ledger takes it in."""

    id: UUID
    tenant: str
    key: str
    lane: Lane
    model: str
    endpoint: str
    body: bytes
    body_hash: bytes
    """16 bytes, from `core.body.body_hash`. A job with the same id and the same hash is the same job."""
    admitted_ms: Ms
    deadline_ms: Ms
    max_attempts: int
    priority: int = 0
    batch: UUID | None = None
    line: int | None = None
    custom_id: str | None = None
    metadata: dict[str, str] | None = None
    traceparent: str | None = None
    idempotency_key: str | None = None
    """A job with the same key, model and body of the same tenant is the same job; one with another model or body conflicts.
    A job that is refused uses up no key.
    """
    refused: Refused | None = None
    """Why the job is not admitted. It is then recorded as `failed` at once and never waits."""
    too_late_for: UUID | None = None
    """The batch that did not take the job, since it was full. The job is refused, and counted there as `refused`."""

    @property
    def flow(self) -> Flow:
        return Flow(self.model, self.lane, self.tenant)

    @property
    def place(self) -> Place:
        return Place(-self.priority, self.deadline_ms, self.id)


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A message that cannot be read, with where it came from."""

    subject: str
    stream: str
    sequence: int
    received_ms: Ms
    reason: str
    payload: bytes
    headers: dict[str, str]
    cause: DeadCause

    @property
    def id(self) -> UUID:
        """The same id whenever the message is delivered."""
        return derived_id(f"dead:{self.stream}", self.sequence, self.received_ms)

    @property
    def source(self) -> Source | None:
        """Who submitted it to which model. None: it was not submitted, or nobody can tell."""
        if self.stream != SUBMIT:
            return None
        try:
            return parse_submit(self.subject)
        except ValueError:
            return None


class RequeuedJobs(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Dead jobs that somebody wants to run again, and what to change of them: what an instruction holds."""

    id: UUID
    """Of the instruction, and of the batch of the new jobs."""
    tenant: str
    jobs: tuple[UUID, ...]
    lane: Lane = Lane.BULK
    model: str | None = None
    """None: each job's own."""
    max_tokens: int | None = None
    patch: str | None = None


class BatchInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What admission must know of a batch."""

    id: UUID
    tenant: str
    lane: Lane
    deadline_ms: Ms | None
    priority: int = 0
    submit_lane: Lane | None = None
    """The lane that its jobs are sent with, if it was changed meanwhile."""
    change: Change | None = None
    """What was changed of its jobs meanwhile. It holds for those that come later, whatever they say."""
    jobs: int | None = None
    """How many jobs it was sealed with. None: it is open."""
    is_full: bool = False
    """Whether it takes no more jobs. A sealed batch takes those that were on their way when it was sealed."""


class WaitingJob(msgspec.Struct, frozen=True):
    """A waiting job near the front of its flow, as the dispatcher sees it."""

    place: Place
    attempt: int
    """How many attempts the job has had so far."""
    tried: tuple[str, ...] = ()
    """The deployments that have failed the job. Others are tried first."""
    tokens: int = JOB_TOKENS
    """An estimate."""
    batch: UUID | None = None


class Request(msgspec.Struct, frozen=True):
    """What a waiting job asks for, to estimate its cost."""

    model: str
    endpoint: str
    body: bytes


class Pick(msgspec.Struct, frozen=True):
    """A choice of fairness: this job goes to this deployment."""

    flow: Flow
    place: Place
    deployment: str
    tokens: int = JOB_TOKENS


class Running(msgspec.Struct, frozen=True):
    """A dispatched attempt that the ledger still holds open."""

    job: UUID
    attempt: int
    deployment: str
    flow: Flow
    tokens: int = JOB_TOKENS
    ward: str | None = None
    """The worker that runs it apart. None: it went through RUN."""
    reserved: NanoUsd = NanoUsd(0)
    """What it is estimated to cost, if its deployment has a daily cap. The ledger does not keep it."""


class EndedAttempt(msgspec.Struct, frozen=True):
    """An attempt that holds no slot any more: its job has ended, or waits again."""

    job: UUID
    attempt: int
    flow: Flow
    tokens: int = JOB_TOKENS


class OpenJob(msgspec.Struct, frozen=True, kw_only=True):
    """What settle must know of a job to decide on anything but a success."""

    job: UUID
    state: State
    attempt: int
    uncounted: int
    """How many of the attempts do not count against `max_attempts`."""
    max_attempts: int
    deadline_ms: Ms
    model: str = ""
    tried: tuple[str, ...] = ()
    suspicion: Suspicion | None = None
    """Why it waits for a run apart, or runs apart."""


class Executed(msgspec.Struct, frozen=True, kw_only=True):
    """One delivery that ran, with its cost: a row of `executions`. The ledger decides whether it was wasted."""

    id: UUID
    attempt: int
    delivery: int
    deployment: str
    worker: str
    outcome: str
    failure: str | None
    usage: Usage
    cost_nano_usd: NanoUsd
    cost_source: str
    started_ms: Ms
    queue_ms: Ms
    ttft_ms: Ms | None
    run_ms: Ms
    mended: bool = False
    """Whether its answer held what is no JSON, which was replaced."""


class Kept(msgspec.Struct, frozen=True):
    """What came of comparing once what there is in JetStream with what there should be."""

    mended: tuple[str, ...] = ()
    wrong: dict[str, str] | None = None
    """What is not as it should be now, with the reason. None: it was not compared yet."""
    short: dict[str, str] = {}
    """What has fewer replicas than it should, with the reason. It works."""
    created: dict[str, str] = {}
    """When each stream was made."""
    pulled: frozenset[str] = frozenset()
    """The deployments whose consumer of requests is there. What is published before it is, NOW drops without a word."""


class Spend(msgspec.Struct, frozen=True):
    """What a deployment's executions of some time have cost."""

    cost_nano_usd: NanoUsd
    executions: int
    """How many of them cost anything."""


class SpendReading(msgspec.Struct, frozen=True):
    """What deployments have cost, by name, and what was in the ledger when it was read."""

    today: Mapping[str, Spend]
    """Since 00:00 UTC."""
    week: Mapping[str, Spend]
    """Today and on the six days before."""
    recorded: frozenset[tuple[UUID, int]] = frozenset()
    """Those of the attempts asked for that have an execution: their cost is in what was read."""


class Final(msgspec.Struct, frozen=True):
    """End the job, if it is open and at the verdict's attempt. A success ends it at any attempt."""

    state: State
    body: bytes | None
    failure: Failure | None


class Requeue(msgspec.Struct, frozen=True):
    """Let the job wait again, if it is running the verdict's attempt."""

    not_before_ms: Ms
    counted: bool
    tried: tuple[str, ...] = ()
    """The deployments that should leave the job to others."""
    suspicion: Suspicion | None = None
    """Why it must run apart: then it waits for that, not for a time."""


class Ignore(msgspec.Struct, frozen=True):
    """Change nothing. What a report cost is recorded all the same."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What settle decided on one report or ruling."""

    job: UUID
    attempt: int | None
    """None: the verdict holds for any attempt."""
    transition: Final | Requeue | Ignore
    executed: Executed | None
    """None: nothing ran, since it is on a ruling; or another verdict of the group records this execution."""
    entry: Entry | None = None
    """The job itself, if it is interactive: inserted unless it is known."""


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """A job that has ended, by a settlement or by refusal at intake."""

    job: UUID
    tenant: str
    batch: UUID | None
    custom_id: str | None
    state: State
    model: str
    lane: Lane


class Marked(msgspec.Struct, frozen=True):
    """A running attempt that is to be cancelled."""

    job: UUID
    attempt: int
    deployment: str
    cancel_ms: Ms
    """Since when."""


class JobCancels(msgspec.Struct, frozen=True):
    """What a cancel of jobs came to."""

    ended: tuple[Recorded, ...]
    """Those that waited, and that this cancel ended."""
    marked: tuple[Marked, ...]
    """Those that ran."""
    states: Mapping[UUID, State | None]
    """How each job that the tenant has had ended afterwards; None if it is open."""


class EarlyCancel(msgspec.Struct, frozen=True):
    """A job that was cancelled before it came to the ledger."""

    tenant: str
    job: UUID


class Requeued(msgspec.Struct, frozen=True):
    """A job that a settlement put back."""

    flow: Flow
    place: Place
    due_ms: Ms | None
    """When the job comes into the backlog. None: it waits there already."""


class Settled(msgspec.Struct, frozen=True):
    """What a group of verdicts came to."""

    final: tuple[Recorded, ...]
    requeued: tuple[Requeued, ...]
    ended_attempts: tuple[EndedAttempt, ...] = ()
    """The attempts of both."""


class Admitted(msgspec.Struct, frozen=True, kw_only=True):
    """What a group of entries came to. Entries of known jobs change nothing and appear nowhere here."""

    waiting: tuple[tuple[Flow, Place], ...]
    refused: tuple[Recorded, ...]
    cancelled: tuple[Recorded, ...] = ()
    """Those whose batch was cancelled before they came."""
    conflicts: tuple[Entry, ...]
    """Those whose id belongs to another job already."""


ANY_ENDPOINT = "any"
"""The endpoint of a batch each of whose lines says where it must go."""


class FileBatch(msgspec.Struct, frozen=True, kw_only=True):
    """A batch whose jobs are the lines of a file, as it was asked for."""

    id: UUID
    file: UUID
    lane: Lane
    endpoint: str
    """Where all its lines must go, or ANY_ENDPOINT."""
    window: str
    """The time that it may take, as it was asked for, such as 24h."""
    deadline_ms: Ms
    skips_bad: bool
    """Whether bad lines are left out. If not, one of them fails the batch before anything runs."""
    webhook: UUID | None = None
    """The endpoint that is told of its end."""
    files_last_ms: int | None = None
    """How long its two files can be read after its end. None: as long as the batch."""
    model: str | None = None
    """For lines that name none."""
    priority: int = 0


class BatchFiles(msgspec.Struct, frozen=True):
    """What was asked about the two files that a batch comes to."""

    last_ms: int | None = None
    """How long they can be read after its end. None: as long as the batch."""
    output_deleted_ms: Ms | None = None
    errors_deleted_ms: Ms | None = None


class FileBatchState(msgspec.Struct, frozen=True, kw_only=True):
    """How far a batch is whose jobs are the lines of a file."""

    batch: Batch
    file: UUID
    endpoint: str
    window: str
    skips_bad: bool
    lines: int
    """How many lines it has, once all were checked."""
    bad: int
    """How many of them cannot run."""
    checked_ms: Ms | None
    expanded_ms: Ms | None
    """When all that run were jobs."""
    failed_ms: Ms | None
    """When it was found that nothing of it runs."""
    model: str | None = None
    """The model that all its lines ask. None: several, or they were not all checked yet."""
    files: BatchFiles = BatchFiles()
    retries: tuple[UUID, ...] = ()
    """Those that are complete: what they came to stands for what failed, in its files."""
    ended_ms: Ms | None = None
    """When it and all its retries were complete."""


class ReadPage(msgspec.Struct, frozen=True):
    """A page of results, with the place of each in its batch: whoever has read one goes on after its place."""

    page: ResultPage
    ordinals: tuple[int, ...]


class BadLine(msgspec.Struct, frozen=True):
    """A line that cannot run; 0 is the file."""

    number: int
    code: str
    message: str
    field: str | None = None
    limit: int | None = None
    custom_id: str | None = None


class Audited(msgspec.Struct, frozen=True):
    """Who makes a change, and when: what the record of the change begins with."""

    id: UUID
    at_ms: Ms
    tenant: str
    key: str


class Leadership(msgspec.Struct, frozen=True):
    """Who leads a shard, and in which term. Each new holder begins a new term."""

    holder: str
    term: int


class SumCheck(msgspec.Struct, frozen=True):
    """What a comparison of the ledger with itself came to."""

    disagreements: tuple[str, ...]
    """One sentence each."""
    checked_from_ms: Ms
    """Jobs older than this instant were not compared. 0: all were."""
    is_whole: bool
    """Whether there was time for everything: all jobs, then batches and spend."""
