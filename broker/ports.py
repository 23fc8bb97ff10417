"""What roles and use-cases need from outside: time, chance, callers, the streams, and the areas of the ledger.

Each method of an area is one transaction. It may raise Unavailable, Conflict and BadData (see `broker.errors`), and what
its docstring names.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from broker.core.controls import Controls
from broker.core.dead_letters import Counted
from broker.core.instructions import Carried
from broker.core.keys import Directory, KeyRecord
from broker.core.records import (
    ONLY_SHARD,
    Admitted,
    Audited,
    BadLine,
    BatchInfo,
    DeadLetter,
    EarlyCancel,
    Entry,
    FileBatch,
    FileBatchState,
    Flow,
    Head,
    JobCancels,
    Kept,
    Leadership,
    Marked,
    OpenJob,
    Pick,
    Place,
    ReadPage,
    Recorded,
    Request,
    RequeuedJobs,
    Running,
    Settled,
    Shard,
    SpendReading,
    SumCheck,
    Verdict,
    WaitingJob,
)
from broker.core.relay import Answered, Erred, Streamed
from broker.core.suspects import RunningApart, Turn, WaitingSuspect
from broker.core.webhooks import Came, Due
from schemas.accounts import Key, Tenant
from schemas.api import Batch, BatchCreate, BatchList, JobShow, LaneBacklog, ResultPage, State
from schemas.cancel import CancelChoice, CancelCount
from schemas.catalog import Revision
from schemas.changes import BatchChange, Change, JobChanged
from schemas.control import AuditEntry, Pause, PauseAnswer, PauseKind
from schemas.dead import DeadFilter, DeadLine
from schemas.files import File, FileList, Files, Upload
from schemas.instructions import Instruction
from schemas.job import Attempt
from schemas.listing import JobFilter, JobPage
from schemas.repeats import BatchRetry, Given, Replay, ReplayDiff, ReplayDiffPage, RetryCheck
from schemas.units import Ms
from schemas.webhooks import Deliveries, Delivery, DeliveryList, DeliveryResend, Webhook, WebhookChange

Clock = Callable[[], Ms]
"""Milliseconds since the epoch."""

Entropy = Callable[[], int]
"""At least 74 uniformly random bits, for ids."""


class StreamAdmin(Protocol):
    """Keeps what a broker needs of JetStream: streams, buckets and consumers."""

    @property
    def kept(self) -> Kept:
        """What came of it the last time."""

    @property
    def pulled(self) -> Collection[str]:
        """The deployments that take requests out of NOW, as far as is known since NATS was away last."""

    async def keep(self, pools: Mapping[str, int], *, lease_s: float) -> Kept:
        """Compare what there is with what there should be, and mend the difference. Raises nothing.

        `pools` are the slots of each deployment's workers, added up.
        """


class Caller(Protocol):
    """Whoever sent a request, as the relay sees it. Calls come one after the other, and none of them raises.

    When a door notices that its caller left, it tells the relay, and makes a call that waits for the caller return.
    """

    async def start(self) -> None:
        """The first piece follows. Until this call, a door can still answer with an error status."""

    async def piece(self, piece: Streamed) -> None:
        """Pass a piece on, and return when the caller can take the next. Meanwhile pieces wait in a bounded buffer."""

    async def alive(self) -> None:
        """Signal that a worker is at work on the request, though it has nothing to show yet."""

    async def end(self, end: Answered | Erred) -> None:
        """Pass the end on: the answer or the error. If the request is refused, this is the only call."""


class IntakeLedger(Protocol):
    """Takes submitted jobs in."""

    async def batches_of(self, ids: Collection[UUID]) -> dict[UUID, BatchInfo]: ...

    async def admit(self, entries: Sequence[Entry]) -> Admitted:
        """Record jobs and count them in their batches. A known id with the same content is the same job."""


class DayLedger(Protocol):
    """The days whose jobs the ledger takes. Whatever is of another day is refused with DayNotKept."""

    async def keep(self) -> None:
        """Make the days that an id may be of now, and the next two. A day that was dropped stays so."""


class DeadLetterLedger(Protocol):
    """Messages that cannot be read, and jobs that ended as dead. `tenant` of a filter: None is all tenants'."""

    async def record(self, dead_letters: Sequence[DeadLetter]) -> None:
        """Record messages that cannot be read. One that is recorded already stays as it is."""

    async def count(self, wanted: DeadFilter) -> list[Counted]:
        """Count those that match, by cause and model."""

    async def page(
        self, wanted: DeadFilter, *, limit: int, before: UUID | None = None, ids: Sequence[UUID] | None = None
    ) -> list[DeadLine]:
        """List those that match, the newest first; of these `ids` only, if they are given."""

    async def piece(self, letter: DeadLine, *, offset: int, length: int) -> tuple[dict[str, str], bytes]:
        """Read the headers and a piece of a message, or a piece of the body of a job."""

    async def requeue(
        self,
        ids: Sequence[UUID],
        publish: Callable[[Sequence[DeadLetter]], Awaitable[Sequence[DeadLetter]]],
        audited: Audited,
        asked: object,
    ) -> list[UUID]:
        """Publish messages again, while their rows are held, and mark those that `publish` returns. Return their ids.

        One that was requeued or dropped before is left out.
        """

    async def requeue_jobs(self, ask: RequeuedJobs, audited: Audited, asked: object) -> None:
        """Give an instruction to run dead jobs of a tenant again, in a batch with its id. Raises: Conflict."""

    async def drop(
        self, messages: Sequence[UUID], jobs: Sequence[UUID], audited: Audited, asked: object
    ) -> tuple[int, int]:
        """Delete messages, and take jobs out of the dead letters. Return how many of each."""


