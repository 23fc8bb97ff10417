"""What the roles and the use-cases are given: time, chance, the streams, whoever calls, and the areas of the ledger.

Each method of an area is one transaction. It raises Unavailable, Conflict or BadData as `broker.errors` says, and what
its docstring adds.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from broker.core.records import (
    ONLY_SHARD,
    Admitted,
    BatchInfo,
    DeadLetter,
    Entry,
    Flow,
    Leadership,
    OpenJob,
    Pick,
    Place,
    Running,
    Settled,
    Shard,
    Spend,
    Verdict,
    WaitingJob,
)
from broker.core.relay import Answered, Erred, Streamed
from schemas.api import Batch, BatchCreate, JobShow, LaneBacklog, ResultPage
from schemas.catalog import Revision
from schemas.job import Attempt
from schemas.units import Ms

Clock = Callable[[], Ms]
"""Milliseconds since the epoch."""

Entropy = Callable[[], int]
"""At least 74 uniformly random bits, for ids."""


class StreamAdmin(Protocol):
    """Declares what a broker needs of JetStream, and changes what is there but different. Its methods raise Conflict."""

    async def declare(self) -> None:
        """Declare all streams and buckets, and the consumers of intake and settle."""

    async def declare_pool(self, deployment: str, *, slots: int, lease_s: float) -> None:
        """Declare the consumers that a deployment's workers share; `slots` is what they can run in all."""


class Caller(Protocol):
    """Who asked, as the relay sees it. The calls come one after the other; none of them raises.

    A door that notices that its caller left tells the relay, and lets a call that waits for the caller return.
    """

    async def start(self) -> None:
        """A piece follows. An error that comes without it can still choose how the answer begins."""

    async def piece(self, piece: Streamed) -> None:
        """Returns when the caller can take the next. Pieces wait in a bounded buffer meanwhile."""

    async def alive(self) -> None:
        """A worker is at work on the request, though there is nothing to show for it."""

    async def end(self, end: Answered | Erred) -> None:
        """The last word, and the first too if the request is refused."""


class IntakeLedger(Protocol):
    """What intake commits."""

    async def batches_of(self, ids: Collection[UUID]) -> dict[UUID, BatchInfo]: ...

    async def admit(self, entries: Sequence[Entry]) -> Admitted:
        """Take jobs in, with their batches' counts. An id that is known with the same content is the same job."""


class DeadLetterLedger(Protocol):
    async def record(self, dead_letters: Sequence[DeadLetter]) -> None:
        """Keep what cannot be a job or an outcome; a message that is kept already stays as it is."""


class BacklogLedger(Protocol):
    """What waits, as the dispatch leader reads it."""

    async def flows(self) -> list[Flow]:
        """Those with waiting jobs; its cost depends on the number of flows, not of jobs."""

    async def page(self, flow: Flow, *, after: Place | None, limit: int) -> list[WaitingJob]:
        """A page of the flow in its order, keys only."""

    async def move_due(self, now: Ms, *, limit: int) -> list[tuple[Flow, Place]]:
        """Move up to `limit` jobs whose time has come into the backlog, and say where they stand there."""

    async def next_due(self) -> Ms | None:
        """The earliest instant at which a delayed job is to be moved into the backlog."""


class AttemptLedger(Protocol):
    async def dispatch(
        self, picks: Sequence[Pick], *, term: int, now: Ms, shard: Shard = ONLY_SHARD
    ) -> list[Attempt]:
        """Queued → running for those that still wait, in order, with their bodies. Raises: Deposed."""

    async def running(self) -> list[Running]:
        """Every attempt that is dispatched and not settled."""

    async def attempts_of(self, running: Sequence[Running]) -> list[Attempt]:
        """Those that still run this very attempt, to be published again."""


class OpenJobLedger(Protocol):
    async def open_jobs(self, ids: Collection[UUID]) -> dict[UUID, OpenJob]:
        """What must be known of those that are not settled."""


class SettlementLedger(OpenJobLedger, Protocol):
    async def settle(self, verdicts: Sequence[Verdict], *, now: Ms) -> Settled:
        """Record a group; repeating it changes nothing and answers the same ends. Raises: DayNotKept."""


class LeaderLedger(Protocol):
    """The lease of each shard's dispatch leader, by the database's clock."""

    async def lead(self, holder: str, *, lease_ms: int, shard: Shard = ONLY_SHARD) -> int | None:
        """Take or renew the lease of the shard's leader: its term, or None while another holds it."""

    async def step_down(self, holder: str, term: int, *, shard: Shard = ONLY_SHARD) -> None:
        """Give the lease up, if it is still of this term."""


class SpendLedger(Protocol):
    async def today(self, now: Ms) -> dict[str, Spend]:
        """What each deployment has cost today (UTC)."""


class BatchLedger(Protocol):
    """The batches of each tenant; another tenant's are not found."""

    async def create(self, ask: BatchCreate, tenant: str, now: Ms) -> Batch:
        """An open batch; one that has the id already, as it is. Raises: Conflict, when the id is another tenant's."""

    async def seal(self, batch: UUID, tenant: str, jobs: int, now: Ms) -> Batch | None: ...

    async def find(self, batch: UUID, tenant: str) -> Batch | None: ...

    async def page(self, tenant: str, limit: int, before: UUID | None) -> tuple[Batch, ...]:
        """The newest first; `before`: only those that are older than this one."""

    async def results(self, batch: UUID, tenant: str, cursor: str | None, limit: int) -> ResultPage | None:
        """In the order recorded, those after the cursor. Raises: ValueError, for a cursor that is none."""


class JobLedger(Protocol):
    async def find(self, job: UUID, tenant: str) -> JobShow | None:
        """All that is recorded of a job; another tenant's is not found."""


class CatalogLedger(Protocol):
    async def apply(self, toml: str, by: str, now: Ms) -> Revision:
        """Record a new revision. Raises: CatalogError; Conflict, when another was applied at the same moment."""

    async def active(self) -> tuple[Revision, str] | None:
        """The newest revision, and its text as it was written. Raises: CatalogError, when a newer broker wrote it."""


class StatusLedger(Protocol):
    async def backlog(self, now: Ms) -> list[LaneBacklog]:
        """What waits, by model and lane; its cost grows with their number."""

    async def leader(self, *, shard: Shard = ONLY_SHARD) -> Leadership | None:
        """Who leads the shard; None, when its lease has run out."""

    async def database_now(self) -> Ms:
        """The time by the database's clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """All areas of one ledger. Whoever composes a broker gives each role and each use-case its own."""

    intake: IntakeLedger
    dead_letters: DeadLetterLedger
    backlog: BacklogLedger
    attempts: AttemptLedger
    settlement: SettlementLedger
    leadership: LeaderLedger
    spend: SpendLedger
    batches: BatchLedger
    jobs: JobLedger
    catalogs: CatalogLedger
    status: StatusLedger
