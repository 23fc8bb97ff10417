"""Where an interactive request goes."""

from collections.abc import Collection
from typing import Any

import pytest

from broker.core.limits import Account
from broker.core.pools import snapshot
from broker.core.reserve import (
    ModelGone,
    NoRoom,
    NotPlaced,
    Poison,
    choose_deployment,
    in_use,
    no_more_wait,
    problem_of,
)
from schemas.api import Hold, HoldCode, Problem
from schemas.catalog import Catalog, Deployment, Model, Route
from schemas.outcome import Refused
from schemas.units import Ms, NanoUsd
from schemas.worker import DENIED, Paused, WorkerBeat
from tests import builders
from tests.builders import an_id

ROUTE = (Route("a", 3), Route("b", 1), Route("spare", 0))
FULL = "every worker of {} is full"
NOBODY = "no worker serves {}"
CAPPED = "daily cap of 0.00 USD spent on {}, resumes 00:00 UTC"


def a_beat(deployment: str, *, interactive: int = 0, **changes: Any) -> WorkerBeat:
    """Of a worker whose one slot beside the reserve runs a job."""
    fields = {
        "deployment": deployment,
        "slots": 1,
        "reserve": 1,
        "running": interactive + 1,
        "interactive": interactive,
    }
    return builders.a_beat(**{**fields, **changes})


EVERYONE = [a_beat(name) for name in ("a", "b", "spare")]


def chosen(
    *beats: WorkerBeat,
    model: str = "m",
    route: tuple[Route, ...] = ROUTE,
    unit: float = 0.0,
    tried: Collection[str] = (),
    capped: Collection[str] = (),
    full: Collection[str] = (),
    offered: str | None = None,
    **known: Any,
) -> str | list[str]:
    """The deployment, or why there is none."""
    where = choice(
        *beats, model=model, route=route, unit=unit, tried=tried, capped=capped, full=full, offered=offered, **known
    )
    match where:
        case NoRoom(holds):
            return [hold.message for hold in holds]
        case ModelGone():
            return ["gone"]
        case Poison():
            return ["poison"]
        case _:
            return where


def waited_for(*beats: WorkerBeat, **known: Any) -> tuple[str, ...]:
    """The deployments for which a request may wait that finds no room."""
    where = choice(*beats, **known)
    assert isinstance(where, NoRoom)
    return where.full


def choice(
    *beats: WorkerBeat,
    model: str = "m",
    route: tuple[Route, ...] = ROUTE,
    unit: float = 0.0,
    tried: Collection[str] = (),
    capped: Collection[str] = (),
    full: Collection[str] = (),
    offered: str | None = None,
    **known: Any,
) -> str | NotPlaced:
    deployments = {
        name: Deployment(engine="simulated", daily_cap_usd=0.0 if name in capped else None)
        for name in ("a", "b", "spare")
    }
    catalog = Catalog(models={"m": Model(route=route)}, deployments=deployments)
    spent = Account(limit=NanoUsd(0), used=NanoUsd(0))
    pools = snapshot(catalog, beats, dict.fromkeys(capped, spent), now=Ms(0), **known)
    return choose_deployment(model, catalog=catalog, pools=pools, unit=unit, tried=tried, full=full, offered=offered)


def said(text: str, *names: str) -> list[str]:
    return [text.format(name) for name in names]


@pytest.mark.parametrize(("unit", "where"), [(0.0, "a"), (0.74, "a"), (0.76, "b"), (0.999, "b")])
def test_weights_decide_between_those_with_room(unit: float, where: str) -> None:
    assert chosen(*EVERYONE, unit=unit) == where


def test_a_spare_is_for_what_the_others_failed_and_for_when_they_are_away() -> None:
    assert chosen(a_beat("a", draining=True), a_beat("spare")) == "spare"
    assert chosen(*EVERYONE, tried=("a", "b")) == "spare"
    assert chosen(*EVERYONE, capped=("a", "b")) == "spare"


def test_a_spare_gets_nothing_while_the_others_are_full() -> None:
    assert chosen(*EVERYONE, handed_out={"a": 1, "b": 1}) == said(FULL, "a", "b")
    assert chosen(*EVERYONE, handed_out={"b": 1}, tried=("a",)) == said(FULL, "b")