class BacklogLedger(Protocol):
    """Tells the dispatch leader what waits."""

    async def heads(self) -> list[Head]:
        """List the first job of each priority of each flow, in order. The cost depends on their number, not that of jobs."""

    async def page(self, flow: Flow, *, after: Place | None, limit: int) -> list[WaitingJob]:
        """Read a page of the flow, in its order, keys only."""

    async def page_past(
        self, flow: Flow, batches: Collection[UUID], *, after: Place | None, now: Ms, limit: int
    ) -> list[WaitingJob]:
        """Read a page of the flow past jobs of these batches, unless they are overdue. It takes long if they are many."""

    async def move_due(self, now: Ms, *, limit: int) -> list[tuple[Flow, Place]]:
        """Move up to `limit` jobs whose time has come into the backlog, and say where they stand there."""

    async def next_due(self) -> Ms | None:
        """Return the earliest time at which a delayed job is due to be moved into the backlog."""


class AttemptLedger(Protocol):
    async def dispatch(
        self, picks: Sequence[Pick], *, term: int, controls: int, now: Ms, shard: Shard = ONLY_SHARD
    ) -> list[Attempt]:
        """Move the picked jobs that still wait from queued to running; return their attempts, in order.

        `controls` is the version of the controls that the choice is by. Raises: Deposed; ControlsChanged, if there is a
        newer one.
        """

    async def running(self) -> list[Running]:
        """List every attempt that is dispatched and not settled."""

    async def overdue(self, before: Ms) -> list[UUID]:
        """List the jobs that run although their deadline passed `before` this instant."""

    async def attempts_of(self, running: Sequence[Running], *, now: Ms) -> list[Attempt]:
        """Read those of the attempts that still run, to publish them again, with the time that is left to them `now`."""

    async def requests_of(self, jobs: Collection[UUID]) -> dict[UUID, Request]:
        """Read what these jobs ask for. There is at least one."""


class SuspectLedger(Protocol):
    """The jobs that are suspected of ending their workers."""

    async def waiting(self) -> list[WaitingSuspect]:
        """List those that wait for a run apart."""

    async def running(self) -> list[RunningApart]:
        """List the attempts that were handed to a worker to run apart, and are not settled."""

    async def dispatch(self, turn: Turn, *, term: int, now: Ms, shard: Shard = ONLY_SHARD) -> list[Attempt]:
        """Move the jobs of a turn that still wait from queued to running; return their attempts. Raises: Deposed."""

    async def clear(self, groups: Collection[UUID]) -> None:
        """Suspect the jobs of these groups no longer that wait: their worker had not died."""


