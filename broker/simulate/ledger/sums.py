"""Compares the ledger with itself: Σ executions = Σ jobs = Σ batches = spend, and each job stands in one place.

The same is compared as by sums_of_jobs.sql and sums_of_all.sql.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from uuid import UUID

from broker.core.records import SumCheck
from broker.simulate.ledger.statements.batches import ended_of
from broker.simulate.ledger.statements.reading import failure_kind
from broker.simulate.ledger.statements.settlement import executions
from broker.simulate.ledger.stored import BatchRow, JobRow
from broker.simulate.ledger.tables import Tables
from broker.simulate.ledger.transactions import Area, transaction
from schemas.units import Ms

_AMOUNTS = ("input_tokens", "output_tokens", "cached_tokens", "cost_nano_usd")
_STATES = ("succeeded", "failed", "expired", "cancelled", "dead")


class MemorySums(Area):
    """Implements `broker.ports.SumsLedger`."""

    @transaction
    def check(self, *, within_s: float) -> SumCheck:  # noqa: ARG002 - it takes no time
        return SumCheck(tuple(disagreements(self._tables)), checked_from_ms=Ms(0), is_whole=True)


def disagreements(tables: Tables) -> Iterator[str]:
    """Say where the tables disagree, a sentence each."""
    places = [*tables.waiting, *tables.delayed, *tables.running, *tables.results]
    known = [row.job for row in places] + [row.job for row in tables.executions]
    for job in sorted({*tables.jobs_by_id.keys(), *known}):
        yield from _of_job(tables, job)
    for row in tables.results:
        job_row = tables.jobs.get(row.job)
        if job_row is not None and (row.batch != job_row.batch or (row.batch is None) != (row.ordinal is None)):
            yield f"the result of job {row.job} is number {row.ordinal} of batch {row.batch}, its job of {job_row.batch}"
    yield from _of_failures(tables)
    yield from _of_batches(tables)
    yield from _of_spend(tables)


def _of_job(tables: Tables, job: UUID) -> Iterator[str]:
    """Compare a job with its executions, and with where it stands."""
    row, ran = tables.jobs.get(job), executions(tables, job)
    useful = [one for one in ran if not one.waste]
    sums = tuple(sum(one[name] for one in ran) for name in _AMOUNTS)
    if row is None:
        if useful:
            yield f"job {job} is not recorded, its executions {sums}"
    elif (amounts := tuple(row[name] for name in _AMOUNTS)) != sums:
        yield f"job {job} has {amounts}, its executions {sums}"
    tables_of_places = (tables.waiting, tables.delayed, tables.running)
    stands, results = sum(job in table for table in tables_of_places), int(job in tables.results)
    should = (1, 0) if row is not None and row.state == "open" else (0, 0 if row is None else 1)
    if (stands, results) != should:
        state = "not recorded" if row is None else row.state
        yield f"job {job} is {state} and stands in {stands} places, {results} of them results"
    if row is not None:
        answers = [one for one in useful if one.outcome == "succeeded"]
        most = {"open": 0}.get(row.state, 1)
        if len(useful) > most or (row.state == "succeeded" and len(answers) != 1):
            yield f"job {job} is {row.state}, and {len(useful)} of its executions are not waste"
        yield from _of_place(tables, row)


def _of_place(tables: Tables, row: JobRow) -> Iterator[str]:
    waits = tables.place_of(row.id)
    if waits is None:
        return
    at = (waits.model, waits.lane, waits.tenant, waits.rank, waits.deadline_ms, waits.batch)
    place = (row.model, row.lane, row.tenant, -row.priority, row.deadline_ms, row.batch)
    if at != place:
        yield f"job {row.id} waits at {at}, and its place is {place}"


def _of_failures(tables: Tables) -> Iterator[str]:
    """Compare the failures with the jobs. One that is older than all jobs is of a day that is gone."""
    oldest = tables.jobs_by_id.keys(limit=1)
    said = {
        row.job: (row.state, row.tenant, row.model, row.batch, row.kind, row.ended_ms)
        for row in tables.failures
        if oldest and row.job >= oldest[0]
    }
    should = {
        row.id: (row.state, row.tenant, row.model, row.batch, failure_kind(row.state, row.failure), row.settled_ms)
        for row in tables.jobs
        if row.state not in {"open", "succeeded"}
    }
    for job in sorted({*said, *should}):
        if said.get(job) != should.get(job):
            yield f"job {job} is {should.get(job)}, its failure {said.get(job)}"


def _of_batches(tables: Tables) -> Iterator[str]:
    """Compare the counters of batches with their jobs, and how many have ended with the numbers of their results."""
    held: dict[UUID, Counter[str]] = defaultdict(Counter)
    for row in tables.jobs:
        if row.batch is not None:
            held[row.batch].update({"admitted": 1, row.state: 1, **{name: row[name] for name in _AMOUNTS}})
    ordinals: dict[UUID, list[int | None]] = defaultdict(list)
    for result in tables.results:
        if result.batch is not None:
            ordinals[result.batch].append(result.ordinal)
    for batch in sorted(tables.batches, key=_id_of):
        has = {name: batch[name] for name in ("admitted", *_STATES, *_AMOUNTS)}
        jobs = {name: held[batch.id][name] for name in has}
        if has != jobs:
            yield f"batch {batch.id} has {has}, its jobs {jobs}"
        if sorted(number or 0 for number in ordinals[batch.id]) != list(range(1, ended_of(batch) + 1)):
            yield f"batch {batch.id} has the results {ordinals[batch.id]}, and {ended_of(batch)} ended"


def _of_spend(tables: Tables) -> Iterator[str]:
    """Compare what deployments spent with what their executions cost, in money and in number."""
    charged: dict[str, tuple[int, int]] = {}
    spent: dict[str, tuple[int, int]] = {}
    for execution in tables.executions:
        if execution.cost_nano_usd:
            cost, count = charged.get(execution.deployment, (0, 0))
            charged[execution.deployment] = (cost + execution.cost_nano_usd, count + 1)
    for row in tables.spend:
        cost, count = spent.get(row.deployment, (0, 0))
        spent[row.deployment] = (cost + row.cost_nano_usd, count + row.executions)
    for deployment in sorted({*charged, *spent}):
        if charged.get(deployment) != spent.get(deployment):
            has, should = spent.get(deployment), charged.get(deployment)
            yield f"deployment {deployment} spent {has}, its executions {should}"


def _id_of(row: BatchRow) -> UUID:
    return row.id
