"""Compares what the producers were told, and what the engines really ran, with the ledger."""

import asyncio
import contextlib
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol
from uuid import UUID

import asyncpg
import msgspec
import nats
from nats.errors import Error as NatsLibraryError
from nats.js import JetStreamContext
from nats.js.errors import KeyNotFoundError, NoKeysError

from broker.ledger.connection import SETTINGS, Connection
from broker.roles.leader import LEASE_MS
from schemas import subjects
from schemas.api import CancelAnswer
from schemas.ids import ms_of
from schemas.worker import BEAT_EVERY_MS, WorkerBeat
from tests.chaos.load import FORGER, Load
from tests.sums import disagreements
from tests.transitions.broken import broken_repeats

_READ_S = 0.5
"""How long after a store was deleted what it had said before may be read. Its successor takes longer to start."""
_STREAMS = (subjects.SUBMIT, subjects.RUN, subjects.OUTCOME)
_POLL_S = 0.2
_QUIET_S = 2 * BEAT_EVERY_MS / 1000 + 0.5
"""How long nothing may be seen to be open: longer than what a worker runs can be missing in its beat."""
_LONG_S = 20.0
_KEPT = 40
"""How many batches may be retried or replayed again."""
_SHOWN = 5
"""How many violations of one kind are said."""
FENCE = f"""
create schema if not exists chaos;
create table if not exists chaos.unfenced (at timestamptz default clock_timestamp(), who text, holder text, jobs bigint);
create table if not exists chaos.uncontrolled (at timestamptz default clock_timestamp(), job uuid, why text);
create or replace function chaos.look_at_fence() returns trigger language plpgsql as $$
declare
    led infermq.leader;
begin
    select * into led from infermq.leader where shard = 0;
    -- what a new leader's lease is younger than this may cross a dispatch that began before it
    if exists (select from started) and led.holder <> current_setting('chaos.who', true)
       and clock_timestamp() between led.until - interval '{LEASE_MS - 300} ms' and led.until then
        insert into chaos.unfenced (who, holder, jobs)
        select current_setting('chaos.who', true), led.holder, count(*) from started;
    end if;
    insert into chaos.uncontrolled (job, why)
    select s.job, p.kind || ' ' || p.name || ' is paused'
      from started s join infermq.jobs j on j.id = s.job
      join infermq.pauses p on (p.kind, p.name) in (('model', s.model), ('lane', s.lane), ('tenant', s.tenant),
                                                    ('deployment', s.deployment), ('batch', j.batch::text))
    union all
    select s.job, 'batch ' || b.id || ' is cancelled'
      from started s join infermq.jobs j on j.id = s.job join infermq.batches b on b.id = j.batch
     where b.cancel_ms is not null;
    return null;
end $$;
create or replace trigger fence after insert on infermq.running referencing new table as started
    for each statement execute function chaos.look_at_fence();
"""  # noqa: S608 - our own number
_OPEN = """select (select count(*) from infermq.waiting) + (select count(*) from infermq.delayed)
                + (select count(*) from infermq.running)
                + (select count(*) from infermq.instructions where ended_ms is null)"""


class Server(Protocol):
    @property
    def url(self) -> str: ...


class System(Protocol):
    """What is compared: a Machine, or a cluster."""

    complaints: list[str]
    deleted_s: list[float]

    @property
    def nats(self) -> Server: ...
    @property
    def postgres(self) -> Server: ...
    @property
    def ran(self) -> Path: ...
    def killed(self) -> Collection[int]: ...


class Run(NamedTuple):
    """What an engine really ran."""

    job: UUID
    attempt: str
    execution: UUID
    is_excused: bool
    """Whether its process was killed, or a deleted store may have had its report."""


@dataclass(slots=True)
class Figures:
    """What is counted, and is no fault."""

    jobs: int = 0
    replies: int = 0
    runs: int = 0
    duplicates: int = 0
    """Runs of an attempt after its first."""
    recorded_as_lost: int = 0
    not_covered: int = 0
    """Runs of killed processes, or reported to a deleted store, that the ledger knows nothing of."""
    without_job: int = 0
    """Executions of requests whose broker died before it could say how they ended."""
    forged: int = 0
    """Messages of forged reports and rulings, each refused with a dead letter."""
    lost_with_store: int = 0
    """What only a deleted store had: jobs, replies and runs."""
    executions: int = 0
    wasted: int = 0
    """Successes that ended no job."""
    capped_nano_usd: int = 0
    """What the deployment with a daily cap has cost."""

    def __add__(self, other: "Figures") -> "Figures":
        return Figures(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))

    def set_totals(self, executions: int, *, wasted: int, capped_nano_usd: int) -> None:
        """They are counted from the beginning."""
        self.executions, self.wasted, self.capped_nano_usd = executions, wasted, capped_nano_usd

    def __str__(self) -> str:
        share = 100 * self.wasted / self.executions if self.executions else 0.0
        return (
            f"{self.jobs} jobs, {self.replies} replies, {self.runs} runs: {self.duplicates} duplicates, "
            f"{self.recorded_as_lost} recorded as lost, {self.not_covered} killed or deleted unrecorded, "
            f"{self.without_job} of no job; "
            f"waste {share:.1f} % of all so far; {self.capped_nano_usd / 1e9:.4f} USD under a cap; {self.forged} forged; "
            f"{self.lost_with_store} lost with a deleted store"
        )