class OpenJobLedger(Protocol):
    async def open_jobs(self, ids: Collection[UUID]) -> dict[UUID, OpenJob]:
        """Read what settle must know of the jobs that are not settled."""


class SettlementLedger(OpenJobLedger, Protocol):
    async def settle(self, verdicts: Sequence[Verdict], *, now: Ms) -> Settled:
        """Record a group. Repeating it changes nothing and returns the same ends. Raises: DayNotKept."""


class SealKeyLedger(Protocol):
    async def agree(self, candidate: bytes) -> bytes:
        """Keep this as the key of the brokers' seals, unless there is one; return the one that is kept."""


class SealKeyCopy(Protocol):
    """The copy of the key in NATS. Raises: Unavailable."""

    async def read(self) -> bytes | None: ...

    async def write(self, key: bytes) -> None: ...


class LeaderLedger(Protocol):
    """The lease of each shard's dispatch leader, by the database's clock."""

    async def lead(self, holder: str, *, lease_ms: int, shard: Shard = ONLY_SHARD) -> int | None:
        """Take or renew the lease of the shard's leader: its term, or None while another holds it."""

    async def step_down(self, holder: str, term: int, *, shard: Shard = ONLY_SHARD) -> None:
        """Give the lease up, if it is still of this term."""


class SpendLedger(Protocol):
    async def read(self, now: Ms, attempts: Collection[tuple[UUID, int]] = ()) -> SpendReading:
        """Read what each deployment has cost today (UTC) and in the last days, and which `attempts` are recorded."""


class BatchLedger(Protocol):
    """The batches of each tenant; another tenant's are not found."""

    async def create(self, ask: BatchCreate, tenant: str, now: Ms) -> Batch:
        """Create an open batch, or return the one with this id. Raises: Conflict, when the id is another tenant's."""

    async def seal(self, batch: UUID, tenant: str, jobs: int, now: Ms) -> Batch | None: ...

    async def find(self, batch: UUID, tenant: str) -> Batch | None: ...

    async def page(self, tenant: str, ask: BatchList) -> tuple[Batch, ...]:
        """List the tenant's batches that match, the newest first."""

    async def results(
        self, batch: UUID, tenant: str, cursor: str | None, limit: int, *, own: bool = False, final: bool = False
    ) -> ResultPage | None:
        """Read the results after the cursor, in the order recorded. Raises: ValueError, for an invalid cursor.

        Unless `own`, what failed is replaced by what its retries came to. `final`: the page ends before a failure that an
        open retry may still replace.
        """

    async def read(
        self, batch: UUID, tenant: str, cursor: str | None, limit: int, *, own: bool = False, final: bool = False
    ) -> ReadPage | None:
        """As `results`, with the place of each."""


class RetryLedger(Protocol):
    """Retries of what failed in a batch of a tenant. Another tenant's is not found."""

    async def not_retried(self, ask: RetryCheck, tenant: str) -> tuple[str, ...] | None:
        """Return those of the custom ids of which a retry would take no job. None: there is no such batch."""

    async def give(self, ask: BatchRetry, tenant: str, by: Audited, *, window: str | None = None) -> Given | None:
        """Record a retry, with its batch, or more of its bodies. None: there is no such batch. Raises: Conflict.

        `window`: how long was asked for, if the batch is made of a file. None: as for that.
        """


class JobLedger(Protocol):
    async def find(self, job: UUID, tenant: str) -> JobShow | None:
        """Read all that is recorded of a job. Another tenant's is not found. The id of a job that was submitted again by its
        key finds the first.
        """

    async def of_key(self, tenant: str, idempotency_key: str) -> tuple[UUID, str, bytes] | None:
        """Find the job that a key of a tenant stands for: its id, its model, and the hash of its endpoint and body."""

    async def page(self, tenant: str, wanted: JobFilter, *, limit: int, before: UUID | None) -> JobPage:
        """List jobs of a tenant that match, the newest first, starting with the one `before` the given job if there is one.

        It looks at a bounded number of jobs: a page with few jobs, or none, may have a next one.
        """