def test_a_deployment_without_a_reserve_takes_requests_into_slots_that_are_free() -> None:
    assert chosen(a_beat("a", reserve=0, running=0)) == "a"
    assert chosen(a_beat("a", reserve=0)) == [*said(FULL, "a"), *said(NOBODY, "b", "spare")]


def test_requests_take_the_slots_beside_the_reserve_too() -> None:
    idle = a_beat("a", slots=4, reserve=1, running=0)

    assert chosen(idle, route=(Route("a"),), handed_out={"a": 4}) == "a"
    assert chosen(idle, route=(Route("a"),), handed_out={"a": 5}) == said(FULL, "a")


def test_one_that_others_wait_for_has_no_room_except_in_a_slot_that_it_offered() -> None:
    assert chosen(*EVERYONE, full={"a"}) == "b"
    assert chosen(*EVERYONE, full={"a", "b"}) == said(FULL, "a", "b")
    assert chosen(*EVERYONE, full={"a", "b"}, offered="b") == "b"
    assert chosen(a_beat("a", interactive=1), route=(Route("a"),), offered="a") == "a"
    assert chosen(a_beat("a", draining=True), route=(Route("a"),), offered="a") == ["every worker of a is draining"]


def test_a_request_may_wait_for_candidates_that_are_full_and_for_nothing_else() -> None:
    full = [a_beat(name, interactive=1) for name in ("a", "b", "spare")]

    assert waited_for(*full) == ("a", "b")
    assert waited_for(*full, tried=("a",)) == ("b",)
    assert waited_for(a_beat("a", interactive=1), a_beat("b", draining=True)) == ("a",)
    assert waited_for(a_beat("a", draining=True)) == ()
    assert waited_for(*full, capped=("a", "b", "spare")) == ()
    assert waited_for(*full, tried=("a", "b", "spare")) == ()
    assert waited_for(a_beat("a", slots=1, reserve=0, paused=Paused("throttled", "429", Ms(0)))) == ()


def test_a_model_that_left_the_catalog_goes_nowhere() -> None:
    assert chosen(*EVERYONE, model="other") == ["gone"]


def test_a_spare_gets_nothing_wherever_it_stands_in_the_route() -> None:
    assert chosen(*EVERYONE, route=(Route("spare", 0), Route("a", 1))) == "a"


def test_the_first_of_several_spares_is_taken() -> None:
    assert chosen(*EVERYONE, route=(Route("b", 0), Route("a", 0)), unit=0.999) == "b"


def test_weights_count_only_where_there_is_room() -> None:
    assert chosen(*EVERYONE, handed_out={"a": 1}, unit=0.0) == "b"
    assert chosen(a_beat("b"), a_beat("spare"), unit=0.0) == "b"


def test_the_workers_of_a_deployment_have_their_reserves_together() -> None:
    alone = (Route("a"),)

    assert chosen(a_beat("a"), a_beat("a"), handed_out={"a": 1}) == "a"
    assert chosen(a_beat("a"), a_beat("a"), route=alone, handed_out={"a": 2}) == said(FULL, "a")
    assert chosen(a_beat("a", interactive=1), a_beat("a", interactive=1), route=alone) == said(FULL, "a")
    assert chosen(a_beat("a", interactive=1), a_beat("a", interactive=0)) == "a"


def test_a_draining_worker_has_no_room_and_takes_none_from_others() -> None:
    assert chosen(a_beat("a", draining=True), route=(Route("a"),)) == ["every worker of a is draining"]
    assert chosen(a_beat("a", interactive=1, draining=True), a_beat("a")) == "a"


def test_what_other_brokers_took_of_the_reserve_is_not_given_again() -> None:
    full, alone = a_beat("a", reserve=3, interactive=3), (Route("a"),)

    assert chosen(full, route=alone) == said(FULL, "a")
    assert chosen(a_beat("a", reserve=3, interactive=2)) == "a"
    assert (
        chosen(
            a_beat("a", reserve=3, interactive=2),
            a_beat("a", reserve=3, interactive=3),
            handed_out={"a": 4},
            peak={"a": 4},
        )
        == "a"
    )
    assert chosen(full, handed_out={"a": 1}, peak={"a": 2}) == "a"
    assert chosen(full, route=alone, handed_out={"a": 2}, peak={"a": 2}) == said(FULL, "a")


