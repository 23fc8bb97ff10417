"""What is paused does not start, from the next dispatch on; when it is resumed, it goes on where it was."""

import pytest

from broker.core.controls import Controls
from broker.core.records import Audited, Pick, Requeue, Verdict
from broker.core.reserve import NoRoom, Placement, problem_of
from broker.core.suspects import Turn
from broker.errors import ControlsChanged
from broker.ports import Ledger
from broker.roles.daily_spend import DailySpend
from broker.roles.reserves import Reserves
from schemas.api import BatchCreate
from schemas.catalog import Catalog, Deployment, Model, Route
from schemas.control import Pause, PauseKind
from schemas.job import Lane
from schemas.ruling import Suspicion
from tests.builders import a_worker, an_entropy, an_entry, an_id, now
from tests.real.test_dispatch import a_beat, committed
from tests.real.test_services import a_principal, by_service, services  # noqa: F401 - a fixture

CATALOG = Catalog(
    models={"m": Model(route=(Route("d"),)), "n": Model(route=(Route("e"),))},
    deployments={name: Deployment(engine="simulated") for name in "de"},
)
BEATS = (a_beat("d", slots=8, reserve=1), a_beat("e", slots=8, reserve=1))


def a_pause(kind: PauseKind, name: str) -> Pause:
    return Pause(kind=kind, name=name, paused_ms=now(), tenant="ops", key="k", reason="a test")


def somebody() -> Audited:
    return Audited(an_id(), now(), "ops", "k")


async def test_a_dispatch_that_was_chosen_before_a_pause_starts_nothing(ledger: Ledger) -> None:
    term = await ledger.leadership.lead("me", lease_ms=60_000)
    assert term is not None
    entry = an_entry()
    await ledger.intake.admit([entry])
    picks, before = [Pick(entry.flow, entry.place, "d")], (await ledger.controls.read()).version
    await ledger.controls.pause(a_pause(PauseKind.MODEL, "m"), somebody())

    with pytest.raises(ControlsChanged):
        await ledger.attempts.dispatch(picks, term=term, controls=before, now=now())

    assert await ledger.attempts.running() == []
    after = (await ledger.controls.read()).version
    assert len(await ledger.attempts.dispatch(picks, term=term, controls=after, now=now())) == 1


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (PauseKind.MODEL, "m"),
        (PauseKind.LANE, "interactive"),
        (PauseKind.TENANT, "default"),
        (PauseKind.DEPLOYMENT, "d"),
        (PauseKind.LANE, "bulk"),
    ],
)
async def test_a_request_to_what_is_paused_is_refused_and_says_why(
    ledger: Ledger, kind: PauseKind, name: str
) -> None:
    controls = Controls(1, (a_pause(kind, name),))
    reserves = Reserves(
        catalog=lambda: CATALOG,
        beats=lambda: BEATS,
        daily_spend=DailySpend(ledger.spend, now),
        clock=now,
        entropy=an_entropy,
        controls=lambda: controls,
    )

    placed = reserves.place(an_entry(lane=Lane.INTERACTIVE), "m", ())

    if name == "bulk":
        assert isinstance(placed, Placement)
    else:
        assert isinstance(placed, NoRoom)
        problem = problem_of(placed, "m")
        assert problem.code == "paused"
        assert f"the {kind} {name} is paused by ops/k: a test" in problem.message


async def test_a_suspect_that_is_paused_gets_no_run_apart(ledger: Ledger) -> None:
    batch = (await ledger.batches.create(BatchCreate(id=an_id()), "default", now())).id
    [attempt] = await committed(ledger, an_entry(batch=batch), "d")
    suspicion = Suspicion(an_id())
    back = Requeue(now(), counted=False, suspicion=suspicion)
    await ledger.settlement.settle([Verdict(job=attempt.job, attempt=1, transition=back, executed=None)], now=now())
    term = await ledger.leadership.lead("me", lease_ms=60_000)
    assert term is not None
    turn = Turn(a_worker(), "d", suspicion.group, (attempt.job,))
    await ledger.controls.pause(a_pause(PauseKind.BATCH, str(batch)), somebody())

    waiting, started = (
        await ledger.suspects.waiting(),
        await ledger.suspects.dispatch(turn, term=term, now=now()),
    )
    await ledger.controls.resume(PauseKind.BATCH, str(batch), somebody())

    assert waiting == []
    assert started == []
    assert len(await ledger.suspects.waiting()) == 1