class ReplayLedger(Protocol):
    """Replays of settled jobs of a tenant."""

    async def give(self, ask: Replay, tenant: str, by: Audited) -> Given:
        """Record a replay, with its batch. Raises: Conflict."""

    async def select(self, wanted: JobFilter, jobs: tuple[UUID, ...], tenant: str, after: UUID | None) -> JobPage:
        """Read a page of the settled jobs that match, the oldest first: of these only, if there are any."""

    async def differences(self, ask: ReplayDiff, tenant: str) -> ReplayDiffPage | None:
        """Compare jobs with those that they repeat. None: there is no such batch. Raises: ValueError, for a bad cursor."""


class Blobs(Protocol):
    """The content of files, in pieces (`core.files.PIECE_BYTES`)."""

    async def put(self, file: UUID, number: int, piece: bytes) -> bool:
        """Keep a piece of a file. Pieces come in order, from 0 on.

        False: there is one of this number, which stays as it is.
        """

    async def get(self, file: UUID, number: int) -> bytes | None:
        """Return a piece. None: the file has none of this number."""

    async def drop(self, files: Collection[UUID]) -> None:
        """Forget the content of these files, if there is any."""


class BlobStores(Protocol):
    """Where the content of files is kept, new ones and those of before: each file remembers the name of its store."""

    async def current(self) -> str:
        """Return the name of the store for new files."""

    async def of(self, name: str) -> Blobs:
        """Return a store by its name. Raises: Unavailable, if this broker does not reach it."""


class FileLedger(Protocol):
    """The files of each tenant; another tenant's are not found, nor are those that were deleted or have expired."""

    async def begin(self, file: File, store: str, tenant: str, key: str, *, sha256: bytes | None = None) -> None:
        """Note that a file is being uploaded to a store, with this content if that is known. It is found once finished."""

    async def of_content(self, sha256: bytes, tenant: str, now: Ms) -> Upload | None:
        """Find a file with this content: one that is whole, else one that is being uploaded."""

    async def grew(self, file: UUID, size: int) -> None:
        """Note that so many bytes of an upload are kept, unless it is whole."""

    async def discard(self, file: UUID, now: Ms) -> None:
        """Let an upload that is not whole be dropped."""

    async def finish(self, file: UUID, size: int, now: Ms, *, kept_ms: int | None = None) -> File | None:
        """Note that all of a file is kept. None: it was dropped meanwhile, or is whole already.

        `kept_ms`: how long after it was begun it expires, if it does.
        """

    async def find(self, file: UUID, tenant: str, now: Ms) -> File | None: ...

    async def page(self, tenant: str, ask: FileList, now: Ms) -> Files: ...

    async def expire(self, file: UUID, tenant: str, in_ms: int) -> File | None:
        """Let a file expire so long after it was made. None: there is none."""

    async def delete(self, file: UUID, tenant: str, now: Ms) -> bool:
        """Delete a file. False: there is none."""

    async def store_of(self, file: UUID) -> str | None:
        """Name the store of a file. None: the file was dropped."""

    async def to_drop(self, now: Ms, *, away: Collection[str] = ()) -> dict[str, list[UUID]]:
        """List some files that nobody will read again, by their stores: their content can be dropped, and then they can.

        A day after they were dropped they come once more. Those in stores that are `away` are left for later.
        """

    async def dropped(self, files: Collection[UUID], now: Ms) -> None:
        """Note that the content of files was dropped. Those of which it was dropped a day ago are forgotten."""


class FileBatchLedger(Protocol):
    async def create(self, batch: FileBatch, metadata: dict[str, str], tenant: str, by: Audited) -> File | None:
        """Record a batch whose jobs are the lines of a file, and have them made. None: there is no such file.

        Raises: Conflict, if the id is taken.
        """

    async def find(self, batch: UUID, tenant: str) -> FileBatchState | None: ...

    async def page(self, tenant: str, *, limit: int, before: UUID | None) -> list[FileBatchState]:
        """List the tenant's batches that are made of files, the newest first."""

    async def bad_lines(self, batch: UUID, *, after: int, limit: int) -> list[BadLine]:
        """List the lines that cannot run, in order, starting with the first after the given one; -1 is before all."""

    async def delete_file(self, batch: UUID, tenant: str, which: str, now: Ms) -> bool:
        """Let the `output` or the `errors` of a batch that has ended be read no more. False: there is no such batch."""

    async def results(self, state: FileBatchState, *, after: int, limit: int) -> ReadPage:
        """Read results behind an ordinal; each that failed is replaced by what the complete retries of the state came to."""

    async def sizes(self, state: FileBatchState) -> tuple[int, int]:
        """Return how many bytes its output and its errors have (`core.batch_output`), with the same results."""


