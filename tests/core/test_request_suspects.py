"""Which interactive requests are suspected of ending their workers."""

from typing import Any

import pytest

from broker.core.pools import snapshot
from broker.core.presence import Departed, Heard
from broker.core.relay import Assignment
from broker.core.request_suspects import LIFETIME_MS, RequestSuspects, had_begun, request_key, was_with
from broker.core.reserve import SUSPECTED, ModelGone, NoRoom, Poison, choose_ward, problem_of
from schemas.catalog import Catalog
from schemas.job import Attempt
from schemas.subjects import WorkerId
from schemas.units import Ms
from schemas.worker import BEGINNING, NOT_BEGUN, HeldExecution, WorkerBeat, held_bytes
from tests.builders import a_beat, a_catalog, a_worker, an_attempt, an_id

LATER = Ms(10_000)


def test_a_request_is_known_by_its_tenant_and_its_body() -> None:
    assert request_key("a", b"1") == request_key("a", b"1")
    assert len({request_key("a", b"1"), request_key("b", b"1"), request_key("a", b"2")}) == 3


def test_a_suspicion_lasts_until_nothing_was_heard_of_it_for_long_or_it_is_cleared() -> None:
    suspects = RequestSuspects()
    suspects.suspected("a", 1, Ms(0))
    suspects.suspected("b", 0, Ms(0))

    assert suspects.deaths_alone("a", Ms(LIFETIME_MS - 1)) == 1
    assert suspects.deaths_alone("a", LIFETIME_MS) is None
    assert suspects.deaths_alone("c", Ms(0)) is None
    suspects.cleared("b")
    assert suspects.deaths_alone("b", Ms(1)) is None


def test_of_two_counts_of_brokers_the_higher_counts_and_what_is_over_is_forgotten() -> None:
    suspects = RequestSuspects()
    suspects.suspected("a", 1, Ms(0))
    suspects.suspected("a", 0, Ms(1))
    assert suspects.deaths_alone("a", Ms(2)) == 1

    suspects.suspected("b", 0, Ms(LIFETIME_MS + 1))

    assert len(suspects) == 1


def test_what_runs_apart_is_known_until_it_is_over() -> None:
    suspects = RequestSuspects()
    suspects.runs_apart("token", "a", a_worker())

    assert suspects.is_apart("a")
    assert not suspects.is_apart("b")
    assert set(suspects.wards) == {a_worker()}
    suspects.is_over("token")
    suspects.is_over("unknown")
    assert not suspects.is_apart("a")


def gone(*held: tuple[Attempt, Any], worker: str = "w", **changes: Any) -> Departed:
    records = held_bytes(HeldExecution(one.job, one.number, execution) for one, execution in held)
    return Departed(a_beat(worker, held=records, **changes), Ms(0), has_died=True)


def assigned(
    attempt: Attempt, *, at: int = 0, worker: WorkerId | None = None, started: Ms | None = None
) -> Assignment:
    return Assignment("token", attempt, Ms(at), worker, started_ms=started)


def test_a_request_was_with_a_worker_that_named_it() -> None:
    one = an_attempt()

    assert was_with(assigned(one, at=LATER), gone((one, an_id())), [], LATER)
    assert not was_with(assigned(one, at=LATER), gone((an_attempt(), an_id())), [], LATER)
    assert not was_with(assigned(one, at=LATER), gone((one, an_id()), deployment="e"), [], LATER)


def test_a_request_that_nobody_names_for_a_while_was_with_the_worker_that_died() -> None:
    one = an_attempt()
    other = Heard(a_beat("v", held=held_bytes([HeldExecution(one.job, one.number, an_id())])), Ms(0))

    assert was_with(assigned(one), gone(), [], LATER)
    assert was_with(assigned(one, at=LATER - 1500), gone(), [], LATER)
    assert not was_with(assigned(one, at=LATER - 1499), gone(), [], LATER)
    assert not was_with(assigned(one), gone(), [other], LATER)


def test_what_a_worker_of_another_deployment_names_says_nothing_of_a_request() -> None:
    one = an_attempt()
    held = held_bytes([HeldExecution(one.job, one.number, an_id())])
    other = Heard(a_beat("v", deployment="e", held=held), Ms(0))

    assert was_with(assigned(one), gone(), [other], LATER)
    assert not was_with(assigned(one, worker=a_worker()), gone(deployment="e"), [], LATER)
    assert not was_with(assigned(one, worker=a_worker()), gone(key="another"), [], LATER)


def test_a_request_of_a_worker_that_started_again_was_not_with_the_process_before() -> None:
    one, dead = an_attempt(), gone(started_ms=Ms(7))

    assert was_with(assigned(one, worker=a_worker(), started=Ms(7)), dead, [], LATER)
    assert not was_with(assigned(one, worker=a_worker(), started=Ms(8)), dead, [], LATER)
    assert was_with(assigned(one, worker=a_worker()), dead, [], LATER)


def test_a_request_that_runs_apart_is_with_its_worker_and_counts_once_it_has_begun() -> None:
    one = an_attempt()

    assert was_with(assigned(one, worker=a_worker()), gone(), [], LATER)
    assert not was_with(assigned(one, worker=a_worker("v")), gone((one, an_id())), [], LATER)
    assert had_begun(assigned(one), gone((one, BEGINNING)))
    assert not had_begun(assigned(one), gone((one, NOT_BEGUN)))
    assert not had_begun(assigned(one), gone())


def ward(*beats: WorkerBeat, wards: tuple[WorkerId, ...] = (), catalog: Catalog | None = None) -> str:
    catalog = catalog or a_catalog()
    found = choose_ward("m", beats, catalog=catalog, pools=snapshot(catalog, beats, {}, now=Ms(0)), wards=wards)
    match found:
        case WorkerBeat(worker=worker):
            return worker
        case NoRoom(holds):
            assert list(holds) == [SUSPECTED]
            return "none"
        case ModelGone():
            return "gone"
        case Poison():
            raise AssertionError


def test_a_suspected_request_goes_to_the_worker_that_runs_the_least_and_has_no_suspect() -> None:
    busy, idle = a_beat("a", running=3), a_beat("b", running=1)

    assert ward(busy, idle) == "b"
    assert ward(busy, idle, wards=(a_worker("b"),)) == "a"
    assert ward(busy, idle, wards=(a_worker("a"), a_worker("b"))) == "none"
    assert ward(a_beat("a", draining=True)) == "none"
    assert ward(a_beat("a", reserve=0)) == "a"
    assert ward(a_beat("a"), a_beat("b", slots=0, reserve=0), wards=(a_worker("a"),)) == "none"
    assert ward(catalog=Catalog()) == "gone"


@pytest.mark.parametrize(("why", "code"), [(Poison(2), "poison"), (NoRoom([SUSPECTED]), "suspected")])
def test_a_refusal_of_a_suspected_request_says_why(why: Poison | NoRoom, code: str) -> None:
    assert problem_of(why, "m").code == code
