"""Reads where each job stands, straight from the tables."""

from typing import NamedTuple, TypeVar
from uuid import UUID

import msgspec

from broker.ledger.connection import Connection
from schemas.control import PauseKind
from schemas.job import Lane
from schemas.units import Ms

T = TypeVar("T")
WAITS = frozenset({"waiting", "delayed", "suspect", "parked"})
OPEN = WAITS | {"running"}


class Standing(NamedTuple):
    """Where a job stands."""

    place: str
    """`absent`, one of the places of open jobs, or the state in which it ended."""
    attempt: int = 0
    is_marked: bool = False
    """Whether it runs and is to be cancelled."""

    @property
    def is_open(self) -> bool:
        return self.place in OPEN

    @property
    def waits(self) -> bool:
        return self.place in WAITS

    def __repr__(self) -> str:
        return f"{self.place} {self.attempt}{' (to be cancelled)' if self.is_marked else ''}"


ABSENT = Standing("absent")


class Seen(NamedTuple):
    """What the tables say of a job."""

    standing: Standing
    tenant: str
    model: str
    lane: Lane
    rank: int
    batch: UUID | None
    deadline_ms: Ms
    not_before_ms: Ms | None
    places: int
    """In how many of waiting, delayed, running and results it stands: one."""
    answer: str | None
    """A digest of its result."""


_ALL = """
select (select coalesce(max(term), 0) from infermq.leader) as term,
       (select number from infermq.control_version) as controls,
       (select json_agg(b) from (
            select id, completed_ms, jobs as sealed, cancel_ms, succeeded + failed + expired + cancelled + dead as ended
              from infermq.batches) b) as batches,
       (select json_agg(p) from (select kind, name from infermq.pauses) p) as pauses,
       (select json_agg(j) from (
            select j.id, j.state, j.attempts, j.tenant, j.model, j.lane, -j.priority as rank, j.batch,
                   j.deadline_ms,
                   w.attempt as waiting, d.attempt as delayed, d.not_before_ms, d.is_parked,
                   d.suspicion is not null as is_suspect, r.attempt as running,
                   r.cancel_ms is not null as is_marked, num_nonnulls(w.job, d.job, r.job, res.job) as places,
                   md5(coalesce(res.body, ''::bytea)) as answer
              from infermq.jobs j
              left join infermq.waiting w on w.job = j.id
              left join infermq.delayed d on d.job = j.id
              left join infermq.running r on r.job = j.id
              left join infermq.results res on res.job = j.id) j) as jobs
"""


class _Job(msgspec.Struct, frozen=True):
    id: UUID
    state: str
    attempts: int
    tenant: str
    model: str
    lane: Lane
    rank: int
    batch: UUID | None
    deadline_ms: Ms
    waiting: int | None
    delayed: int | None
    not_before_ms: Ms | None
    is_parked: bool | None
    is_suspect: bool
    running: int | None
    is_marked: bool
    places: int
    answer: str | None

    @property
    def seen(self) -> Seen:
        return Seen(
            self.standing,
            self.tenant,
            self.model,
            self.lane,
            self.rank,
            self.batch,
            self.deadline_ms,
            self.not_before_ms,
            self.places,
            self.answer,
        )

    @property
    def standing(self) -> Standing:
        if self.state != "open":
            return Standing(self.state, self.attempts)
        if self.running is not None:
            return Standing("running", self.running, self.is_marked)
        if self.delayed is not None:
            place = "suspect" if self.is_suspect else "parked" if self.is_parked else "delayed"
            return Standing(place, self.delayed)
        return Standing("nowhere") if self.waiting is None else Standing("waiting", self.waiting)


class SeenBatch(msgspec.Struct, frozen=True):
    id: UUID
    completed_ms: Ms | None
    sealed: int | None
    cancel_ms: Ms | None
    ended: int


class Pause(msgspec.Struct, frozen=True):
    kind: PauseKind
    name: str


class SeenAll(NamedTuple):
    """What the tables said at one moment."""

    jobs: dict[UUID, Seen]
    batches: dict[UUID, SeenBatch]
    pauses: set[tuple[PauseKind, str]]
    fences: tuple[int, int]
    """The newest term, and the version of the controls."""


class Reader:
    """Reads over a connection of its own."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def read(self) -> SeenAll:
        row = await self.connection.fetchrow(_ALL)
        assert row is not None
        jobs = _decoded(row["jobs"], list[_Job])
        return SeenAll(
            {job.id: job.seen for job in jobs},
            {batch.id: batch for batch in _decoded(row["batches"], list[SeenBatch])},
            {(pause.kind, pause.name) for pause in _decoded(row["pauses"], list[Pause])},
            (row["term"], row["controls"]),
        )

    async def owner_of(self, tenant: str, key: str) -> UUID | None:
        owner: UUID | None = await self.connection.fetchval(
            "select job from infermq.idempotency where tenant = $1 and key = $2", tenant, key
        )
        return owner


def _decoded(text: str | None, kind: type[list[T]]) -> list[T]:
    return [] if text is None else msgspec.json.decode(text, type=kind)
