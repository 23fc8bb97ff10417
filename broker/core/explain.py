"""Explains why jobs wait, for `status` and `job show`, also those that are not in the ledger yet."""

from collections import Counter
from collections.abc import Mapping, Sequence
from uuid import UUID

import msgspec
from msgspec.structs import replace

from broker.core import route
from broker.core.admit import DEFAULT_DEADLINE_MS
from broker.core.controls import Controls
from broker.core.pools import Pool, clock_time, holds
from broker.core.records import Flow
from broker.core.retry import policy_of
from schemas.api import Hold, HoldCode, JobShow, LaneBacklog, ModelStatus, PoolStatus, State
from schemas.catalog import Catalog
from schemas.ids import ms_of
from schemas.job import Job
from schemas.outcome import Usage
from schemas.subjects import DEFAULT, Source
from schemas.units import Ms, NanoUsd

_NONE = Controls()


def with_holds(
    job: JobShow,
    *,
    catalog: Catalog,
    pools: Mapping[str, Pool],
    controls: Controls = _NONE,
    tenant: str = DEFAULT,
    now: Ms,
) -> JobShow:
    """Add to a job of the ledger what holds it, if it waits."""
    if job.waiting is None:
        return job
    stopped = controls.holds(Flow(job.model, job.lane, tenant), job.batch)
    if job.waiting.suspected:
        suspected = Hold(HoldCode.SUSPECTED, "suspected: its worker died, waits for a run apart")
        return replace(job, waiting=replace(job.waiting, ahead=0, holds=(*stopped, suspected)))
    found = holds(job.model, catalog=catalog, pools=pools, tried=job.waiting.tried)
    if job.not_before_ms is not None and job.not_before_ms > now:
        message = f"backing off after a failed attempt, tried again at {clock_time(job.not_before_ms)}"
        found = (Hold(HoldCode.BACKING_OFF, message, job.not_before_ms), *found)
    return replace(job, waiting=replace(job.waiting, holds=(*stopped, *found)))


def pool_status(pool: Pool) -> PoolStatus:
    return PoolStatus(
        deployment=pool.deployment,
        workers=pool.workers,
        slots=pool.slots,
        reserve=pool.reserve,
        running=pool.running,
        interactive=pool.interactive,
        hold=pool.hold,
        requests_waiting=pool.wanted,
    )


def model_statuses(
    catalog: Catalog, pools: Mapping[str, Pool], backlog: Sequence[LaneBacklog], controls: Controls = _NONE
) -> tuple[ModelStatus, ...]:
    """Describe the catalog's models in its order, then those that only waiting jobs still name."""
    waiting: Counter[str] = Counter()
    for lane in backlog:
        waiting[lane.model] += lane.waiting
    return tuple(
        ModelStatus(
            model=model,
            deployments=tuple(entry.deployment for entry in route.entries(model, catalog)),
            waiting=waiting[model],
            holds=(*controls.model(model), *holds(model, catalog=catalog, pools=pools)),
        )
        for model in {**catalog.models, **waiting}
    )


def accepted(id: UUID, source: Source, job: Job, *, catalog: Catalog) -> JobShow:  # noqa: A002 - the job's own word
    """Describe a job that is in SUBMIT and that intake has not looked at: it may still be refused."""
    submitted = ms_of(id)
    deadline = Ms(submitted + DEFAULT_DEADLINE_MS[source.lane]) if job.deadline_ms is None else Ms(job.deadline_ms)
    return JobShow(
        id=id,
        state=State.ACCEPTED,
        lane=source.lane,
        priority=job.priority or 0,
        model=source.model,
        endpoint=job.endpoint,
        batch=job.batch,
        line=job.line,
        custom_id=job.custom_id,
        attempt=0,
        max_attempts=job.max_attempts or policy_of(source.model, catalog).max_attempts,
        admitted_ms=submitted,
        deadline_ms=deadline,
        dispatched_ms=None,
        settled_ms=None,
        not_before_ms=None,
        failure=None,
        usage=Usage(),
        cost_nano_usd=NanoUsd(0),
        metadata=job.metadata or {},
        executions=(),
        body=msgspec.Raw(b"null"),
    )
