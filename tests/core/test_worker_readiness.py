"""What a worker says that it takes."""

from tests.builders import a_beat
from workers.core.readiness import readiness, starting


def test_an_idle_worker_takes_both_kinds_of_work() -> None:
    state = readiness(a_beat(running=0), is_connected=True, has_died=False, revision=3)

    assert state.ready
    assert all(door.ok for door in state.doors.values())


def test_a_worker_takes_nothing_while_nats_is_away_or_once_it_drains_or_its_engine_is_gone() -> None:
    away = readiness(a_beat(), is_connected=False, has_died=False, revision=3)
    drains = readiness(a_beat(draining=True), is_connected=True, has_died=False, revision=3)
    dead = readiness(a_beat(), is_connected=True, has_died=True, revision=3)

    for state, why in ((away, "nats: away"), (drains, "the worker drains"), (dead, "engine: it is gone")):
        assert not state.ready
        assert {door.why for door in state.doors.values()} == {why}


def test_a_worker_without_a_reserve_takes_requests_too_and_one_with_only_a_reserve_nothing_else() -> None:
    without = readiness(a_beat(slots=4, reserve=0), is_connected=True, has_died=False, revision=3)
    only = readiness(a_beat(slots=0, reserve=1), is_connected=True, has_died=False, revision=3)

    assert {door: part.ok for door, part in without.doors.items()} == {"run": True, "now": True}
    assert {door: part.ok for door, part in only.doors.items()} == {"run": False, "now": True}


def test_a_worker_that_starts_says_at_what_stage_it_is() -> None:
    state = starting("w", "loads its engine", is_connected=True)

    assert not state.ready
    assert state.doors["run"].why == "the worker loads its engine"
