"""Records verdicts: one transaction a group, safe to repeat.

An execution is inserted once by its key (job, its own id), and only what was inserted is charged. A job ends
once, because the statement that ends it finds only an open job.

Nearly all verdicts end a job that runs the very attempt, so that way is short: one statement for their ends, then the
executions and results are copied in. What is left (a late report, an expiry in the backlog, an interactive job, a
repeated group) is looked up and recorded row by row.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import asyncpg
from msgspec.structs import replace

from broker.core.records import (
    EndedAttempt,
    Entry,
    Executed,
    Final,
    OpenJob,
    Place,
    Recorded,
    Requeue,
    Requeued,
    Settled,
    Verdict,
)
from broker.ledger.connection import Connection, Database
from broker.ledger.copies import copy_bodies, copy_results, insert_jobs
from broker.ledger.counts import Deltas
from broker.ledger.days import Days, bounds, day_of
from broker.ledger.rows import (
    EXECUTION_COLUMNS,
    columns,
    execution_row,
    flow_of,
    job_row,
    json_text,
    key_of,
    recorded_of,
    suspicion_of,
)
from broker.ledger.spend import add_spend
from broker.ledger.sql import query
from schemas.api import State
from schemas.ids import derived_id, ms_of
from schemas.outcome import Usage
from schemas.units import Ms, NanoUsd


class PgSettlement:
    """Implements `broker.ports.SettlementLedger`."""

    def __init__(self, database: Database, days: Days) -> None:
        self._database = database
        self._days = days

    async def open_jobs(self, ids: Collection[UUID]) -> dict[UUID, OpenJob]:
        async with self._database.connection() as connection:
            rows = await connection.fetch(query("open_jobs"), list(ids))
        return {
            row["id"]: OpenJob(
                job=row["id"],
                state=State(row["state"]),
                attempt=row["attempt"],
                uncounted=row["uncounted"],
                max_attempts=row["max_attempts"],
                deadline_ms=row["deadline_ms"],
                model=row["model"],
                tried=tuple(row["tried"] or ()),
                suspicion=suspicion_of(row),
            )
            for row in rows
        }

    async def settle(self, verdicts: Sequence[Verdict], *, now: Ms) -> Settled:
        async with self._database.connection() as connection:
            await self._days.keep_on(connection)
            try:
                async with connection.transaction():
                    return await _Group(connection, now).settle(verdicts, repeated=False)
            except asyncpg.UniqueViolationError:
                async with connection.transaction():
                    return await _Group(connection, now).settle(verdicts, repeated=True)


NEVER_MS = Ms(10**15)
"""Later than any deadline may be: when a suspected job's own time comes."""
_PLACES = 64
"""How many advisory locks requests share. Few, since Postgres has room for some thousand locks."""
Ran = tuple[int, Verdict, Executed]
"""A verdict's place in its group, and the execution that it is on."""
RequestVerdict = tuple[Verdict, Entry]
"""A verdict on an interactive request, and the job behind it."""


