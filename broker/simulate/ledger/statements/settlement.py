"""Ends jobs, puts them back, and records what their executions cost."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any
from uuid import UUID

import msgspec

from broker.ledger.rows import EXECUTION_COLUMNS
from broker.simulate.ledger.checks import check_values
from broker.simulate.ledger.statements.jobs import check_day, copied
from broker.simulate.ledger.statements.named import Rows, statement
from broker.simulate.ledger.statements.reading import Columns, columns_of
from broker.simulate.ledger.stored import DelayedRow, ExecutionRow, JobRow, RunningRow, SpendRow, WaitingRow
from broker.simulate.ledger.tables import Tables

_AMOUNTS = ("input_tokens", "output_tokens", "cached_tokens", "cost_nano_usd")
_names = msgspec.json.Decoder(tuple[str, ...])


@statement
def open_jobs(t: Tables, jobs: Sequence[UUID], low: UUID, high: UUID) -> Rows:
    del low, high
    found = []
    for job in sorted(set(jobs)):
        row, runs, waits = t.jobs.get(job), t.running.get(job), t.place_of(job)
        stands = runs or waits
        if row is None or row.state != "open" or stands is None:
            continue
        found.append(
            {
                "id": job,
                "state": "queued" if runs is None else "running",
                "attempt": stands.attempt,
                "uncounted": stands.uncounted,
                "max_attempts": row.max_attempts,
                "deadline_ms": row.deadline_ms,
                "model": row.model,
                "tried": stands.tried,
                "suspicion": None if isinstance(stands, WaitingRow) else stands.suspicion,
            }
        )
    return found


@statement
def lock_running(t: Tables, jobs: Sequence[UUID]) -> Rows:
    return [row for job in jobs if (row := t.running.get(job)) is not None]


@statement
def lock_jobs(t: Tables, jobs: Sequence[UUID], low: UUID, high: UUID) -> Rows:
    del low, high
    return [row for job in jobs if (row := t.jobs.get(job)) is not None]


@statement
def lock_waiting(t: Tables, jobs: Sequence[UUID], low: UUID, high: UUID) -> Rows:
    del low, high
    return [row for job in jobs if (row := t.place_of(job)) is not None]


@statement
def finish(
    t: Tables,
    jobs: Sequence[UUID],
    attempts: Sequence[int],
    states: Sequence[str],
    failures: Sequence[str | None],
    inputs: Sequence[int],
    outputs: Sequence[int],
    cached: Sequence[int],
    costs: Sequence[int],
    now: int,
    low: UUID,
    high: UUID,
) -> Rows:
    """Nothing ends if an attempt is named twice: then fewer rows are deleted than were found."""
    del low, high
    ends = zip(jobs, attempts, states, failures, zip(inputs, outputs, cached, costs, strict=True), strict=True)
    run = [end for end in ends if (runs := t.running.get(end[0])) is not None and runs.attempt == end[1]]
    if len({job for job, *_ in run}) < len(run):
        return []
    found = []
    for job, attempt, state, failure, amounts in run:
        tokens = t.running.remove(job).tokens
        row = t.jobs[job]
        spent = {name: row[name] + amount for name, amount in zip(_AMOUNTS, amounts, strict=True)}
        check_values(spent.values())
        row = t.jobs.change(job, state=state, attempts=attempt, settled_ms=now, failure=failure, **spent)
        found.append(_ended(row, tokens))
    return found


def _ended(row: JobRow, tokens: int) -> Columns:
    names = ("id", "model", "lane", "tenant", "batch", "custom_id", "state", "attempts")
    return {name: row[name] for name in names} | {"tokens": tokens}


@statement
def finish_any(
    t: Tables,
    jobs: Sequence[UUID],
    attempts: Sequence[int | None],
    states: Sequence[str],
    failures: Sequence[str | None],
    now: int,
    low: UUID,
    high: UUID,
) -> Rows:
    del low, high
    found = []
    for job, attempt, state, failure in zip(jobs, attempts, states, failures, strict=True):
        stands = t.running.get(job) or t.place_of(job)
        if stands is None or not (attempt is None or state == "succeeded" or stands.attempt == attempt):
            continue
        if isinstance(stands, RunningRow):
            t.running.remove(job)
        else:
            t.wait_no_more(job)
        last = stands.attempt if attempt is None else attempt
        row = t.jobs.change(job, state=state, attempts=last, settled_ms=now, failure=failure)
        found.append(_ended(row, stands.tokens))
    return found


@statement
def settled_by(
    t: Tables, jobs: Sequence[UUID], attempts: Sequence[int | None], states: Sequence[str], low: UUID, high: UUID
) -> Rows:
    del low, high
    found = [(t.jobs.get(job), end) for job, *end in zip(jobs, attempts, states, strict=True)]
    return [row for row, end in found if row is not None and [row.attempts, row.state] == end]


@statement
def requeue(
    t: Tables,
    jobs: Sequence[UUID],
    attempts: Sequence[int | None],
    times: Sequence[int],
    uncounted: Sequence[int],
    tried: Sequence[str],
    now: int,
    suspicions: Sequence[str | None],
    low: UUID,
    high: UUID,
) -> Rows:
    del low, high
    found = []
    for job, attempt, not_before_ms, more, names, suspicion in zip(
        jobs, attempts, times, uncounted, tried, suspicions, strict=True
    ):
        runs = t.running.get(job)
        if runs is None or runs.attempt != attempt:
            continue
        row = _put_back(t, t.running.remove(job), more, _names.decode(names) or None)
        due_ms = not_before_ms if not_before_ms > now else None
        if due_ms is None:
            t.waiting.insert(row)
        else:
            t.delayed.insert(DelayedRow(not_before_ms=due_ms, suspicion=suspicion, **columns_of(row)))
        found.append(columns_of(row) | {"due_ms": due_ms})
    return found


def _put_back(t: Tables, runs: RunningRow, uncounted: int, tried: tuple[str, ...] | None) -> WaitingRow:
    """Return where a job waits again."""
    job = t.jobs[runs.job]
    return WaitingRow(
        model=job.model,
        lane=job.lane,
        tenant=job.tenant,
        rank=-job.priority,
        deadline_ms=job.deadline_ms,
        job=job.id,
        attempt=runs.attempt,
        uncounted=runs.uncounted + uncounted,
        tried=tried,
        batch=job.batch,
        tokens=runs.tokens,
    )


@statement
def take_estimates_back(t: Tables, jobs: Sequence[UUID], ids: Sequence[UUID], low: UUID, high: UUID) -> Rows:
    del low, high
    found = [t.executions.get(key) for key in dict.fromkeys(zip(jobs, ids, strict=True))]
    lost = [row for row in found if row is not None and row.outcome == "lost"]
    return [t.executions.remove((row.job, row.id)) for row in lost]


@statement
def insert_executions(t: Tables, *values: Any) -> Rows:
    """What is known already takes room of its attempt too."""
    *columns, most = values
    rows: list[ExecutionRow] = [
        copied("executions", EXECUTION_COLUMNS, record) for record in zip(*columns, strict=True)
    ]
    rows.sort(key=lambda row: (row.job.int, row.id.int))
    taken: dict[tuple[UUID, int], int] = {}
    found = []
    for row in rows:
        attempt = (row.job, row.attempt)
        if attempt not in taken:
            taken[attempt] = sum(one.attempt == row.attempt for one in executions(t, row.job))
        taken[attempt] += 1
        if not row.waste or taken[attempt] <= most:
            check_day(t, row.job)
            found += [row] if t.executions.add(row) else []
    return found


def executions(t: Tables, job: UUID) -> list[ExecutionRow]:
    return [t.executions[key] for key in t.executions_by_job.keys(job)]


@statement
def spent_on(t: Tables, jobs: Sequence[UUID], low: UUID, high: UUID) -> Rows:
    del low, high
    ran = [(job, executions(t, job)) for job in dict.fromkeys(jobs)]
    return [{"job": job} | {name: sum(row[name] for row in rows) for name in _AMOUNTS} for job, rows in ran if rows]


@statement
def charge(
    t: Tables,
    jobs: Sequence[UUID],
    inputs: Sequence[int],
    outputs: Sequence[int],
    cached: Sequence[int],
    costs: Sequence[int],
    low: UUID,
    high: UUID,
) -> Rows:
    del low, high
    charged: dict[UUID, JobRow] = {}
    for job, *amounts in zip(jobs, inputs, outputs, cached, costs, strict=True):
        if (row := t.jobs.get(job)) is not None:
            sums = {name: row[name] + amount for name, amount in zip(_AMOUNTS, amounts, strict=True)}
            check_values(sums.values())
            charged[job] = t.jobs.change(job, **sums)
    return [{"id": row.id, "batch": row.batch} for row in charged.values()]


@statement
def hold_requests(t: Tables, places: Sequence[int]) -> Rows:
    """Nothing else runs meanwhile in any case."""
    del t, places
    return []


@statement
def recorded(t: Tables, jobs: Sequence[UUID], low: UUID, high: UUID) -> Rows:
    del low, high
    return [row for job in dict.fromkeys(jobs) for row in executions(t, job)]


@statement
def add_spend(
    t: Tables, day: date, deployments: Sequence[str], executions: Sequence[int], costs: Sequence[int]
) -> Rows:
    for deployment, count, cost in zip(deployments, executions, costs, strict=True):
        row = t.spend.get((day, deployment))
        was = (0, 0) if row is None else (row.executions, row.cost_nano_usd)
        t.spend.put(SpendRow(day=day, deployment=deployment, executions=was[0] + count, cost_nano_usd=was[1] + cost))
    return []


@statement
def spend(t: Tables, today: date) -> Rows:
    week: dict[str, list[SpendRow]] = defaultdict(list)
    for row in t.spend:
        if today - timedelta(days=6) <= row.day <= today:
            week[row.deployment].append(row)
    return [_week(name, rows, today) for name, rows in sorted(week.items())]


def _week(deployment: str, rows: Sequence[SpendRow], today: date) -> Columns:
    of_today = [row for row in rows if row.day == today]
    return {
        "deployment": deployment,
        "executions": sum(row.executions for row in rows),
        "cost_nano_usd": sum(row.cost_nano_usd for row in rows),
        "executions_today": sum(row.executions for row in of_today),
        "cost_today": sum(row.cost_nano_usd for row in of_today),
    }
