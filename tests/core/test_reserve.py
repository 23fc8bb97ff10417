"""Where an interactive request goes."""

from typing import Any

import pytest

from broker.core.caps import is_reached
from broker.core.records import Spend
from broker.core.reserve import Absent, Capped, Full, Gone, choose, in_use, problem_of
from schemas.api import Problem
from schemas.catalog import Catalog, Deployment, Model, Route
from schemas.outcome import Refused
from schemas.units import Ms, NanoUsd
from schemas.worker import WorkerBeat
from tests.builders import an_id

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


def test_a_spare_is_for_what_the_others_failed_and_for_when_they_are_away() -> None:
    assert chosen(a_beat("a", draining=True), a_beat("spare")) == "spare"
    assert chosen(*EVERYONE, tried=("a", "b")) == "spare"
    assert chosen(*EVERYONE, capped=lambda name: name != "spare") == "spare"
    assert chosen(a_beat("a", reserve=0), a_beat("spare")) == "spare"


def test_a_spare_gets_nothing_while_the_others_are_full() -> None:
    assert chosen(*EVERYONE, outstanding={"a": 1, "b": 1}) == Full()
    assert chosen(*EVERYONE, outstanding={"b": 1}, tried=("a",)) == Full()


def test_a_deployment_without_a_reserve_has_no_room() -> None:
    assert chosen(a_beat("a", reserve=0)) == Full()


def test_a_model_that_left_the_catalog_goes_nowhere() -> None:
    assert choose("gone", catalog=CATALOG, beats=EVERYONE, outstanding={}, unit=0.0) == Gone()


def test_a_spare_gets_nothing_wherever_it_stands_in_the_route() -> None:
    catalog = Catalog(models={"m": Model(route=(Route("spare", 0), Route("a", 1)))})

    assert choose("m", catalog=catalog, beats=EVERYONE, outstanding={}, unit=0.0) == "a"


def test_the_first_of_several_spares_is_taken() -> None:
    catalog = Catalog(models={"m": Model(route=(Route("b", 0), Route("a", 0)))})

    assert choose("m", catalog=catalog, beats=EVERYONE, outstanding={}, unit=0.999) == "b"


def test_weights_count_only_where_there_is_room() -> None:
    assert chosen(*EVERYONE, outstanding={"a": 1}, unit=0.0) == "b"
    assert chosen(a_beat("b"), a_beat("spare"), unit=0.0) == "b"


def test_the_workers_of_a_deployment_have_their_reserves_together() -> None:
    assert chosen(a_beat("a"), a_beat("a"), outstanding={"a": 1}) == "a"
    assert chosen(a_beat("a"), a_beat("a"), outstanding={"a": 2}) == Full()
    assert chosen(a_beat("a", live=1), a_beat("a", live=1)) == Full()
    assert chosen(a_beat("a", live=1), a_beat("a", live=0)) == "a"


def test_a_draining_worker_has_no_room_and_takes_none_from_others() -> None:
    assert chosen(a_beat("a", draining=True)) == Absent()
    assert chosen(a_beat("a", live=1, draining=True), a_beat("a")) == "a"


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


def test_a_capped_deployment_is_left_out() -> None:
    assert chosen(*EVERYONE, capped=lambda name: name == "a") == "b"
    assert chosen(*EVERYONE, capped=lambda _: True) == Capped()


def test_a_cap_counts_what_runs_at_the_days_mean() -> None:
    spent = Spend(NanoUsd(600_000_000), 6)

    assert not is_reached(None, spent, running=1000)
    assert not is_reached(1.0, spent, running=3)
    assert is_reached(1.0, spent, running=4)
    assert is_reached(0.0, Spend(NanoUsd(0), 0), running=0)


def test_a_refusal_says_why() -> None:
    job = an_id()

    codes = [problem_of(why, "m").code for why in (Full(), Absent(), Capped(), Gone())]
    assert codes == ["busy", "no_worker", "daily_cap", "unknown_model"]
    assert problem_of(Refused("code", "message", "field", 7), "m") == Problem("code", "message", "field", 7)
    assert (in_use(job).code, in_use(job).field) == ("id_in_use", "id")
    assert str(job) in in_use(job).message