@dataclass(slots=True)
class _Group:
    """Records one group in one transaction."""

    connection: Connection
    now: Ms
    ended_now: dict[int, Recorded] = field(default_factory=dict)
    """The jobs that this transaction ended, by the place of the verdict in the group."""
    ended_earlier: list[Recorded] = field(default_factory=list)
    """The jobs that an earlier transaction ended by the same verdicts."""
    ended_attempts: list[EndedAttempt] = field(default_factory=list)

    async def settle(self, verdicts: Sequence[Verdict], *, repeated: bool) -> Settled:
        """`repeated`: some of the group is recorded already, so each row is looked up first."""
        verdicts = await self._insert_requests(verdicts)
        finals = {n: v for n, v in enumerate(verdicts) if isinstance(v.transition, Final)}
        await self._finish({n: v for n, v in finals.items() if v.entry is None and v.executed is not None})
        left = {n: v for n, v in finals.items() if n not in self.ended_now}
        if left:
            await self._finish_any(left)
        requeued = await self._requeue([v for v in verdicts if isinstance(v.transition, Requeue)])
        await self._record(verdicts, row_by_row=repeated or len(self.ended_now) < len(verdicts))
        return Settled((*self.ended_now.values(), *self.ended_earlier), requeued, tuple(self.ended_attempts))

    async def _insert_requests(self, verdicts: Sequence[Verdict]) -> Sequence[Verdict]:
        """Insert the jobs of interactive requests, of which the ledger first hears at their end.

        A request is known by its id, tenant, body and the instant of its admission. One whose id is already that of
        another request or job is recorded as a job of its own, under an id made of these, so that neither touches the
        other. Returns the verdicts with the ids that they are recorded under.
        """
        requests = {n: (v, v.entry) for n, v in enumerate(verdicts) if v.entry is not None}
        if not requests:
            return verdicts
        await self._hold([v for v, _ in requests.values()])
        await self._insert(requests)
        unrecorded = {n: pair for n, pair in requests.items() if n not in self.ended_now}
        apart = await self._apart(unrecorded) if unrecorded else {}
        await self._insert(apart)
        return [apart[n][0] if n in apart else verdict for n, verdict in enumerate(verdicts)]

    async def _hold(self, requests: Iterable[Verdict]) -> None:
        """Lock requests that may have several reports, so that two brokers miss nothing of what each other records."""
        several = [v for v in requests if not (isinstance(v.transition, Final) and _is_first(v))]
        if several:
            places = sorted({verdict.job.int % _PLACES for verdict in several})
            await self.connection.fetch(query("hold_requests"), places)

    async def _apart(self, requests: Mapping[int, RequestVerdict]) -> dict[int, RequestVerdict]:
        """Give those whose id is another's an id of their own."""
        rows = await self.connection.fetch(query("identities"), [verdict.job for verdict, _ in requests.values()])
        known = {row["id"]: (row["tenant"], row["body_hash"], row["admitted_ms"]) for row in rows}
        apart = {}
        for n, (verdict, entry) in requests.items():
            if known.get(entry.id, _identity(entry)) != _identity(entry):
                own = replace(entry, id=_own_id(entry))
                apart[n] = replace(verdict, job=own.id, entry=own), own
        return apart

    async def _finish(self, finals: Mapping[int, Verdict]) -> None:
        by_day: dict[int, list[Verdict]] = defaultdict(list)
        for verdict in finals.values():
            by_day[day_of(verdict.job)].append(verdict)
        for day, theirs in sorted(by_day.items()):
            rows = await self.connection.fetch(query("finish"), *_ends(theirs), self.now, *bounds(day))
            self._take(finals, rows)

    async def _finish_any(self, left: Mapping[int, Verdict]) -> None:
        rows = await self.connection.fetch(query("finish_any"), *_ends(left.values()), self.now)
        self._take(left, rows)
        lost = [v for n, v in left.items() if n not in self.ended_now and v.executed is not None]
        jobs, attempts, states = [v.job for v in lost], [v.attempt for v in lost], [_state(v) for v in lost]
        known = await self.connection.fetch(query("settled_by"), jobs, attempts, states)
        self.ended_earlier = [recorded_of(row) for row in known]
        self.ended_attempts += [EndedAttempt(row["id"], row["attempts"], flow_of(row)) for row in known]

    def _take(self, finals: Mapping[int, Verdict], rows: Iterable[asyncpg.Record]) -> None:
        by_job = {verdict.job: n for n, verdict in finals.items()}
        for row in rows:
            self.ended_now[by_job[row["id"]]] = recorded_of(row)
            self.ended_attempts.append(EndedAttempt(row["id"], row["attempts"], flow_of(row), row["tokens"]))

    async def _insert(self, requests: Mapping[int, RequestVerdict]) -> None:
        """Insert the requests that end and are not known yet."""
        entries = {v.job: (n, v, entry) for n, (v, entry) in requests.items() if isinstance(v.transition, Final)}
        if not entries:
            return
        rows = [
            job_row(
                entry,
                state=_state(v),
                attempts=v.attempt or 0,
                settled_ms=self.now,
                failure=_final(v).failure,
                executed=v.executed,
            )
            for _, (_, v, entry) in sorted(entries.items(), key=lambda item: item[0].int)
        ]
        new = await insert_jobs(self.connection, rows)
        fresh = [entries[job] for job in new]
        await self._add_earlier([entry.id for _, verdict, entry in fresh if not _is_first(verdict)])
        await copy_bodies(self.connection, [entry for _, _, entry in fresh])
        for n, verdict, entry in fresh:
            self.ended_now[n] = Recorded(
                job=entry.id,
                tenant=entry.tenant,
                batch=entry.batch,
                custom_id=entry.custom_id,
                state=_final(verdict).state,
            )
            self.ended_attempts.append(EndedAttempt(entry.id, verdict.attempt or 0, entry.flow))

    async def _add_earlier(self, jobs: Sequence[UUID]) -> None:
        """Charge the jobs for their earlier attempts, whose executions were recorded before the job was."""
        rows = await self.connection.fetch(query("spent_before"), jobs) if jobs else []
        if rows:
            names = ("input_tokens", "output_tokens", "cached_tokens", "cost_nano_usd")
            spent = columns([(row["job"], *(row[name] for name in names)) for row in rows], 1 + len(names))
            await self.connection.fetch(query("charge"), *spent)

    async def _requeue(self, verdicts: Sequence[Verdict]) -> tuple[Requeued, ...]:
        by_job = sorted(verdicts, key=_job_number)
        moves = [(v.job, v.attempt, v.transition) for v in by_job if isinstance(v.transition, Requeue)]
        if not moves:
            return ()
        rows = await self.connection.fetch(
            query("requeue"),
            [job for job, _, _ in moves],
            [attempt for _, attempt, _ in moves],
            [NEVER_MS if move.suspicion else move.not_before_ms for _, _, move in moves],
            [0 if move.counted else 1 for _, _, move in moves],
            [json_text(move.tried) for _, _, move in moves],
            self.now,
            [json_text(move.suspicion) for _, _, move in moves],
        )
        self.ended_attempts += [EndedAttempt(row["job"], row["attempt"], flow_of(row), row["tokens"]) for row in rows]
        return tuple(Requeued(flow_of(row), Place(row["deadline_ms"], row["job"]), row["due_ms"]) for row in rows)

    async def _record(self, verdicts: Sequence[Verdict], *, row_by_row: bool) -> None:
        """Record executions, results, what they cost, and the batches' counts."""
        deltas = Deltas()
        ran = [(n, v, v.executed) for n, v in enumerate(verdicts) if v.executed is not None]
        if row_by_row:
            ran.sort(key=_execution_number)
        rows = [execution_row(v, executed, waste=n not in self.ended_now) for n, v, executed in ran]
        if row_by_row:
            new = await self._insert_executions(ran, rows)
            await self._add_to_jobs([(v, executed) for n, v, executed in new if n not in self.ended_now], deltas)
            fresh = {n for n, _, _ in new}
            twice = [(v, e) for n, v, e in ran if n in self.ended_now and n not in fresh and v.entry is None]
            await self._add_to_jobs([(v, _refund(e)) for v, e in twice], deltas)
        else:
            new = ran
            await self._copy_executions(rows)
        for n, one in self.ended_now.items():
            deltas.ended(one.batch, one.state)
            if (executed := verdicts[n].executed) is not None:
                deltas.spent(one.batch, executed.usage, executed.cost_nano_usd)
        await add_spend(self.connection, [executed for _, _, executed in new], now=self.now)
        ended_before = await deltas.write(self.connection, now=self.now)
        if self.ended_now:
            ended_now = sorted(self.ended_now.items(), key=_ended_number)
            ended = [(one.job, one.batch, _final(verdicts[n]).body) for n, one in ended_now]
            await copy_results(self.connection, ended, ended_before)

    async def _copy_executions(self, rows: Sequence[tuple[object, ...]]) -> None:
        if rows:
            await self.connection.copy_records_to_table(
                "executions", records=rows, columns=EXECUTION_COLUMNS, schema_name="infermq"
            )

    async def _insert_executions(self, ran: Sequence[Ran], rows: Sequence[tuple[object, ...]]) -> list[Ran]:
        """Insert the executions that are not recorded yet, and return them."""
        inserted = await self.connection.fetch(query("insert_executions"), *columns(rows, len(EXECUTION_COLUMNS)))
        new = {key_of(row) for row in inserted}
        return [(n, v, e) for n, v, e in ran if (v.job, e.id) in new]

    async def _add_to_jobs(self, spent: Sequence[tuple[Verdict, Executed]], deltas: Deltas) -> None:
        if not spent:
            return
        rows = await self.connection.fetch(
            query("charge"),
            [verdict.job for verdict, _ in spent],
            [executed.usage.input_tokens for _, executed in spent],
            [executed.usage.output_tokens for _, executed in spent],
            [executed.usage.cached_tokens for _, executed in spent],
            [executed.cost_nano_usd for _, executed in spent],
        )
        batches = {row["id"]: row["batch"] for row in rows}
        for verdict, executed in spent:
            deltas.spent(batches.get(verdict.job), executed.usage, executed.cost_nano_usd)


