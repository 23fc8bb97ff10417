"""Decides what becomes of jobs, on what workers report and brokers rule."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import assert_never
from uuid import UUID

from msgspec.structs import replace

from broker.core import retry, route
from broker.core.backoff import wait_ms
from broker.core.body import body_hash
from broker.core.price import Prices, cost_of
from broker.core.records import Entry, Executed, Final, Ignore, OpenJob, Requeue, Verdict
from broker.core.relay import ends_request
from broker.core.ruling import put_back, ruling_transition
from schemas.api import State
from schemas.catalog import Catalog
from schemas.job import Attempt
from schemas.outcome import (
    Cancelled,
    EngineFault,
    Expired,
    Failed,
    Failure,
    Released,
    Report,
    Succeeded,
    Usage,
    counts,
    failure_kind,
)
from schemas.ruling import Cancel, Convict, EndRequest, Expire, Lost, PutBack, Ruling, Suspect
from schemas.units import Ms, NanoUsd

_NONE_LOST: Mapping[UUID, Executed] = {}


def needs_job(item: Report | Ruling) -> bool:
    """Tell whether the verdict depends on the job's row. An interactive job has none."""
    match item:
        case Report(outcome=Failed() | Released() | Expired(), interactive=None) | PutBack() | Suspect() | Convict():
            return True
        case _:
            return False


def decide(
    items: Sequence[Report | Ruling],
    jobs: Mapping[UUID, OpenJob],
    *,
    prices: Prices,
    lost: Mapping[UUID, Executed] = _NONE_LOST,
    alive: Collection[str] = (),
    received: Sequence[Ms] = (),
    now: Ms,
    unit: float,
) -> list[Verdict]:
    """Decide on each report and ruling, in their order. `received` says when each came; if it is empty, all came `now`.

    Of several on one job the best decides (see `_rank`). The others change nothing, but the cost of the reports among
    them is recorded, once for each execution. `alive` are the deployments that can take a job now. `lost` is what to record
    of lost executions (see `core.lost`), unless they are reported here after all.
    """
    if lost:
        reported = {item.execution for item in items if isinstance(item, Report)}
        lost = {execution: executed for execution, executed in lost.items() if execution not in reported}
    verdicts: dict[int, Verdict] = {}
    for indexes in _by_job(items):
        best, *others = indexes if len(indexes) == 1 else sorted(indexes, key=lambda index: _rank(items[index]))
        item = items[best]
        transition = _transition(item, jobs.get(item.job), catalog=prices.catalog, alive=alive, now=now, unit=unit)
        at = received[best] if received else now
        verdicts[best] = _verdict(item, transition, lost, prices, at)
        recorded = {_execution(item)} if others else set()
        for index in others:
            at = received[index] if received else now
            verdicts[index] = _without_effect(items[index], recorded, lost, prices, at)
    return [verdicts[index] for index in range(len(items))]


def _without_effect(
    item: Report | Ruling, recorded: set[UUID | None], lost: Mapping[UUID, Executed], prices: Prices, at: Ms
) -> Verdict:
    """Record its cost only, and not even that if its execution is `recorded` already: a message may come twice."""
    verdict = _verdict(item, Ignore(), lost, prices, at)
    if (execution := _execution(item)) in recorded:
        return replace(verdict, executed=None)
    recorded.add(execution)
    return verdict


def _execution(item: Report | Ruling) -> UUID | None:
    """Identify the execution of a report, or of what was lost. None for another ruling."""
    return item.execution if isinstance(item, Report | Lost) else None


def unrecordable(verdict: Verdict) -> Verdict:
    """Replace a verdict that Postgres refused although its values are in their bounds, such as one that sums overflow at.

    The job ends as failed. What its execution used and cost is left out.
    """
    failure = EngineFault("its outcome cannot be recorded: see the dead letters")
    executed = verdict.executed
    if executed is not None:
        free = NanoUsd(0)
        executed = replace(
            executed, failure=failure_kind(failure), usage=Usage(), cost_nano_usd=free, cost_source="unrecorded"
        )
    changes_job = not isinstance(verdict.transition, Ignore)
    transition = Final(State.FAILED, None, failure) if changes_job else verdict.transition
    return replace(verdict, transition=transition, executed=executed)


def _by_job(items: Sequence[Report | Ruling]) -> Iterable[list[int]]:
    """Group the indexes of the items by job. An id may also name interactive requests of any tenant, kept apart."""
    indexes: dict[tuple[int, tuple[str, Ms, bytes] | None], list[int]] = defaultdict(list)
    for index, item in enumerate(items):
        request = item.interactive
        identity = None if request is None else (request.tenant, request.admitted_ms, request.body)
        indexes[item.job.int, identity].append(index)
    return indexes.values()


