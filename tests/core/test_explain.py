"""What `status` and `job show` say of what waits."""

from broker.core.explain import model_statuses, pool_status
from schemas.api import Hold, HoldCode, LaneBacklog, ModelStatus, PoolStatus
from schemas.catalog import Route
from schemas.job import Lane
from schemas.units import Ms
from tests.builders import a_beat
from tests.core.test_pools import a_catalog, pools


def waiting(model: str, lane: Lane, count: int) -> LaneBacklog:
    return LaneBacklog(model=model, lane=lane, waiting=count, oldest_ms=Ms(0))


def test_a_model_says_where_it_goes_what_waits_for_it_and_why() -> None:
    catalog = a_catalog(Route("d"), Route("e"))
    backlog = [waiting("m", Lane.BULK, 3), waiting("m", Lane.STANDARD, 4), waiting("gone", Lane.BULK, 5)]

    found = model_statuses(catalog, pools(a_beat(draining=True), catalog=catalog), backlog)

    draining = Hold(HoldCode.DRAINING, "every worker of d is draining")
    nobody = Hold(HoldCode.NO_WORKER, "no worker serves e")
    gone = Hold(HoldCode.UNKNOWN_MODEL, "the active catalog has no model gone")
    assert found == (
        ModelStatus(model="m", deployments=("d", "e"), waiting=7, holds=(draining, nobody)),
        ModelStatus(model="gone", deployments=(), waiting=5, holds=(gone,)),
    )


def test_a_pool_says_what_it_has_and_what_holds_it() -> None:
    found = pools(a_beat(running=5, interactive=1), a_beat(draining=True))["d"]

    assert pool_status(found) == PoolStatus(
        deployment="d",
        workers=2,
        slots=4,
        reserve=1,
        running=4,
        interactive=1,
        hold=Hold(HoldCode.BUSY, "every worker of d is full"),
    )
