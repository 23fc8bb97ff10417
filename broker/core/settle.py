"""The verdict on what workers report."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import assert_never
from uuid import UUID

from msgspec.structs import replace

from broker.core import route
from broker.core.body import body_hash
from broker.core.price import price_nano_usd
from broker.core.records import Entry, Executed, Final, Ignore, OpenJob, Requeue, Running, Verdict
from broker.core.retry import wait_ms
from schemas.api import State
from schemas.catalog import Catalog
from schemas.job import Attempt
from schemas.outcome import (
    Cancelled,
    EngineFault,
    Expired,
    Failed,
    Failure,
    Outcome,
    Released,
    Report,
    Succeeded,
    Timings,
    Usage,
    WorkerLost,
    counts,
    failure_kind,
    retryable,
)
from schemas.units import Ms, NanoUsd

BROKER = "-"
"""Deployment and worker of a report that the broker itself made."""
UNPRICED = "none"
"""Cost source of an execution whose deployment names no price."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """The deployments' prices, and where they are from."""

    catalog: Catalog
    source: str
    """Kept on every execution, such as `catalog:7`."""


def needs_look(report: Report) -> bool:
    """Whether the verdict depends on the job's row. A success does not, nor does an interactive job: it has none."""
    return report.live is None and not isinstance(report.outcome, Succeeded)


def decide(
    reports: Sequence[Report],
    jobs: Mapping[UUID, OpenJob],
    *,
    prices: Prices,
    alive: Collection[str] = (),
    now: Ms,
    unit: float,
) -> list[Verdict]:
    """One verdict a report. Of several reports of one job the best decides, the others only cost. `alive` are the
    deployments that can take a job now: only to them is it worth going at once.
    """
    verdicts: dict[int, Verdict] = {}
    for places in _by_job(reports):
        deciding = places[0] if len(places) == 1 else min(places, key=lambda place: _rank(reports[place]))
        for place in places:
            report = reports[place]
            transition = (
                _transition(report, jobs.get(report.job), catalog=prices.catalog, alive=alive, now=now, unit=unit)
                if place == deciding and not _goes_on(report)
                else Ignore()
            )
            verdicts[place] = _verdict(report, transition, prices)
    return [verdicts[place] for place in range(len(reports))]


def unstorable(verdict: Verdict) -> Verdict:
    """The same report, when Postgres refused what it says (a NUL in a text, a number beyond 64 bits): the job ends,
    without that.
    """
    failure = EngineFault("its outcome held something that cannot be recorded")
    executed, entry = verdict.executed, verdict.entry
    if executed is not None:
        executed = replace(
            executed,
            failure=failure_kind(failure),
            worker="?",
            usage=Usage(),
            cost_nano_usd=NanoUsd(0),
            cost_source="?",
        )
    if entry is not None:
        entry = replace(entry, custom_id=None, metadata=None, traceparent=None)
    return replace(verdict, transition=Final(State.FAILED, None, failure), executed=executed, entry=entry)


def last_word(attempt: Attempt, failure: Failure, now: Ms) -> Report:
    """The gateway's own report on an interactive request that it gives up on: no worker's word decides it any more."""
    timings = Timings(started_ms=now, queue_ms=Ms(0), run_ms=Ms(0))
    return Report(
        job=attempt.job,
        attempt=attempt.number,
        delivery=0,
        deployment=BROKER,
        worker=BROKER,
        outcome=Failed(failure),
        timings=timings,
        live=replace(attempt, fallback=False),
    )


def expiry(job: UUID, now: Ms) -> Report:
    """The broker's own report on a job whose deadline passed where no worker could see it."""
    return _own_report(job, 0, Expired(), now)


def released(running: Running, now: Ms) -> Report:
    """The broker's own report on an attempt that no worker is left to run."""
    return _own_report(running.job, running.attempt, Released(), now)


def _own_report(job: UUID, attempt: int, outcome: Outcome, now: Ms) -> Report:
    return Report(
        job=job,
        attempt=attempt,
        delivery=0,
        deployment=BROKER,
        worker=BROKER,
        outcome=outcome,
        timings=Timings(started_ms=now, queue_ms=Ms(0), run_ms=Ms(0)),
    )


def stranded(
    running: Iterable[Running],
    models: Mapping[UUID, str],
    *,
    catalog: Catalog,
    alive: Collection[str],
    silent: Collection[str],
) -> list[Running]:
    """Attempts on `silent` deployments, which have had no worker for long, that others could run: their model's route
    has one that is alive, or has no place for the silent one any more. `models` are the jobs'.
    """
    found = []
    for one in running:
        if one.deployment in silent and one.job in models:
            model = models[one.job]
            is_dropped = all(entry.deployment != one.deployment for entry in route.entries(model, catalog))
            if is_dropped or route.candidates(model, catalog=catalog, alive=alive):
                found.append(one)
    return found


def _by_job(reports: Sequence[Report]) -> Iterable[list[int]]:
    """Apart where one id stands for a job and for an interactive request too."""
    places: dict[tuple[int, bool], list[int]] = defaultdict(list)
    for place, report in enumerate(reports):
        places[report.job.int, report.live is None].append(place)
    return places.values()