def _rank(item: Report | Ruling) -> tuple[int, int, bool, int]:
    """Rank an item among several on one job; the lowest decides.

    First a success, of any attempt; then a report that ends a request, since it says more than the ruling beside it; then
    a ruling that ends the job; then the newest attempt, and of its executions the one that started first. That an execution
    was lost says least: the job goes on.
    """
    match item:
        case Report(attempt=attempt, execution=execution, outcome=Succeeded()):
            return 0, -attempt, False, execution.int
        case Report(attempt=attempt, execution=execution, interactive=Attempt()) if ends_request(item.outcome):
            return 1, -attempt, False, execution.int
        case Expire() | EndRequest():
            return 2, 0, False, 0
        case PutBack(_, attempt) | Suspect(_, attempt) | Convict(_, attempt) | Cancel(_, attempt):
            return 3, -attempt, True, 0
        case Lost():  # it decides nothing, so it must hide nothing that does
            return 4, 0, True, 0
        case Report(attempt=attempt, execution=execution, outcome=outcome):
            return 3, -attempt, isinstance(outcome, Released), execution.int
        case _:
            assert_never(item)


def _transition(
    item: Report | Ruling,
    job: OpenJob | None,
    *,
    catalog: Catalog,
    alive: Collection[str],
    now: Ms,
    unit: float,
) -> Final | Requeue | Ignore:
    if not isinstance(item, Report):
        return ruling_transition(item, job, now=now)
    if item.interactive is not None and not ends_request(item.outcome):
        return Ignore()
    match item.outcome:
        case Succeeded(body):
            return Final(State.SUCCEEDED, body, None)
        case Expired():  # says a worker; whether it is so, this broker's clock says
            is_so = job is not None and job.deadline_ms <= now
            return Final(State.EXPIRED, None, None) if is_so else put_back(item.attempt, job, now=now)
        case Cancelled(body=body):
            return Final(State.CANCELLED, body, None)
        case Failed(failure) if item.interactive is not None:
            return Final(State.FAILED, None, failure)
        case Failed(failure):
            return _after_failure(item, failure, job, catalog=catalog, alive=alive, now=now, unit=unit)
        case Released():
            return put_back(item.attempt, job, now=now)
        case _:
            assert_never(item.outcome)


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
    """Requeue now if a live deployment has not failed this job yet. Otherwise requeue with back-off: on any deployment if
    all have failed it, else on those that are only away. A job that is out of attempts or of time ends, as does one whose
    failure is not tried again by the policy of its model.
    """
    if job is None or job.attempt != report.attempt:
        return Ignore()
    policy, counted, spent = retry.policy_of(job.model, catalog), counts(failure), job.attempt - job.uncounted
    if (end := retry.end_after(failure, policy, spent=spent, max_attempts=job.max_attempts)) is not None:
        return Final(end, None, failure)
    tried = job.tried if report.deployment in job.tried else (*job.tried, report.deployment)
    if route.candidates(job.model, catalog=catalog, alive=alive, tried=tried):
        return Requeue(now, counted=counted, tried=tried)
    spread = (unit + (job.job.int & 0xFFFF) / 0x10000) % 1.0
    again = Ms(now + wait_ms(failure, spent if counted else job.attempt, policy=policy, unit=spread))
    if again >= job.deadline_ms:
        return Final(State.DEAD if counted else State.EXPIRED, None, failure)
    return Requeue(
        again, counted=counted, tried=tried if route.untried(job.model, catalog=catalog, tried=tried) else ()
    )


def _verdict(
    item: Report | Ruling, transition: Final | Requeue | Ignore, lost: Mapping[UUID, Executed], prices: Prices, at: Ms
) -> Verdict:
    if isinstance(item, Lost):
        return Verdict(job=item.job, attempt=item.attempt, transition=transition, executed=lost.get(item.execution))
    return Verdict(
        job=item.job,
        attempt=item.attempt,
        transition=transition,
        executed=_executed(item, prices, at) if isinstance(item, Report) else None,
        entry=None if item.interactive is None else entry_of(item.interactive),
    )


def _executed(report: Report, prices: Prices, at: Ms) -> Executed:
    """Make the record of a report that came `at` this instant. By the worker's clock it may have started at any time."""
    outcome = report.outcome
    cost, source = cost_of(report, prices)
    return Executed(
        id=report.execution,
        attempt=report.attempt,
        delivery=report.delivery,
        deployment=report.deployment,
        worker=report.worker,
        outcome=str(outcome.__struct_config__.tag),
        failure=failure_kind(outcome.failure) if isinstance(outcome, Failed) else None,
        usage=outcome.usage,
        cost_nano_usd=cost,
        cost_source=source,
        started_ms=Ms(max(0, at - report.timings.run_ms)),
        queue_ms=report.timings.queue_ms,
        ttft_ms=report.timings.ttft_ms,
        run_ms=report.timings.run_ms,
        mended=isinstance(outcome, Succeeded) and outcome.mended,
    )


def entry_of(attempt: Attempt) -> Entry:
    """Make the entry of an interactive attempt's job, as intake would have recorded it."""
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