@dataclass(slots=True)
class Check:
    """Goes on from one comparison to the next; in the end everything is compared once more."""

    machine: System
    load: Load
    ended: dict[UUID, str] = field(default_factory=dict)
    """The jobs that were accepted and seen to have ended, each in its state."""
    lost_jobs: set[UUID] = field(default_factory=set)
    late: str = ""
    """What was still open when the last settling had taken long."""
    _ran_bytes: int = 0
    _dead_letters: int = 0
    _complaints: int = 0
    _unfenced: int = 0
    _uncontrolled: int = 0
    _runs: defaultdict[UUID, list[Run]] = field(default_factory=lambda: defaultdict(list))

    async def settled(self, within_s: float) -> float:
        """Wait until nothing is open or on its way, and return how long it took. Raises: AssertionError."""
        began = quiet_since = time.monotonic()
        seen, self.late = "nothing could be asked", ""
        while time.monotonic() < began + within_s:
            try:
                async with asyncio.timeout(10):
                    seen = await self._left()
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, NatsLibraryError) as error:
                seen = f"{type(error).__name__}: {error}"
            if seen:
                quiet_since = time.monotonic()
                if not self.late and quiet_since - began > _LONG_S:
                    self.late = seen
            elif time.monotonic() - quiet_since > _QUIET_S:
                return quiet_since - began
            await asyncio.sleep(_POLL_S)
        raise AssertionError(f"not settled within {within_s:.0f} s: {seen}")

    async def _left(self) -> str:
        """What is not done yet; nothing: all is."""
        if not self.load.is_idle():
            return "a producer still tries"
        nc = await nats.connect(
            self.machine.nats.url.split(","), allow_reconnect=False, connect_timeout=2, error_cb=_ignore
        )
        try:
            js = nc.jetstream()
            counts = {name: (await js.stream_info(name)).state.messages for name in _STREAMS}
            running = await _running(js)
        finally:
            await nc.close()
        connection = await asyncpg.connect(self.machine.postgres.url)
        try:
            left = await connection.fetchval(_OPEN)
        finally:
            await connection.close()
        seen = f"{left} jobs or instructions are open, {running} run in workers, messages {counts}"
        return seen if left or running or any(counts.values()) else ""

    async def missing(self) -> list[UUID]:
        """The accepted jobs that only a deleted store had: they must be submitted again."""
        connection = await asyncpg.connect(self.machine.postgres.url)
        try:
            ids = list(self.load.told.accepted)
            rows = await connection.fetch("select id from infermq.jobs where id = any($1::uuid[])", ids)
        finally:
            await connection.close()
        found = {row["id"] for row in rows}
        lost = [
            job for job, one in self.load.told.accepted.items() if job not in found and self._was_deleted(one.at_s)
        ]
        self.lost_jobs.update(lost)
        return lost

    def _was_deleted(self, since_s: float) -> bool:
        """Say whether a store was deleted after a word of NATS's came. The last words of one are read a moment later."""
        return any(since_s < deleted + _READ_S for deleted in self.machine.deleted_s)

    async def compare(self, *, may_repeat: bool) -> tuple[list[str], Figures]:
        """All violations since the last comparison, and the figures. It must have settled."""
        connection = await asyncpg.connect(self.machine.postgres.url, server_settings=SETTINGS)
        figures = Figures(lost_with_store=len(self.lost_jobs))
        self.lost_jobs.clear()
        try:
            async with connection.transaction(isolation="repeatable_read"):
                found = await disagreements(connection)
            found += await self._accepted(connection, figures)
            found += await self._batches(connection)
            found += await self._replies(connection, figures)
            found += await self._announced(connection)
            found += await self._ran(connection, figures, may_repeat=may_repeat)
            found += await self._dead_letters_of(connection, figures)
            found += await self._fence(connection)
            found += await self._orders(connection)
            row = await connection.fetchrow(
                """select count(*) as executions, count(*) filter (where waste and outcome = 'succeeded') as wasted,
                          coalesce(sum(cost_nano_usd) filter (where deployment = 'steady'), 0)::bigint as capped
                     from infermq.executions"""
            )
            assert row is not None
            figures.set_totals(row["executions"], wasted=row["wasted"], capped_nano_usd=row["capped"])
        finally:
            await connection.close()
        found += self.machine.complaints[self._complaints :]
        self._complaints = len(self.machine.complaints)
        found += self.load.told.wrong
        self.load.told.wrong = []
        return found, figures

    async def _accepted(self, connection: Connection, figures: Figures) -> list[str]:
        """Each accepted job has ended, as it may end."""
        accepted = self.load.told.accepted
        states = await _states(connection, list(accepted))
        swept = self.load.orders.ordered.swept
        found = []
        for job, one in accepted.items():
            state = states.get(job)
            if state is None:
                found.append(f"job {job} was accepted and is lost ({one.submission.model})")
            elif state not in one.ends and not (state == "cancelled" and (one.tenant, one.submission.model) in swept):
                words = one.submission.job.body[:80].decode()
                found.append(f"job {job} ended as {state}, it may end as {', '.join(sorted(one.ends))}: {words}")
            else:
                self.ended[job] = state
        figures.jobs = len(accepted)
        accepted.clear()
        return _some(found)

    async def _batches(self, connection: Connection) -> list[str]:
        batches = self.load.told.batches
        rows = await connection.fetch(
            """select id, completed_ms, succeeded + failed + expired + cancelled + dead as ended
                 from infermq.batches where id = any($1::uuid[])""",
            list(batches),
        )
        ended = {row["id"]: row["ended"] for row in rows if row["completed_ms"] is not None}
        found = [
            f"batch {batch} of {jobs} jobs has {ended.get(batch, 'not')} ended"
            for batch, jobs in batches.items()
            if ended.get(batch) != jobs
        ]
        settled = [(self.load.told.owners[batch], batch) for batch in batches]
        self.load.orders.ordered.settled += settled
        batches.clear()
        return _some(found)

    async def _orders(self, connection: Connection) -> list[str]:
        """What was cancelled or paused did not start; each order was carried out, once for each job, and merged by line."""
        ordered = self.load.orders.ordered
        rows = await connection.fetch("select job, why from chaos.uncontrolled order by at")
        found = [f"job {row['job']} started while {row['why']}" for row in rows[self._uncontrolled :]]
        self._uncontrolled = len(rows)
        asked = [job for job, answer in ordered.cancelled.items() if answer is CancelAnswer.CANCELLED]
        states = await _states(connection, asked)
        found += [
            f"job {job} was cancelled, and is {states.get(job)}" for job in asked if states.get(job) != "cancelled"
        ]
        ordered.cancelled.clear()
        found += await broken_repeats(connection)
        open_or_failed = (
            "select id, kind, failure from infermq.instructions where ended_ms is null or failure is not null"
        )
        rows = await connection.fetch(open_or_failed)
        found += [f"{row['kind']} {row['id']}: {row['failure'] or 'it goes on'}" for row in rows]
        for tenant, batch in set(ordered.retried.values()):
            found += await self._merged(connection, tenant, batch)
        ordered.settled = [*ordered.settled, *((tenant, one) for one, (tenant, _) in ordered.retried.items())][
            -_KEPT:
        ]
        ordered.retried.clear()
        ordered.swept.clear()
        return _some(found)

    async def _merged(self, connection: Connection, tenant: str, batch: UUID) -> list[str]:
        """The merged results of a batch have each of its lines once."""
        rows = await connection.fetch("select custom_id from infermq.jobs where batch = $1", batch)
        read = [one.custom_id async for one in self.load.client(tenant).results(batch, wait=False)]
        lines = Counter([row["custom_id"] for row in rows])
        return (
            []
            if Counter(read) == lines
            else [f"the results of batch {batch} are of {len(read)} lines, not {len(rows)}"]
        )

    async def _replies(self, connection: Connection, figures: Figures) -> list[str]:
        """Each answer that a caller had is the result of its job, or of a second attempt that succeeded, too.

        If a worker is killed between its report and its reply, another attempt answers, and is recorded as waste.
        """
        replies = self.load.told.replies
        seconds = await connection.fetch(
            "select id from infermq.executions where job = any($1::uuid[]) and outcome = 'succeeded' and waste",
            list(replies),
        )
        wasted = {str(row["id"]).replace("-", "").encode() for row in seconds}
        rows = await connection.fetch(
            """select j.id, j.state, r.body from infermq.jobs j join infermq.results r on r.job = j.id
                where j.id = any($1::uuid[])""",
            list(replies),
        )
        recorded = {row["id"]: (row["state"], row["body"]) for row in rows}
        found = []
        for job, (body, at_s) in replies.items():
            if job not in recorded and self._was_deleted(at_s):
                figures.lost_with_store += 1
            elif recorded.get(job) != ("succeeded", body) and not any(name in body for name in wasted):
                state = recorded.get(job, ("not recorded", b""))[0]
                found.append(f"request {job} was answered, and is {state}, with another body or none")
        figures.replies = len(replies)
        replies.clear()
        return _some(found)

    async def _announced(self, connection: Connection) -> list[str]:
        announced = self.load.told.announced
        states = await _states(connection, list(announced))
        found = [
            f"the result of job {job} was announced as {state}, and it is {states.get(job, 'not recorded')}"
            for job, (state, _) in announced.items()
            if states.get(job) != state
        ]
        announced.clear()
        return _some(found)

    async def _ran(self, connection: Connection, figures: Figures, *, may_repeat: bool) -> list[str]:
        """Each run of an engine is an execution of the ledger, but for those of killed processes."""
        attempts: Counter[tuple[UUID, str]] = Counter()
        touched = set()
        for run in self._new_runs():
            attempts[run.job, run.attempt] += 1
            self._runs[run.job].append(run)
            touched.add(run.job)
        rows = await connection.fetch(
            """select job, array_agg(id) as ids, count(*) filter (where outcome = 'lost') as lost,
                      exists (select from infermq.jobs j where j.id = job) as has_job
                 from infermq.executions where job = any($1::uuid[]) group by job""",
            list(touched),
        )
        recorded = {row["job"]: set(row["ids"]) for row in rows}
        figures.runs = sum(attempts.values())
        figures.duplicates = sum(n - 1 for n in attempts.values())
        figures.recorded_as_lost = sum(row["lost"] for row in rows)
        figures.without_job = sum(len(row["ids"]) for row in rows if not row["has_job"])
        found = []
        for job in touched:
            runs, ids = self._runs[job], recorded.get(job, set())
            missing = len(runs) - len({run.execution for run in runs} & ids)
            excused = sum(run.is_excused and run.execution not in ids for run in runs)
            figures.not_covered += min(missing, excused)
            if missing > excused:
                found.append(
                    f"job {job} ran {len(runs)} times: {missing} of them are not recorded, and {excused} of those "
                    "were in processes that were killed"
                )
        if not may_repeat:
            found += [
                f"job {job} attempt {n} ran {times} times, without a fault that could be the reason"
                for (job, n), times in attempts.items()
                if times > 1
            ]
        return _some(found)

    def _new_runs(self) -> Iterator[Run]:
        """The runs since the last comparison."""
        text = self.machine.ran.read_bytes()[self._ran_bytes :].decode()
        self._ran_bytes += len(text.encode())
        now_s, now_ms, killed = time.monotonic(), time.time() * 1000, self.machine.killed()
        for line in text.splitlines():
            pid, request = line.split()
            job, attempt, name = request.split(".")
            execution = UUID(name)
            began_s = now_s - (now_ms - ms_of(execution)) / 1000
            yield Run(UUID(job), attempt, execution, int(pid) in killed or self._was_deleted(began_s))

    async def _dead_letters_of(self, connection: Connection, figures: Figures) -> list[str]:
        """Nothing but what was forged may be unreadable or unbelievable, and nothing forged may be recorded."""
        rows = await connection.fetch(
            "select subject, reason from infermq.dead_letters order by received_ms offset $1", self._dead_letters
        )
        self._dead_letters += len(rows)
        found = [f"dead letter of {row['subject']}: {row['reason']}" for row in rows if "seal" not in row["reason"]]
        figures.forged = len(rows) - len(found)
        forged = await connection.fetch("select job from infermq.executions where worker = $1", FORGER)
        found += [f"job {row['job']} has a forged execution" for row in forged]
        return _some(found)

    async def _fence(self, connection: Connection) -> list[str]:
        rows = await connection.fetch("select at, who, holder, jobs from chaos.unfenced order by at")
        found = [
            f"{row['who']} dispatched {row['jobs']} jobs at {row['at']} while {row['holder']} led"
            for row in rows[self._unfenced :]
        ]
        self._unfenced = len(rows)
        return _some(found)


async def _running(js: JetStreamContext) -> int:
    """How many attempts the living workers run, by their beats."""
    bucket = await js.key_value(subjects.WORKERS_BUCKET)
    running = 0
    with contextlib.suppress(NoKeysError):
        for key in await bucket.keys():
            with contextlib.suppress(KeyNotFoundError):
                value = (await bucket.get(key)).value
                running += msgspec.json.decode(value or b"", type=WorkerBeat).running
    return running


async def _states(connection: Connection, ids: Collection[UUID]) -> dict[UUID, str]:
    rows = await connection.fetch("select id, state from infermq.jobs where id = any($1::uuid[])", list(ids))
    return {row["id"]: row["state"] for row in rows}


def _some(found: list[str]) -> list[str]:
    more = len(found) - _SHOWN
    return found if more <= 0 else [*found[:_SHOWN], f"… and {more} more of this kind"]


async def _ignore(_: Exception) -> None:
    """Ask again later."""
