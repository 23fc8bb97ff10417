"""Explains why jobs wait, for `status` and `job show`."""

from collections import Counter
from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from broker.core import route
from broker.core.pools import Pool, clock_time, holds
from schemas.api import Hold, HoldCode, JobShow, LaneBacklog, ModelStatus, PoolStatus
from schemas.catalog import Catalog
from schemas.units import Ms


def with_holds(job: JobShow, *, catalog: Catalog, pools: Mapping[str, Pool], now: Ms) -> JobShow:
    """Add to a job of the ledger what holds it, if it waits."""
    if job.waiting is None:
        return job
    if job.waiting.suspected:
        suspected = Hold(HoldCode.SUSPECTED, "suspected: its worker died, waits for a run apart")
        return replace(job, waiting=replace(job.waiting, ahead=0, holds=(suspected,)))
    found = holds(job.model, catalog=catalog, pools=pools, tried=job.waiting.tried)
    if job.not_before_ms is not None and job.not_before_ms > now:
        message = f"backing off after a failed attempt, tried again at {clock_time(job.not_before_ms)}"
        found = (Hold(HoldCode.BACKING_OFF, message, job.not_before_ms), *found)
    return replace(job, waiting=replace(job.waiting, holds=found))


def pool_status(pool: Pool) -> PoolStatus:
    return PoolStatus(
        deployment=pool.deployment,
        workers=pool.workers,
        slots=pool.slots,
        reserve=pool.reserve,
        running=pool.running,
        interactive=pool.interactive,
        hold=pool.hold,
    )


def model_statuses(
    catalog: Catalog, pools: Mapping[str, Pool], backlog: Sequence[LaneBacklog]
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
            holds=holds(model, catalog=catalog, pools=pools),
        )
        for model in {**catalog.models, **waiting}
    )