class InstructionLedger(Protocol):
    """The orders over many jobs, of each tenant; another tenant's are not found."""

    async def find(self, instruction: UUID, tenant: str) -> Instruction | None: ...

    async def page(self, tenant: str, limit: int, before: UUID | None) -> tuple[Instruction, ...]:
        """List instructions, the newest first, starting with the one `before` the given one if there is one."""

    async def carry_on(self, now: Ms) -> Carried | None:
        """Do one page of the instruction that has waited longest. None: nothing is due, or other brokers are at it."""

    async def next_ms(self) -> Ms | None:
        """Return when the next page of any instruction may run."""


class CancelLedger(Protocol):
    """Cancels jobs and batches. Of a cancel and another end of a job, what is recorded first stays."""

    async def cancel_jobs(self, jobs: Collection[UUID], tenant: str, now: Ms) -> JobCancels:
        """End those of a tenant's jobs that wait, and mark those that run. There is at least one."""

    async def cancel_early(self, jobs: Collection[UUID], tenant: str, now: Ms) -> None:
        """Note that jobs are to be cancelled that are not in the ledger yet."""

    async def early_cancels(self) -> list[EarlyCancel]:
        """List some of those that have come to the ledger since."""

    async def forget_early(self, cancels: Sequence[EarlyCancel], *, made_before: Ms) -> None:
        """Forget these, which were carried out, and all that were made before an instant."""

    async def cancel_batch(self, batch: UUID, tenant: str, audited: Audited) -> bool:
        """Let nothing of a batch start any more. False: it is complete or cancelled already, or the tenant has none."""

    async def mark_batch(self, batch: UUID, now: Ms) -> list[Marked]:
        """Mark what runs of a cancelled batch, and return what was not marked yet."""

    async def end_page(self, batch: UUID, now: Ms, *, limit: int) -> tuple[Recorded, ...]:
        """End up to `limit` jobs of a cancelled batch that wait. It may find fewer than there are: () if there are none."""

    async def complete_without_lost(self, now: Ms, *, cancelled_before: Ms) -> list[UUID]:
        """Complete batches that were cancelled before an instant, of whose jobs all have ended that came. Return them."""

    async def marked(self) -> list[Marked]:
        """List the running attempts that are to be cancelled."""


class CancelOrderLedger(Protocol):
    """Cancels of many jobs, as instructions. The choice names its tenant."""

    async def give(self, instruction: UUID, choice: CancelChoice, by: Audited) -> Instruction:
        """Let nothing start that is chosen, and have all of it ended. Raises: Conflict, if the id is another's."""

    async def count(self, choice: CancelChoice) -> CancelCount:
        """Count what would be cancelled now, up to a bound."""


class CatalogLedger(Protocol):
    async def apply(self, toml: str, by: str, now: Ms, *, after: int | None = None) -> Revision:
        """Record a new revision, which comes `after` the one of this number if one is given.

        Raises: CatalogError; Conflict, when another was applied meanwhile.
        """

    async def active(self) -> tuple[Revision, str] | None:
        """Read the newest revision and its text as written. Raises: CatalogError, when a newer broker wrote it."""


class ControlLedger(Protocol):
    """What people have paused or cancelled."""

    async def read(self) -> Controls: ...

    async def pause(self, pause: Pause, audited: Audited) -> PauseAnswer:
        """Pause it. What is paused already stays as it is."""

    async def resume(self, kind: PauseKind, name: str, audited: Audited) -> PauseAnswer: ...

    async def park(self, batch: UUID, *, now: Ms, limit: int) -> int:
        """Put jobs of a paused batch aside, out of the backlog, so that nobody reads past them. Return how many."""

    async def unpark(self, *, limit: int) -> list[tuple[Flow, Place]]:
        """Put jobs back into the backlog whose batch is paused no more, and say where they stand there."""


