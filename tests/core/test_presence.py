"""Which workers are there, which have died, and when nobody holds a delivered attempt."""

from collections.abc import Iterable

from broker.core.presence import (
    DEAD_MS,
    QUIET_MS,
    REMEMBERED_MS,
    Heard,
    Presence,
    held_by,
    lost_executions,
    mark_of,
    process_of,
)
from schemas.ids import uuid7
from schemas.ruling import Lost
from schemas.units import Ms
from schemas.worker import HeldExecution, held_bytes
from tests.builders import a_beat, a_worker, an_id

NOW = Ms(1_795_000_000_000)


def names(workers: Iterable[Heard]) -> list[str]:
    return sorted(one.beat.worker for one in workers)


def test_a_worker_is_dead_once_it_has_missed_two_beats() -> None:
    presence = Presence()
    presence.heard(a_beat("w"), NOW)

    presence.passed(DEAD_MS - 1)
    assert names(presence.here) == ["w"]
    presence.passed(1)

    assert names(presence.here) == []
    assert [(gone.beat.worker, gone.has_died) for gone in presence.departed] == [("w", True)]


def test_each_beat_begins_the_silence_anew() -> None:
    presence, beat = Presence(), a_beat("w")
    for _ in range(5):
        presence.heard(beat, NOW)
        presence.passed(DEAD_MS - 1)

    assert names(presence.here) == ["w"]
    assert [one.beats for one in presence.here] == [5]


def test_a_worker_that_says_goodbye_has_not_died() -> None:
    presence = Presence()
    presence.heard(a_beat("w"), NOW)

    presence.said_goodbye(a_worker())
    presence.said_goodbye(a_worker("never heard"))

    assert [gone.has_died for gone in presence.departed] == [False]
    assert names(presence.here) == []


def test_a_newer_process_of_the_name_means_that_the_older_has_died() -> None:
    presence = Presence()
    presence.heard(a_beat("w", started_ms=1), NOW)

    presence.heard(a_beat("w", started_ms=2), NOW)

    assert [gone.beat.started_ms for gone in presence.departed] == [1]
    assert [(one.beat.started_ms, one.beats) for one in presence.here] == [(2, 1)]


def test_who_is_heard_again_has_not_departed() -> None:
    presence, beat = Presence(), a_beat("w")
    presence.heard(beat, NOW)
    presence.passed(DEAD_MS)

    presence.heard(beat, NOW)

    assert presence.departed == []
    assert names(presence.here) == ["w"]


def test_a_death_is_remembered_for_the_next_leader_and_then_forgotten() -> None:
    presence = Presence()
    presence.heard(a_beat("w"), NOW)
    presence.passed(DEAD_MS)

    presence.passed(REMEMBERED_MS)
    assert len(presence.departed) == 1
    presence.passed(1)

    assert presence.departed == []


def test_a_broker_that_was_cut_off_gives_everybody_time_to_come_back() -> None:
    presence = Presence()
    presence.heard(a_beat("w"), NOW)
    presence.passed(DEAD_MS - 1)

    presence.could_not_hear()
    presence.passed(2 * DEAD_MS - 1)
    assert names(presence.here) == ["w"]
    assert not presence.knows_all
    presence.passed(1)

    assert names(presence.here) == []
    assert presence.knows_all


def test_a_broker_that_has_just_begun_to_listen_does_not_know_everybody() -> None:
    presence = Presence()

    presence.passed(DEAD_MS - 1)
    assert not presence.knows_all
    presence.passed(1)

    assert presence.knows_all


def test_a_mark_is_over_when_each_worker_has_sent_two_beats_since() -> None:
    presence, one, other = Presence(), a_beat("one"), a_beat("other")
    presence.heard(one, NOW)
    presence.heard(other, NOW)
    mark = mark_of(presence.here, last_sequence=7)

    presence.heard(one, NOW)
    presence.heard(one, NOW)
    presence.heard(other, NOW)
    assert not mark.is_over(presence.here)
    presence.heard(other, NOW)

    assert mark.is_over(presence.here)
    assert mark.last_sequence == 7


