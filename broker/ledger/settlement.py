"""Records verdicts: one transaction a group, safe to repeat.

An execution is inserted once by its own id, and only what was inserted is charged. A job ends once, because the statement
that ends it finds only an open job.

Nearly all verdicts end a job that runs the very attempt, so that way is short (`usual_ends`): one statement for their ends,
then the executions and results are copied in. A group with anything else in it (a late report, an expiry in the backlog, a
retry, a repeated group, a lost execution) is looked up and recorded row by row, after its rows were locked in one order.
"""

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import asyncpg
from msgspec.structs import replace

from broker.core.records import (
    EndedAttempt,
    Executed,
    Final,
    OpenJob,
    Recorded,
    Requeue,
    Requeued,
    Settled,
    Verdict,
)
from broker.ledger import requests
from broker.ledger.connection import Connection, Database
from broker.ledger.copies import copy_results
from broker.ledger.counts import Deltas
from broker.ledger.days import Days, days_of
from broker.ledger.failures import record_failures
from broker.ledger.rows import (
    EXECUTION_COLUMNS,
    NEVER_MS,
    columns,
    end_of,
    execution_row,
    flow_of,
    json_text,
    place_of,
    recorded_of,
    recorded_request,
    suspicion_of,
    usage_of,
)
from broker.ledger.spend import add_spend
from broker.ledger.sql import query
from broker.ledger.usual_ends import NotUsual, UsualEnds, are_usual
from schemas.api import State
from schemas.outcome import LOST, Usage
from schemas.units import Ms, NanoUsd


class PgSettlement:
    """Implements `broker.ports.SettlementLedger`."""

    def __init__(self, database: Database, days: Days) -> None:
        self._database = database
        self._days = days

    async def open_jobs(self, ids: Collection[UUID]) -> dict[UUID, OpenJob]:
        if not ids:
            return {}
        async with self._database.connection() as connection:
            rows = await connection.fetch(query("open_jobs"), list(ids), min(ids), max(ids))
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
            if are_usual(verdicts):
                with contextlib.suppress(asyncpg.UniqueViolationError, NotUsual):
                    async with connection.transaction():
                        return await UsualEnds(connection, now).settle(verdicts)
            for _ in range(_TRIES):
                with contextlib.suppress(_Moved):
                    async with connection.transaction():
                        return await _Group(connection, now).settle(verdicts, may_move=False)
            async with connection.transaction():
                return await _Group(connection, now).settle(verdicts, may_move=True)


_TRIES = 5
"""How often to begin again because a job was dispatched while its rows were locked. A guess: once is rare."""
MOST_EXECUTIONS = 20
"""How many executions of one attempt are recorded and charged, beside the one that ends its job. Workers make up the ids of
executions, so whoever has the key of one could report an attempt without end. A guess: an attempt that is delivered a second
time is rare.
"""
Ran = tuple[int, Verdict, Executed]
"""A verdict's place in its group, and the execution that it is on."""
Amount = tuple[UUID, Usage, NanoUsd]
"""What a job is charged, or gets back."""


class _Moved(Exception):
    """A job came from the backlog into an attempt, after the attempts were locked and before the backlog was."""