class ChangeLedger(Protocol):
    async def change_job(
        self, job: UUID, tenant: str, change: Change, by: Audited
    ) -> tuple[JobChanged, tuple[tuple[Flow, Place], ...]] | State | None:
        """Change a job that waits, with a record of who did. Return how it was and is, and where it may start now.

        Else return the state that it is in; queued, if the deadline is too long after its admission. None: it is not known.
        """

    async def give(self, ask: BatchChange, tenant: str, by: Audited) -> Instruction | None:
        """Change a batch, and give the instruction to change its jobs that wait. None: there is no such batch.

        Raises: Conflict, when the id is another instruction's.
        """


class AuditLedger(Protocol):
    async def page(self, tenant: str | None, limit: int, before: UUID | None) -> tuple[AuditEntry, ...]:
        """List changes, the newest first: those of a tenant, or all."""


class TenantLedger(Protocol):
    """Who pays and is isolated from others."""

    async def create(self, name: str, label: str | None, by: Audited) -> Tenant | None:
        """Record a tenant. None: there is one of this name."""

    async def find(self, name: str, now: Ms) -> Tenant | None: ...

    async def page(self, after: str | None, *, now: Ms, limit: int) -> tuple[Tenant, ...]:
        """List tenants by name, those after the given one."""

    async def disable(self, name: str, by: Audited, *, force: bool) -> tuple[Tenant, bool] | None:
        """Let no key of a tenant in. Return how it is now, and whether this call changed it. None: there is no such tenant.

        Raises: LastOperator, unless forced.
        """

    async def enable(self, name: str, by: Audited) -> tuple[Tenant, bool] | None: ...


class KeyLedger(Protocol):
    """The keys of each tenant; another tenant's are not found."""

    async def version(self) -> int:
        """Read a number that grows with each change of tenants or keys."""

    async def directory(self, *, ended_since: Ms) -> Directory:
        """Read all tenants and keys, except those that ended before an instant."""

    async def create(self, record: KeyRecord, by: Audited) -> Key | None:
        """Record a key. None: there is no such tenant. Raises: Conflict, if another key has the id."""

    async def first(self, record: KeyRecord, by: Audited, *, force: bool) -> Key | None:
        """Record an operator's key, unless there is one that is let in and it is not forced: then return None."""

    async def find(self, tenant: str, key: str) -> Key | None: ...

    async def page(self, tenant: str, after: str | None, *, ended: bool, now: Ms, limit: int) -> tuple[Key, ...]:
        """List the keys of a tenant by id, those after the given one; those that have ended only if `ended`."""

    async def revoke(self, tenant: str, key: str, by: Audited, *, force: bool) -> tuple[Key, bool] | None:
        """End a key for good. Return how it is now, and whether this call changed it. None: there is no such key.

        Raises: LastOperator, unless forced.
        """

    async def rotate(self, old: str, record: KeyRecord, by: Audited, *, until: Ms) -> tuple[Key, Key] | None:
        """Record a key in place of an older one of its tenant, which expires at `until` if not before. Return both.

        None: there is no such key, or it was revoked. Raises: Conflict, if another key has the id.
        """

    async def used(self, uses: dict[str, Ms]) -> None:
        """Record when keys were used last, by their ids."""


class WebhookLedger(Protocol):
    """The endpoints of each tenant, and what they were told; another tenant's are not found.

    None: there is no such endpoint.
    """

    async def create(self, webhook: Webhook, secret: bytes, by: Audited) -> Webhook | None:
        """Record an endpoint. None: there is no such tenant, or it has as many as it may have."""

    async def find(self, webhook: UUID, tenant: str) -> Webhook | None: ...

    async def page(self, tenant: str) -> tuple[Webhook, ...]: ...

    async def change(self, ask: WebhookChange, tenant: str, by: Audited) -> Webhook | None:
        """Change an endpoint. What waits for one that is disabled is given up."""

    async def rotate(self, webhook: UUID, tenant: str, secret: bytes, by: Audited, *, until: Ms) -> Webhook | None:
        """Give an endpoint another secret. Messages are signed with the old one too, until that instant."""

    async def delete(self, webhook: UUID, tenant: str, by: Audited) -> int | None:
        """Forget an endpoint, and give up what waits for it. Return how many messages that were."""

    async def test(self, webhook: Webhook, delivery: UUID, event: UUID, now: Ms) -> Delivery:
        """Have a message sent that means nothing."""

    async def deliveries(self, ask: DeliveryList, tenant: str) -> Deliveries: ...

    async def resend(self, ask: DeliveryResend, tenant: str, now: Ms) -> tuple[UUID, ...]:
        """Have messages sent again. Return which."""