def test_what_ended_since_the_beat_is_room_again() -> None:
    assert chosen(a_beat("a", reserve=3, interactive=3), handed_out={"a": 0}, peak={"a": 3}) == "a"


def test_what_was_tried_is_not_tried_again() -> None:
    assert chosen(*EVERYONE, tried=("a",)) == "b"
    assert chosen(*EVERYONE, tried=("a", "b")) == "spare"
    assert chosen(*EVERYONE, tried=("a", "b", "spare")) == []


def test_a_capped_deployment_is_left_out() -> None:
    assert chosen(*EVERYONE, capped=("a",)) == "b"
    assert chosen(*EVERYONE, capped=("a", "b", "spare")) == said(CAPPED, "a", "b", "spare")


def test_a_deployment_whose_provider_refuses_the_key_is_left_out() -> None:
    denied = a_beat("a", slots=0, reserve=0, paused=Paused(DENIED, "401", Ms(0)))

    assert chosen(denied, a_beat("b")) == "b"
    assert chosen(denied, route=(Route("a"),)) == ["denied 401 on a, being tried again"]


BUSY = Hold(HoldCode.BUSY, "every worker of a is full")
NO_WORKER = Hold(HoldCode.NO_WORKER, "no worker serves b")
REFUSED_KEY = Hold(HoldCode.DENIED, "denied 401 on c, being tried again")
SPENT = Hold(HoldCode.DAILY_CAP, "daily cap of 2.00 USD spent on d, resumes 00:00 UTC")


@pytest.mark.parametrize(
    ("hold", "when"), [(BUSY, "in a moment"), (REFUSED_KEY, "later"), (SPENT, "later"), (NO_WORKER, "later")]
)
def test_a_refusal_says_what_holds_the_model(hold: Hold, when: str) -> None:
    message = f"m takes no requests now ({hold.message}): try again {when}, or submit the job"

    assert problem_of(NoRoom([hold]), "m") == Problem(hold.code, message)


def test_a_refusal_says_when_to_come_back_if_the_end_of_a_hold_is_known() -> None:
    denied, spent = (Hold(HoldCode.DENIED, "x", Ms(9_000)), Hold(HoldCode.DAILY_CAP, "y", Ms(60_000)))

    assert problem_of(NoRoom([NO_WORKER, spent, denied]), "m", now=Ms(2_000)).retry_after_ms == 7_000
    assert problem_of(NoRoom([denied]), "m", now=Ms(10_000)).retry_after_ms == 0
    assert problem_of(NoRoom([denied]), "m").retry_after_ms is None
    assert problem_of(NoRoom([NO_WORKER]), "m", now=Ms(0)).retry_after_ms is None


def test_a_refusal_says_that_every_deployment_was_tried() -> None:
    assert problem_of(NoRoom([]), "m") == Problem("no_worker", "no deployment of m is left to try")


@pytest.mark.parametrize(
    ("holds", "code"),
    [
        ([NO_WORKER, REFUSED_KEY, SPENT, BUSY], "busy"),
        ([NO_WORKER, REFUSED_KEY, SPENT], "daily_cap"),
        ([NO_WORKER, REFUSED_KEY], "denied"),
    ],
)
def test_of_several_holds_a_refusal_names_all_and_bears_the_code_of_what_passes_first(
    holds: list[Hold], code: str
) -> None:
    refusal = problem_of(NoRoom(holds), "m")

    assert refusal.code == code
    assert "; ".join(hold.message for hold in holds) in refusal.message


def test_a_refusal_of_anything_else_says_why() -> None:
    job = an_id()

    assert problem_of(ModelGone(), "m").code == "unknown_model"
    assert problem_of(Refused("code", "message", "field", 7), "m") == Problem("code", "message", "field", 7)
    assert (in_use(job).code, in_use(job).field) == ("id_in_use", "id")
    assert str(job) in in_use(job).message


def test_a_refusal_for_too_many_that_wait_says_how_many_and_when_to_come_back() -> None:
    problem = no_more_wait("m", waiting=1000, retry_after_ms=Ms(7_400))

    assert (problem.code, problem.retry_after_ms) == ("busy", 7_400)
    assert "1000 requests wait" in problem.message
    assert "try again in 8 s" in problem.message
