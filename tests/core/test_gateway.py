"""Where an interactive request goes."""

from typing import Any

import pytest

from broker.core.caps import is_reached
from broker.core.gateway import Absent, Capped, Full, choose, has_another
from broker.core.records import Spend
from schemas.catalog import Catalog, Deployment, Model, Route
from schemas.units import Ms, NanoUsd
from schemas.worker import WorkerBeat

CATALOG = Catalog(
    models={"m": Model(route=(Route("a", 3), Route("b", 1), Route("spare", 0)))},
    deployments={name: Deployment(engine="simulated") for name in ("a", "b", "spare")},
)


def a_beat(deployment: str, **changes: Any) -> WorkerBeat:
    fields: dict[str, Any] = {"slots": 1, "reserve": 1, "running": 0, "live": 0, "draining": False}
    return WorkerBeat(
        worker=deployment,
        deployment=deployment,
        engine="simulated",
        started_ms=Ms(0),
        at_ms=Ms(0),
        version="0",
        **{**fields, **changes},
    )


EVERYONE = [a_beat(name) for name in ("a", "b", "spare")]


def chosen(*beats: WorkerBeat, unit: float = 0.0, outstanding: dict[str, int] | None = None, **more: Any) -> object:
    return choose("m", catalog=CATALOG, beats=beats, outstanding=outstanding or {}, unit=unit, **more)


@pytest.mark.parametrize(("unit", "where"), [(0.0, "a"), (0.74, "a"), (0.76, "b"), (0.999, "b")])
def test_weights_decide_between_those_with_room(unit: float, where: str) -> None:
    assert chosen(*EVERYONE, unit=unit) == where


def test_a_spare_is_for_when_no_other_has_room() -> None:
    assert chosen(*EVERYONE, outstanding={"a": 1, "b": 1}) == "spare"
    assert chosen(*EVERYONE, outstanding={"a": 1, "b": 1, "spare": 1}) == Full()
    assert chosen(a_beat("a", draining=True), a_beat("spare")) == "spare"


def test_what_other_brokers_took_of_the_reserve_is_not_given_again() -> None:
    full = a_beat("a", reserve=3, live=3)

    assert chosen(full) == Full()
    assert chosen(a_beat("a", reserve=3, live=2)) == "a"
    assert chosen(a_beat("a", reserve=3, live=2), a_beat("a", reserve=3, live=3), outstanding={"a": 4}) == "a"
    assert chosen(full, outstanding={"a": 1}, peak={"a": 2}) == "a"
    assert chosen(full, outstanding={"a": 2}, peak={"a": 2}) == Full()


def test_what_ended_since_the_beat_is_room_again() -> None:
    assert chosen(a_beat("a", reserve=3, live=3), outstanding={"a": 0}, peak={"a": 3}) == "a"


def test_what_was_tried_is_not_tried_again() -> None:
    assert chosen(*EVERYONE, tried=("a",)) == "b"
    assert chosen(*EVERYONE, tried=("a", "b")) == "spare"
    assert chosen(*EVERYONE, tried=("a", "b", "spare")) == Absent()
    assert has_another("m", catalog=CATALOG, beats=EVERYONE, tried=("a", "b"))
    assert not has_another("m", catalog=CATALOG, beats=[a_beat("a")], tried=("a",))


def test_a_capped_deployment_is_left_out() -> None:
    assert chosen(*EVERYONE, capped=lambda name: name == "a") == "b"
    assert chosen(*EVERYONE, capped=lambda _: True) == Capped()


def test_a_cap_counts_what_runs_at_the_days_mean() -> None:
    spent = Spend(NanoUsd(600_000_000), 6)

    assert not is_reached(None, spent, running=1000)
    assert not is_reached(1.0, spent, running=3)
    assert is_reached(1.0, spent, running=4)
    assert is_reached(0.0, Spend(NanoUsd(0), 0), running=0)
