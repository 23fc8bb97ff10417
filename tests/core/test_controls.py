"""What may not start because somebody paused or cancelled it."""

from uuid import UUID

import pytest

from broker.core.controls import Controls
from broker.core.records import Flow, Place, WaitingJob
from schemas.api import HoldCode, State
from schemas.cancel import CancelChoice
from schemas.control import Pause, PauseKind
from schemas.job import Lane
from schemas.units import Ms

BATCH, OTHER = UUID(int=1), UUID(int=2)
FLOW = Flow("m", Lane.BULK, "t")


def a_pause(kind: PauseKind, name: str) -> Pause:
    return Pause(kind=kind, name=name, paused_ms=Ms(0), tenant="ops", key="k")


def job(batch: UUID | None, *, deadline: int = 1000, number: int = 7) -> WaitingJob:
    return WaitingJob(Place(0, Ms(deadline), UUID(int=number)), 0, batch=batch)


def test_a_flow_is_held_by_its_model_its_lane_and_its_tenant_and_by_no_other() -> None:
    others = [a_pause(PauseKind.MODEL, "t"), a_pause(PauseKind.TENANT, "m"), a_pause(PauseKind.LANE, "standard")]
    kinds = [a_pause(PauseKind.MODEL, "m"), a_pause(PauseKind.LANE, "bulk"), a_pause(PauseKind.TENANT, "t")]
    ready = {FLOW: [job(None)]}

    assert Controls(1, tuple(others)).may_start(ready) == ready
    for pause in kinds:
        assert Controls(1, (pause,)).may_start(ready) == {}
    assert [hold.code for hold in Controls(1, tuple(kinds)).holds(FLOW, None)] == [HoldCode.PAUSED] * 3


def test_jobs_of_stopped_batches_are_passed_over_until_their_deadline() -> None:
    controls = Controls(1, (a_pause(PauseKind.BATCH, str(BATCH)),), frozenset({OTHER}))
    free, late = job(None), job(BATCH, deadline=500)

    kept = controls.keeps(FLOW, [free, job(BATCH), job(OTHER), late], Ms(500))

    assert kept == [free, late]
    assert [hold.code for hold in controls.holds(FLOW, BATCH)] == [HoldCode.PAUSED]
    assert [hold.code for hold in controls.holds(FLOW, OTHER)] == [HoldCode.CANCELLING]
    assert controls.holds(FLOW, None) == ()


def test_only_a_batch_that_was_stopped_and_is_no_more_is_let_go() -> None:
    none, paused = Controls(1), Controls(2, (a_pause(PauseKind.BATCH, str(BATCH)),))

    assert none.let_go(paused)
    assert not paused.let_go(none)
    assert not Controls(3, (), frozenset({BATCH})).let_go(paused)


def test_a_deployment_that_is_paused_says_by_whom() -> None:
    controls = Controls(1, (a_pause(PauseKind.DEPLOYMENT, "d"),))

    hold = controls.deployment("d")

    assert hold is not None
    assert hold.message == "the deployment d is paused by ops/k"
    assert controls.deployment("e") is None


def at(ms: int, *, batch: UUID | None = None) -> WaitingJob:
    """A job whose id was made at this instant."""
    return WaitingJob(Place(0, Ms(10**12), UUID(int=ms << 80)), 0, batch=batch)


@pytest.mark.parametrize(
    ("order", "stopped"),
    [
        (CancelChoice(tenant="t", until_ms=Ms(100)), [50]),
        (CancelChoice(tenant="t", since_ms=Ms(60), until_ms=Ms(200)), [100]),
        (CancelChoice(tenant="t", batch=BATCH), [100]),
        (CancelChoice(tenant="t", model="m", lane=Lane.BULK), [50, 100]),
        (CancelChoice(tenant="t", states=(State.QUEUED,)), [50, 100]),
        (CancelChoice(tenant="t", states=(State.RUNNING,)), []),
        (CancelChoice(tenant="t", model="n"), []),
        (CancelChoice(tenant="t", lane=Lane.STANDARD), []),
        (CancelChoice(tenant="u"), []),
    ],
)
def test_what_an_order_to_cancel_names_does_not_start(order: CancelChoice, stopped: list[int]) -> None:
    controls = Controls(1, orders=(order,))
    jobs = [at(50), at(100, batch=BATCH)]

    kept = controls.keeps(FLOW, jobs, Ms(1000))

    assert [job.place.job.int >> 80 for job in jobs if job not in kept] == stopped


def test_what_an_order_named_is_read_again_when_it_is_carried_out() -> None:
    order = CancelChoice(tenant="t")

    assert Controls(2).let_go(Controls(1, orders=(order,)))
    assert not Controls(2, orders=(order,)).let_go(Controls(1, orders=(order,)))