@dataclass(slots=True)
class _Group:
    """Records one group in one transaction, whatever is in it."""

    connection: Connection
    now: Ms
    ended_now: dict[int, Recorded] = field(default_factory=dict)
    """The jobs that this transaction ended, by the place of the verdict in the group."""
    ended_earlier: list[Recorded] = field(default_factory=list)
    """The jobs that an earlier transaction ended by the same verdicts."""
    ended_attempts: list[EndedAttempt] = field(default_factory=list)
    inserted: set[UUID] = field(default_factory=set)
    """The requests whose jobs this transaction inserted, which are charged for nothing yet."""

    async def settle(self, verdicts: Sequence[Verdict], *, may_move: bool) -> Settled:
        """Lock, then change. Raises: _Moved, unless it `may_move`."""
        verdicts = await self._insert_requests(verdicts)
        cancelled = await self._lock({verdict.job for verdict in verdicts}, may_move=may_move)
        verdicts = [ended_instead(verdict) if verdict.job in cancelled else verdict for verdict in verdicts]
        finals = {n: v for n, v in enumerate(verdicts) if isinstance(v.transition, Final) and n not in self.ended_now}
        if finals:
            await self._finish(finals)
        requeued = await self._requeue([v for v in verdicts if isinstance(v.transition, Requeue)])
        await self._record(verdicts)
        return Settled((*self.ended_now.values(), *self.ended_earlier), requeued, tuple(self.ended_attempts))

    async def _insert_requests(self, verdicts: Sequence[Verdict]) -> Sequence[Verdict]:
        """Insert the jobs of requests that end. Return the verdicts with the ids that they are recorded under."""
        await requests.hold(self.connection, [v for v in verdicts if v.entry is not None or is_lost(v)])
        pairs = {n: (v, v.entry) for n, v in enumerate(verdicts) if v.entry is not None}
        if not pairs:
            return verdicts
        await self._insert({n: verdict for n, (verdict, _) in pairs.items()})
        left = {n: pair for n, pair in pairs.items() if n not in self.ended_now}
        apart = await requests.apart(self.connection, left) if left else {}
        await self._insert(apart)
        return [apart.get(n, verdict) for n, verdict in enumerate(verdicts)]

    async def _insert(self, verdicts: Mapping[int, Verdict]) -> None:
        """Insert the requests that end and are not known yet."""
        places = {v.job: n for n, v in verdicts.items() if isinstance(v.transition, Final)}
        ends = {job: (v, v.entry, None) for job, n in places.items() if (v := verdicts[n]).entry is not None}
        if not ends:
            return
        for job in await requests.insert(self.connection, ends, now=self.now):
            verdict, entry, _ = ends[job]
            self.inserted.add(job)
            self.ended_now[places[job]] = recorded_request(verdict, entry)
            self.ended_attempts.append(EndedAttempt(job, verdict.attempt or 0, entry.flow))

    async def _lock(self, ids: Collection[UUID], *, may_move: bool) -> Collection[UUID]:
        """Lock all rows of the group in one order, which every group has: attempts, jobs, then what waits, each by job.
        Return the jobs that are to be cancelled.

        Two brokers that settle the same jobs with different verdicts thus never wait for each other. The usual ends lock
        their attempts first too, and what waits is locked in the order of the jobs by dispatch too.
        """
        jobs = sorted(ids, key=_number)
        running = {row["job"]: row["cancel_ms"] for row in await self.connection.fetch(query("lock_running"), jobs)}
        rows = await self.connection.fetch(query("lock_jobs"), jobs, jobs[0], jobs[-1])
        waiting = [row["id"] for row in rows if row["state"] == "open" and row["id"] not in running]
        if waiting:
            found = await self.connection.fetch(query("lock_waiting"), waiting, waiting[0], waiting[-1])
            if len(found) < len(waiting) and not may_move:
                raise _Moved
        return {job for job, cancel_ms in running.items() if cancel_ms is not None}

    async def _finish(self, finals: Mapping[int, Verdict]) -> None:
        """End the jobs that are open, wherever they stand."""
        ends = sorted(finals.values(), key=_job_number)
        jobs = [verdict.job for verdict in ends]
        attempts, states = [verdict.attempt for verdict in ends], [end_of(verdict).state for verdict in ends]
        failures = [json_text(end_of(verdict).failure) for verdict in ends]
        rows = await self.connection.fetch(
            query("finish_any"), jobs, attempts, states, failures, self.now, *days_of(jobs)
        )
        by_job = {verdict.job: n for n, verdict in finals.items()}
        for row in rows:
            self.ended_now[by_job[row["id"]]] = recorded_of(row)
            self.ended_attempts.append(EndedAttempt(row["id"], row["attempts"], flow_of(row), row["tokens"]))
        await self._find_ended([v for n, v in finals.items() if n not in self.ended_now and v.executed is not None])

    async def _find_ended(self, verdicts: Sequence[Verdict]) -> None:
        """Find the jobs that ended by exactly these verdicts before: the group comes again."""
        if not verdicts:
            return
        jobs = [verdict.job for verdict in verdicts]
        attempts, states = [verdict.attempt for verdict in verdicts], [end_of(verdict).state for verdict in verdicts]
        known = await self.connection.fetch(query("settled_by"), jobs, attempts, states, min(jobs), max(jobs))
        self.ended_earlier = [recorded_of(row) for row in known]
        self.ended_attempts += [EndedAttempt(row["id"], row["attempts"], flow_of(row)) for row in known]

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
            moves[0][0],
            moves[-1][0],
        )
        self.ended_attempts += [EndedAttempt(row["job"], row["attempt"], flow_of(row), row["tokens"]) for row in rows]
        return tuple(Requeued(flow_of(row), place_of(row), row["due_ms"]) for row in rows)

    async def _record(self, verdicts: Sequence[Verdict]) -> None:
        """Record executions, results, what they cost, and the batches' counts."""
        deltas = Deltas()
        ran = [(n, v, v.executed) for n, v in enumerate(verdicts) if v.executed is not None]
        ran.sort(key=_execution_number)
        estimates = await self._take_estimates_back(ran)
        new = await self._insert_executions(ran)
        amounts = [(v.job, executed.usage, executed.cost_nano_usd) for _, v, executed in new]
        amounts += [_refund(row) for row in estimates]
        await self._charge([amount for amount in amounts if amount[0] not in self.inserted], deltas)
        await self._charge(await self._spent_on(self.inserted), deltas)
        for one in self.ended_now.values():
            deltas.ended(one.batch, one.state)
        costs = [(executed.deployment, executed.cost_nano_usd) for _, _, executed in new]
        estimated = [(row["deployment"], NanoUsd(-row["cost_nano_usd"])) for row in estimates]
        await add_spend(self.connection, costs + estimated, now=self.now)
        failed = [one.job for one in self.ended_now.values() if one.state is not State.SUCCEEDED]
        await record_failures(self.connection, failed)
        ended_before = await deltas.write(self.connection, now=self.now)
        ended_now = sorted(self.ended_now.items(), key=_ended_number)
        ended = [(one.job, one.batch, end_of(verdicts[n]).body) for n, one in ended_now]
        await copy_results(self.connection, ended, ended_before)

    async def _take_estimates_back(self, ran: Sequence[Ran]) -> list[asyncpg.Record]:
        """Remove what was recorded of executions that were given up for lost and are reported after all."""
        reported = [(v.job, executed.id) for _, v, executed in ran if not is_lost(v)]
        if not reported:
            return []
        jobs, ids = columns(reported, 2)
        return await self.connection.fetch(query("take_estimates_back"), jobs, ids, jobs[0], jobs[-1])

    async def _insert_executions(self, ran: Sequence[Ran]) -> list[Ran]:
        """Insert the executions that are not recorded yet, each once, and return them: what is charged."""
        if not ran:
            return []
        by_key: dict[tuple[UUID, UUID], Ran] = {}
        for n, v, executed in ran:
            by_key.setdefault((v.job, executed.id), (n, v, executed))
        rows = [execution_row(v, executed, waste=n not in self.ended_now) for n, v, executed in by_key.values()]
        values = columns(rows, len(EXECUTION_COLUMNS))
        inserted = await self.connection.fetch(query("insert_executions"), *values, MOST_EXECUTIONS)
        return [by_key[row["job"], row["id"]] for row in inserted]

    async def _spent_on(self, jobs: Collection[UUID]) -> list[Amount]:
        """Add up what all executions of these jobs cost, some of which were recorded before the job was."""
        if not jobs:
            return []
        rows = await self.connection.fetch(query("spent_on"), list(jobs), min(jobs), max(jobs))
        return [(row["job"], usage_of(row), NanoUsd(row["cost_nano_usd"])) for row in rows]

    async def _charge(self, amounts: Sequence[Amount], deltas: Deltas) -> None:
        """Charge jobs, and their batches."""
        if not amounts:
            return
        jobs = [job for job, _, _ in amounts]
        rows = await self.connection.fetch(
            query("charge"),
            jobs,
            [usage.input_tokens for _, usage, _ in amounts],
            [usage.output_tokens for _, usage, _ in amounts],
            [usage.cached_tokens for _, usage, _ in amounts],
            [cost for _, _, cost in amounts],
            *days_of(jobs),
        )
        batches = {row["id"]: row["batch"] for row in rows}
        for job, usage, cost in amounts:
            deltas.spent(batches.get(job), usage, cost)


def ended_instead(verdict: Verdict) -> Verdict:
    """End a job that is to be cancelled where it would wait again."""
    if not isinstance(verdict.transition, Requeue):
        return verdict
    return replace(verdict, transition=Final(State.CANCELLED, None, None))


def is_lost(verdict: Verdict) -> bool:
    return verdict.executed is not None and verdict.executed.outcome == LOST


def _refund(row: asyncpg.Record) -> Amount:
    usage = usage_of(row)
    negative = Usage(-usage.input_tokens, -usage.output_tokens, -usage.cached_tokens)
    return row["job"], negative, NanoUsd(-row["cost_nano_usd"])


def _number(job: UUID) -> int:
    """Sort as the ids sort, without their slower comparison."""
    return job.int


def _job_number(verdict: Verdict) -> int:
    return verdict.job.int


def _ended_number(ended_now: tuple[int, Recorded]) -> int:
    return ended_now[1].job.int


def _execution_number(ran: Ran) -> tuple[int, int]:
    """Sort as the keys of executions sort, since two groups may have the same execution."""
    _, verdict, executed = ran
    return verdict.job.int, executed.id.int
