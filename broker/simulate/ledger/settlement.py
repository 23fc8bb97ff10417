"""Records verdicts: one transaction a group, safe to repeat. An execution is recorded once, and a job ends once."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from msgspec.structs import replace

from broker.core.records import (
    EndedAttempt,
    Entry,
    Executed,
    Final,
    OpenJob,
    Recorded,
    Requeue,
    Requeued,
    Settled,
    Verdict,
)
from broker.ledger.counts import Deltas
from broker.ledger.requests import identity, own_id
from broker.ledger.rows import (
    NEVER_MS,
    end_of,
    flow_of,
    job_row,
    json_text,
    place_of,
    recorded_of,
    recorded_request,
    suspicion_of,
    usage_of,
)
from broker.ledger.settlement import MOST_EXECUTIONS, ended_instead, is_lost
from broker.simulate.ledger.copies import add_execution, add_job, check_text, copy_bodies, copy_results
from broker.simulate.ledger.counts import write_deltas
from broker.simulate.ledger.days import keep_days
from broker.simulate.ledger.failures import record_failures
from broker.simulate.ledger.spend import add_spend, executions_of
from broker.simulate.ledger.stored import DelayedRow, ExecutionRow, RunningRow, WaitingRow
from broker.simulate.ledger.tables import Tables
from broker.simulate.ledger.transactions import Area, transaction
from schemas.api import State
from schemas.outcome import Usage
from schemas.units import Ms, NanoUsd

Ran = tuple[int, Verdict, Executed]
"""A verdict's place in its group, and the execution that it is on."""
Amount = tuple[UUID, Usage, NanoUsd]
"""What a job is charged, or gets back."""


class MemorySettlement(Area):
    """Implements `broker.ports.SettlementLedger`."""

    @transaction
    def open_jobs(self, ids: Collection[UUID]) -> dict[UUID, OpenJob]:
        found = [_open_job(self._tables, job) for job in sorted(set(ids))]
        return {one.job: one for one in found if one is not None}

    @transaction
    def settle(self, verdicts: Sequence[Verdict], *, now: Ms) -> Settled:
        keep_days(self._session)
        return _Group(self._tables, now).settle(verdicts)


def _open_job(tables: Tables, job: UUID) -> OpenJob | None:
    row = tables.jobs.get(job)
    stands = tables.running.get(job) or tables.place_of(job)
    if row is None or row.state != "open" or stands is None:
        return None
    return OpenJob(
        job=job,
        state=State.RUNNING if isinstance(stands, RunningRow) else State.QUEUED,
        attempt=stands.attempt,
        uncounted=stands.uncounted,
        max_attempts=row.max_attempts,
        deadline_ms=Ms(row.deadline_ms),
        model=row.model,
        tried=tuple(stands.tried or ()),
        suspicion=None if isinstance(stands, WaitingRow) else suspicion_of(stands),
    )