class DeliveryLedger(Protocol):
    """Messages on their way to the endpoints of webhooks."""

    async def claim(self, busy: list[UUID], now: Ms, *, until: Ms, limit: int) -> list[Due]:
        """Take a message that is due to each endpoint, except to the busy ones. It is due again at `until`."""

    async def record(self, due: Due, came: Came, now: Ms) -> None:
        """Record what came of a message. An endpoint that wants no more is disabled."""


class DirectoryCopy(Protocol):
    """The copy of all tenants and keys in NATS. Raises: Unavailable."""

    async def read(self) -> tuple[Directory | None, int]:
        """Read it, if there is one that can be read, with its sequence."""

    async def write(self, directory: Directory, *, instead_of: int) -> None:
        """Write it, unless somebody has written since that sequence. Raises: Unavailable also then."""


class StatusLedger(Protocol):
    async def backlog(self, now: Ms) -> list[LaneBacklog]:
        """Count what waits, by model and lane. The cost grows with the number of waiting jobs."""

    async def leader(self, *, shard: Shard = ONLY_SHARD) -> Leadership | None:
        """Tell who leads the shard. None: nobody does, since its lease has run out."""

    async def database_now(self) -> Ms:
        """Read the database's clock."""


class SumsLedger(Protocol):
    async def check(self, *, within_s: float) -> SumCheck:
        """Compare the ledger with itself: Σ executions = Σ jobs = Σ batches = spend, and each job stands in one place."""


class RetentionLedger(Protocol):
    """Drops records whose time is over, up to `limit` in a call, and returns how many."""

    async def drop_messages(self, before: Ms, *, limit: int) -> int:
        """Delete dead letters that came before this instant."""

    async def drop_dead_jobs(self, before: Ms, *, now: Ms, limit: int) -> int:
        """Take jobs out of the dead letters that died before this instant. They stay in the ledger."""

    async def drop_failures(self, *, limit: int) -> int:
        """Delete the failures of jobs that are gone with their days."""

    async def drop_audit(self, before: Ms, *, limit: int) -> int:
        """Delete entries that were made before this instant."""

    async def drop_keys(self, before: Ms, *, limit: int) -> int:
        """Forget the idempotency keys of jobs that were submitted before this instant."""

    async def drop_instructions(self, before: Ms, *, limit: int) -> int:
        """Delete instructions that ended before this instant, and bodies that came too late for theirs."""

    async def drop_deliveries(self, before: Ms, *, limit: int) -> int:
        """Delete messages to webhooks that were made before this instant and are not sent any more."""

    async def drop_links(self, *, limit: int) -> int:
        """Forget which jobs were repeated by those that are gone with their days."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """All areas of one ledger. The composition root gives each role and each use-case its own area."""

    intake: IntakeLedger
    dead_letters: DeadLetterLedger
    backlog: BacklogLedger
    attempts: AttemptLedger
    settlement: SettlementLedger
    suspects: SuspectLedger
    leadership: LeaderLedger
    spend: SpendLedger
    batches: BatchLedger
    jobs: JobLedger
    retries: RetryLedger
    replays: ReplayLedger
    instructions: InstructionLedger
    files: FileLedger
    stores: BlobStores
    file_batches: FileBatchLedger
    cancels: CancelLedger
    changes: ChangeLedger
    cancel_orders: CancelOrderLedger
    catalogs: CatalogLedger
    controls: ControlLedger
    audit: AuditLedger
    status: StatusLedger
    sums: SumsLedger
    retention: RetentionLedger
    seal_keys: SealKeyLedger
    days: DayLedger
    tenants: TenantLedger
    api_keys: KeyLedger
    webhooks: WebhookLedger
    deliveries: DeliveryLedger