def _rank(report: Report) -> tuple[bool, int, bool, int]:
    """A success first, of whatever attempt, then the newest attempt's first delivery that was not put back."""
    outcome = report.outcome
    return not isinstance(outcome, Succeeded), -report.attempt, isinstance(outcome, Released), report.delivery


def _transition(
    report: Report, job: OpenJob | None, *, catalog: Catalog, alive: Collection[str], now: Ms, unit: float
) -> Final | Requeue | Ignore:
    match report.outcome:
        case Succeeded(body):
            return Final(State.SUCCEEDED, body, None)
        case Failed(failure):
            if report.live is not None:
                return Final(State.FAILED, None, failure)
            return _after_failure(report, failure, job, catalog=catalog, alive=alive, now=now, unit=unit)
        case Expired():
            return Final(State.EXPIRED, None, None)
        case Cancelled():
            return Final(State.CANCELLED, None, None)
        case Released() if report.live is None:
            return _after_release(report, job, now)
        case Released():
            return Final(State.CANCELLED, None, None)
        case _:
            assert_never(report.outcome)


def _goes_on(report: Report) -> bool:
    """An interactive attempt after which the gateway tries another deployment, or reports itself that it cannot."""
    if report.live is None or not report.live.fallback:
        return False
    outcome = report.outcome
    return isinstance(outcome, Released) or (isinstance(outcome, Failed) and retryable(outcome.failure))


def _after_release(report: Report, job: OpenJob | None, now: Ms) -> Requeue | Ignore:
    if job is None or job.state is not State.RUNNING or job.attempt != report.attempt:
        return Ignore()
    return Requeue(now, counted=False, tried=job.tried)


def _after_failure(
    report: Report,
    failure: Failure,
    job: OpenJob | None,
    *,
    catalog: Catalog,
    alive: Collection[str],
    now: Ms,
    unit: float,
) -> Final | Requeue | Ignore:
    """Another deployment at once, while one is alive that has not failed the job; else again, later: wherever, when
    the whole route has failed it, and there rather than here, when the rest is only away.
    """
    if job is None or job.attempt != report.attempt:
        return Ignore()
    if isinstance(failure, WorkerLost):
        return Final(State.DEAD, None, failure)
    if not retryable(failure):
        return Final(State.FAILED, None, failure)
    counted = counts(failure)
    spent = job.attempt - job.uncounted
    if counted and spent >= job.max_attempts:
        return Final(State.DEAD, None, failure)
    tried = job.tried if report.deployment in job.tried else (*job.tried, report.deployment)
    if route.candidates(job.model, catalog=catalog, alive=alive, tried=tried):
        return Requeue(now, counted=counted, tried=tried)
    spread = (unit + (job.job.int & 0xFFFF) / 0x10000) % 1.0
    again = Ms(now + wait_ms(failure, spent if counted else job.attempt, unit=spread))
    if again >= job.deadline_ms:
        return Final(State.DEAD if counted else State.EXPIRED, None, failure)
    return Requeue(
        again, counted=counted, tried=tried if route.untried(job.model, catalog=catalog, tried=tried) else ()
    )


def _verdict(report: Report, transition: Final | Requeue | Ignore, prices: Prices) -> Verdict:
    return Verdict(
        job=report.job,
        attempt=report.attempt,
        transition=transition,
        executed=_executed(report, prices) if report.delivery else None,
        entry=None if report.live is None else entry_of(report.live),
    )


def _executed(report: Report, prices: Prices) -> Executed:
    outcome = report.outcome
    cost, source = _cost(report, prices)
    return Executed(
        delivery=report.delivery,
        deployment=report.deployment,
        worker=report.worker,
        outcome=str(outcome.__struct_config__.tag),
        failure=failure_kind(outcome.failure) if isinstance(outcome, Failed) else None,
        usage=outcome.usage,
        cost_nano_usd=cost,
        cost_source=source,
        started_ms=report.timings.started_ms,
        queue_ms=report.timings.queue_ms,
        ttft_ms=report.timings.ttft_ms,
        run_ms=report.timings.run_ms,
    )


def _cost(report: Report, prices: Prices) -> tuple[NanoUsd, str]:
    if (charge := report.outcome.charge) is not None:
        return charge.nano_usd, charge.source
    deployment = prices.catalog.deployments.get(report.deployment)
    if deployment is None or deployment.price is None:
        return NanoUsd(0), UNPRICED
    usage = report.outcome.usage
    return price_nano_usd(usage, deployment.price), f"{prices.source}:estimate" if usage.estimated else prices.source


def entry_of(attempt: Attempt) -> Entry:
    """The job behind an interactive attempt, as the ledger would have taken it in."""
    return Entry(
        id=attempt.job,
        tenant=attempt.tenant,
        key=attempt.key or "",
        lane=attempt.lane,
        model=attempt.model,
        endpoint=attempt.endpoint,
        body=attempt.body,
        body_hash=body_hash(attempt.endpoint, attempt.body),
        admitted_ms=attempt.admitted_ms,
        deadline_ms=attempt.deadline_ms,
        max_attempts=1,
        custom_id=attempt.custom_id,
        metadata=attempt.metadata,
        traceparent=attempt.traceparent,
    )