@dataclass(slots=True)
class _Group:
    """Records one group in one transaction, whatever is in it."""

    tables: Tables
    now: Ms
    ended_now: dict[int, Recorded] = field(default_factory=dict)
    """The jobs that this transaction ended, by the place of the verdict in the group."""
    ended_earlier: list[Recorded] = field(default_factory=list)
    """The jobs that an earlier transaction ended by the same verdicts."""
    ended_attempts: list[EndedAttempt] = field(default_factory=list)
    inserted: list[UUID] = field(default_factory=list)
    """The requests whose jobs this transaction inserted, which are charged for nothing yet."""

    def settle(self, verdicts: Sequence[Verdict]) -> Settled:
        verdicts = self._insert_requests(verdicts)
        verdicts = [ended_instead(one) if self._is_cancelled(one.job) else one for one in verdicts]
        self._finish(
            {n: v for n, v in enumerate(verdicts) if isinstance(v.transition, Final) and n not in self.ended_now}
        )
        requeued = self._requeue(verdicts)
        self._record(verdicts)
        return Settled((*self.ended_now.values(), *self.ended_earlier), requeued, tuple(self.ended_attempts))

    def _is_cancelled(self, job: UUID) -> bool:
        row = self.tables.running.get(job)
        return row is not None and row.cancel_ms is not None

    def _insert_requests(self, verdicts: Sequence[Verdict]) -> Sequence[Verdict]:
        """Insert the jobs of requests that end. Return the verdicts with the ids that they are recorded under."""
        requests = {n: (v, v.entry) for n, v in enumerate(verdicts) if v.entry is not None}
        if not requests:
            return verdicts
        self._insert({n: verdict for n, (verdict, _) in requests.items()})
        apart = {
            n: _under_own_id(verdict, entry)
            for n, (verdict, entry) in requests.items()
            if n not in self.ended_now and self._is_of_another(entry)
        }
        self._insert(apart)
        return [apart.get(n, verdict) for n, verdict in enumerate(verdicts)]

    def _is_of_another(self, entry: Entry) -> bool:
        known = self.tables.jobs.get(entry.id)
        return known is not None and (known.tenant, known.body_hash, known.admitted_ms) != identity(entry)

    def _insert(self, verdicts: Mapping[int, Verdict]) -> None:
        """Insert the requests that end and are not known yet."""
        places = {v.job: n for n, v in verdicts.items() if isinstance(v.transition, Final)}
        for job, n in sorted(places.items()):
            verdict = verdicts[n]
            entry, final = verdict.entry, end_of(verdict)
            if entry is None:
                continue
            attempts = verdict.attempt or 0
            values = job_row(entry, state=final.state, attempts=attempts, settled_ms=self.now, failure=final.failure)
            if add_job(self.tables, values):
                copy_bodies(self.tables, [entry])
                self.inserted.append(job)
                self.ended_now[n] = recorded_request(verdict, entry)
                self.ended_attempts.append(EndedAttempt(job, attempts, entry.flow))

    def _finish(self, finals: Mapping[int, Verdict]) -> None:
        """End the jobs that are open, wherever they stand."""
        for n, verdict in sorted(finals.items(), key=_job_number):
            final = end_of(verdict)
            stood = self._take(verdict, final)
            if stood is None:
                continue
            failure = json_text(final.failure)
            if failure is not None:
                check_text(failure, is_json=True)
            attempts = stood.attempt if verdict.attempt is None else verdict.attempt
            row = self.tables.jobs.change(
                verdict.job, state=final.state, attempts=attempts, settled_ms=self.now, failure=failure
            )
            self.ended_now[n] = recorded_of(row)
            self.ended_attempts.append(EndedAttempt(row.id, attempts, flow_of(row), stood.tokens))
        left = [v for n, v in finals.items() if n not in self.ended_now and v.executed is not None]
        self._find_ended(left)

    def _take(self, verdict: Verdict, final: Final) -> RunningRow | WaitingRow | DelayedRow | None:
        """Take a job from where it stands, if the verdict ends it there: a success of any attempt, or one of its last."""
        tables = self.tables
        stands = tables.running.get(verdict.job) or tables.place_of(verdict.job)
        if stands is None or (
            verdict.attempt is not None and final.state is not State.SUCCEEDED and stands.attempt != verdict.attempt
        ):
            return None
        return (
            tables.running.remove(verdict.job) if isinstance(stands, RunningRow) else tables.wait_no_more(verdict.job)
        )

    def _find_ended(self, verdicts: Sequence[Verdict]) -> None:
        """Find the jobs that ended by exactly these verdicts before: the group comes again."""
        for verdict in verdicts:
            row = self.tables.jobs.get(verdict.job)
            if row is not None and (row.attempts, row.state) == (verdict.attempt, end_of(verdict).state):
                self.ended_earlier.append(recorded_of(row))
                self.ended_attempts.append(EndedAttempt(row.id, row.attempts, flow_of(row)))

    def _requeue(self, verdicts: Sequence[Verdict]) -> tuple[Requeued, ...]:
        requeued = []
        for _, verdict in sorted(enumerate(verdicts), key=_job_number):
            move, ran = verdict.transition, self.tables.running.get(verdict.job)
            if isinstance(move, Requeue) and ran is not None and ran.attempt == verdict.attempt:
                requeued.append(self._put_back(move, self.tables.running.remove(verdict.job)))
        return tuple(requeued)

    def _put_back(self, move: Requeue, ran: RunningRow) -> Requeued:
        """Let a job wait again, now or for its time."""
        job = self.tables.jobs[ran.job]
        own_ms = NEVER_MS if move.suspicion else move.not_before_ms
        due_ms = own_ms if own_ms > self.now else None
        waits = WaitingRow(
            model=job.model,
            lane=job.lane,
            tenant=job.tenant,
            rank=-job.priority,
            deadline_ms=job.deadline_ms,
            job=job.id,
            attempt=ran.attempt,
            uncounted=ran.uncounted + (0 if move.counted else 1),
            tried=move.tried or None,
            batch=job.batch,
            tokens=ran.tokens,
        )
        if due_ms is None:
            self.tables.waiting.insert(waits)
        else:
            columns = {name: waits[name] for name in waits.__struct_fields__}
            suspicion = json_text(move.suspicion)
            self.tables.delayed.insert(DelayedRow(not_before_ms=due_ms, suspicion=suspicion, **columns))
        self.ended_attempts.append(EndedAttempt(job.id, ran.attempt, flow_of(job), ran.tokens))
        return Requeued(flow_of(job), place_of(waits), due_ms)

    def _record(self, verdicts: Sequence[Verdict]) -> None:
        """Record executions, results, what they cost, and the batches' counts."""
        deltas = Deltas()
        ran = [(n, v, v.executed) for n, v in enumerate(verdicts) if v.executed is not None]
        ran.sort(key=_execution_number)
        estimates = self._take_estimates_back(ran)
        new = self._insert_executions(ran)
        amounts = [(v.job, executed.usage, executed.cost_nano_usd) for _, v, executed in new]
        amounts += [_refund(row) for row in estimates]
        inserted = set(self.inserted)
        self._charge([amount for amount in amounts if amount[0] not in inserted], deltas)
        self._charge([_amount(row) for job in self.inserted for row in executions_of(self.tables, job)], deltas)
        for one in self.ended_now.values():
            deltas.ended(one.batch, one.state)
        costs = [(executed.deployment, executed.cost_nano_usd) for _, _, executed in new]
        costs += [(row.deployment, NanoUsd(-row.cost_nano_usd)) for row in estimates]
        add_spend(self.tables, costs, now=self.now)
        failed = [one.job for one in self.ended_now.values() if one.state is not State.SUCCEEDED]
        record_failures(self.tables, sorted(failed))
        ended_before = write_deltas(self.tables, deltas, now=self.now)
        ended_now = sorted(self.ended_now.items(), key=_ended_number)
        ended = [(one.job, one.batch, end_of(verdicts[n]).body) for n, one in ended_now]
        copy_results(self.tables, ended, ended_before)

    def _take_estimates_back(self, ran: Sequence[Ran]) -> list[ExecutionRow]:
        """Remove what was recorded of executions that were given up for lost and are reported after all."""
        table = self.tables.executions
        keys = dict.fromkeys((v.job, executed.id) for _, v, executed in ran if not is_lost(v))
        lost = [key for key in keys if (row := table.get(key)) is not None and row.outcome == "lost"]
        return [table.remove(key) for key in lost]

    def _insert_executions(self, ran: Sequence[Ran]) -> list[Ran]:
        """Insert the executions that are not recorded yet, each once, and return them: what is charged.

        An attempt has room for some. What is known already takes room too, as in insert_executions.sql.
        """
        by_key: dict[tuple[UUID, UUID], Ran] = {}
        for n, v, executed in ran:
            by_key.setdefault((v.job, executed.id), (n, v, executed))
        room: dict[tuple[UUID, int], int] = {}
        new = []
        for n, v, executed in by_key.values():
            attempt = (v.job, executed.attempt)
            if attempt not in room:
                recorded = [row for row in executions_of(self.tables, v.job) if row.attempt == executed.attempt]
                room[attempt] = MOST_EXECUTIONS - len(recorded)
            room[attempt] -= 1
            if room[attempt] >= 0 and add_execution(self.tables, v, executed, waste=n not in self.ended_now):
                new.append((n, v, executed))
        return new

    def _charge(self, amounts: Sequence[Amount], deltas: Deltas) -> None:
        """Charge jobs, and their batches."""
        for job, usage, cost in amounts:
            row = self.tables.jobs.get(job)
            if row is None:
                continue
            self.tables.jobs.change(
                job,
                input_tokens=row.input_tokens + usage.input_tokens,
                output_tokens=row.output_tokens + usage.output_tokens,
                cached_tokens=row.cached_tokens + usage.cached_tokens,
                cost_nano_usd=row.cost_nano_usd + cost,
            )
            deltas.spent(row.batch, usage, cost)


def _under_own_id(verdict: Verdict, entry: Entry) -> Verdict:
    own = replace(entry, id=own_id(entry))
    return replace(verdict, job=own.id, entry=own)


def _amount(row: ExecutionRow) -> Amount:
    return row.job, usage_of(row), NanoUsd(row.cost_nano_usd)


def _refund(row: ExecutionRow) -> Amount:
    usage = Usage(-row.input_tokens, -row.output_tokens, -row.cached_tokens)
    return row.job, usage, NanoUsd(-row.cost_nano_usd)


def _job_number(item: tuple[int, Verdict]) -> int:
    return item[1].job.int


def _ended_number(ended_now: tuple[int, Recorded]) -> int:
    return ended_now[1].job.int


def _execution_number(ran: Ran) -> tuple[int, int]:
    _, verdict, executed = ran
    return verdict.job.int, executed.id.int