def test_a_mark_waits_for_workers_that_came_since_but_for_no_dead_one() -> None:
    presence = Presence()
    presence.heard(a_beat("dies"), NOW)
    mark = mark_of(presence.here, last_sequence=7)
    presence.passed(DEAD_MS)
    assert mark.is_over(presence.here)

    newcomer = a_beat("new")
    presence.heard(newcomer, NOW)
    assert not mark.is_over(presence.here)
    presence.heard(newcomer, NOW)

    assert mark.is_over(presence.here)


def test_a_mark_knows_who_had_missed_a_beat() -> None:
    presence, quiet, silent = Presence(), a_beat("quiet"), a_beat("silent")
    presence.heard(quiet, NOW)
    presence.passed(1)
    presence.heard(silent, NOW)
    presence.passed(QUIET_MS - 1)

    assert mark_of(presence.here, last_sequence=0).quiet == {process_of(quiet)}


def test_what_workers_hold_is_named_by_job_and_number() -> None:
    first, second = HeldExecution(an_id(), 1, an_id()), HeldExecution(an_id(), 2, an_id())
    presence = Presence()
    presence.heard(a_beat("a", held=held_bytes([first])), NOW)
    presence.heard(a_beat("b", held=held_bytes([second])), NOW)

    assert held_by(presence.here) == {(first.job.bytes, 1), (second.job.bytes, 2)}


def test_a_dead_workers_executions_are_lost_and_began_by_the_brokers_clock() -> None:
    fast_ms = 3_600_000
    """The worker's clock is an hour fast."""
    execution = uuid7(Ms(NOW + fast_ms - 700), 1)
    held = HeldExecution(an_id(), 3, execution)
    beat = a_beat("w", held=held_bytes([held]), at_ms=NOW + fast_ms, started_ms=NOW + fast_ms - 60_000)
    presence = Presence()
    presence.heard(beat, NOW)
    presence.passed(DEAD_MS)

    [gone] = presence.departed

    assert lost_executions(gone, {(held.job, 3)}) == [
        Lost(job=held.job, attempt=3, deployment="d", execution=execution, worker="w", started_ms=Ms(NOW - 700))
    ]


def test_only_what_was_handed_out_to_its_deployment_is_lost_once() -> None:
    mine, foreign = an_id(), an_id()
    held = [HeldExecution(mine, 1, an_id()), HeldExecution(mine, 1, an_id()), HeldExecution(foreign, 1, an_id())]
    presence = Presence()
    presence.heard(a_beat("w", held=held_bytes([*held, HeldExecution(mine, 2, an_id())])), NOW)
    presence.passed(DEAD_MS)

    lost = lost_executions(presence.departed[0], {(mine, 1)})

    assert [(one.job, one.attempt, one.execution) for one in lost] == [(mine, 1, held[0].execution)]


def test_workers_of_one_name_are_others_by_their_deployment_and_their_key() -> None:
    presence = Presence()
    beats = [a_beat("w"), a_beat("w", deployment="e"), a_beat("w", key="k")]
    for beat in beats:
        presence.heard(beat, NOW)

    presence.said_goodbye(a_worker("w", deployment="e"))
    presence.said_goodbye(a_worker("w", key="other"))

    assert {one.beat.id for one in presence.here} == {a_worker(), a_worker(key="k")}
    assert [(gone.beat.id, gone.has_died) for gone in presence.departed] == [(a_worker(deployment="e"), False)]


def test_no_execution_began_before_its_worker_or_after_its_beat() -> None:
    early, late = (HeldExecution(an_id(), 1, uuid7(Ms(at), 1)) for at in (0, NOW + 1000))
    presence = Presence()
    presence.heard(a_beat("w", held=held_bytes([early, late]), at_ms=NOW, started_ms=NOW - 5000), Ms(NOW + 10))
    presence.passed(DEAD_MS)

    [gone] = presence.departed

    assert [
        one.started_ms for one in lost_executions(gone, {(early.job, early.attempt), (late.job, late.attempt)})
    ] == [NOW + 10 - 5000, NOW + 10]
