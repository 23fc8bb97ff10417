"""Which doors of a broker can serve, and whether its process works."""

from broker.core.readiness import readiness, streams_part
from broker.core.records import Kept
from schemas.health import ENDED, RUNS, Liveness, Part

WELL = Part(ok=True)
AWAY = Part(ok=False, why="away")


def test_with_everything_there_every_door_serves() -> None:
    state = readiness("b", {"nats": WELL, "postgres": WELL, "catalog": WELL}, revision=3)

    assert state.ready
    assert all(door.ok for door in state.doors.values())
    assert state.revision == 3


def test_without_postgres_requests_and_jobs_are_taken_and_the_api_says_why_not() -> None:
    state = readiness("b", {"nats": WELL, "postgres": AWAY, "catalog": WELL}, revision=3)

    assert state.ready
    assert state.doors["infer"].ok
    assert state.doors["submit"].ok
    assert state.doors["api"] == Part(ok=False, why="postgres: away")


def test_without_nats_no_door_serves() -> None:
    state = readiness("b", {"nats": AWAY, "postgres": WELL, "catalog": WELL}, revision=3)

    assert not state.ready


def test_before_a_catalog_is_applied_only_requests_are_not_taken() -> None:
    state = readiness("b", {"nats": WELL, "postgres": WELL, "catalog": AWAY}, revision=0)

    assert state.ready
    assert {name for name, door in state.doors.items() if not door.ok} == {"http", "infer"}


def test_streams_that_are_missing_close_the_doors_that_need_them() -> None:
    state = readiness("b", {"nats": WELL, "postgres": WELL, "catalog": WELL, "streams": AWAY}, revision=1)

    assert {name for name, door in state.doors.items() if not door.ok} == {"http", "infer", "submit"}


def test_only_the_doors_that_a_broker_has_are_shown() -> None:
    state = readiness("b", {"nats": WELL, "postgres": WELL, "catalog": WELL}, revision=1, doors={"http"})

    assert set(state.doors) == {"http"}


def test_a_process_whose_roles_start_again_works_and_one_whose_role_has_ended_does_not() -> None:
    assert Liveness.of("b", {"settle": "starts again: Postgres is away", "dispatch": RUNS}).live
    assert not Liveness.of("b", {"settle": ENDED, "dispatch": RUNS}).live


def test_streams_are_well_once_they_were_looked_at_and_nothing_was_wrong() -> None:
    assert not streams_part(Kept()).ok
    assert streams_part(Kept(wrong={})) == WELL
    assert streams_part(Kept(wrong={"stream RUN: missing": "timeout"})) == Part(
        ok=False, why="stream RUN: missing: timeout"
    )