def _is_first(verdict: Verdict) -> bool:
    """Say whether an interactive request has no earlier attempt to pay for."""
    return verdict.attempt == 1 and verdict.executed is not None


def _refund(executed: Executed) -> Executed:
    """Negate an execution: its job was charged for it when it was recorded, and again when the job ended."""
    usage = executed.usage
    negative = Usage(-usage.input_tokens, -usage.output_tokens, -usage.cached_tokens)
    return replace(executed, usage=negative, cost_nano_usd=NanoUsd(-executed.cost_nano_usd))


def _identity(entry: Entry) -> tuple[str, bytes, Ms]:
    return entry.tenant, entry.body_hash, entry.admitted_ms


def _own_id(entry: Entry) -> UUID:
    """Derive an id of the same day, which is the same for every report on the request."""
    name = f"{entry.id}:{entry.tenant}:{entry.body_hash.hex()}"
    return derived_id(name, entry.admitted_ms, ms_of(entry.id))


def _final(verdict: Verdict) -> Final:
    assert isinstance(verdict.transition, Final)  # noqa: S101 - the caller chose those
    return verdict.transition


def _state(verdict: Verdict) -> State:
    return _final(verdict).state


def _job_number(verdict: Verdict) -> int:
    """Sort as the ids sort, without their slower comparison."""
    return verdict.job.int


def _ended_number(ended_now: tuple[int, Recorded]) -> int:
    return ended_now[1].job.int


def _execution_number(ran: Ran) -> tuple[int, int]:
    """Sort as the keys of executions sort, since two groups may have the same execution."""
    _, verdict, executed = ran
    return verdict.job.int, executed.id.int


def _ends(finals: Iterable[Verdict]) -> list[list[object]]:
    """Make the arrays of finish.sql, sorted by job, so that two groups lock in one order."""
    rows = []
    for verdict in sorted(finals, key=_job_number):
        final, executed = _final(verdict), verdict.executed
        usage = executed.usage if executed else Usage()
        rows.append(
            (
                verdict.job,
                verdict.attempt,
                final.state,
                json_text(final.failure),
                usage.input_tokens,
                usage.output_tokens,
                usage.cached_tokens,
                executed.cost_nano_usd if executed else 0,
            )
        )
    return columns(rows, 8)
