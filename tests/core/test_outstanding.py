"""The leader's count of what is dispatched and not settled."""

from msgspec.structs import replace

from broker.core.outstanding import Outstanding, Rate
from broker.core.records import EndedAttempt, Flow, Running
from schemas.job import Lane
from schemas.units import Ms, NanoUsd
from tests.builders import an_id

FLOW = Flow("m", Lane.BULK, "t")


def a_running(deployment: str = "d", *, attempt: int = 1, reserved: int = 0) -> Running:
    return Running(an_id(), attempt, deployment, FLOW, reserved=NanoUsd(reserved))


def over(running: Running, attempt: int) -> EndedAttempt:
    return EndedAttempt(running.job, attempt, running.flow)


def test_what_is_dispatched_counts_until_it_is_settled() -> None:
    one, other, elsewhere = a_running(), a_running(), a_running("e")
    outstanding = Outstanding()

    outstanding.dispatched([one, other, elsewhere], Ms(0))
    outstanding.settled([over(one, 1)], Ms(0))

    assert outstanding.counts == {"d": 1, "e": 1}


def test_what_is_settled_twice_or_was_followed_by_a_later_attempt_counts_no_less() -> None:
    again = a_running(attempt=2)
    outstanding = Outstanding()
    outstanding.dispatched([again, a_running()], Ms(0))

    outstanding.settled([over(again, 1), over(a_running(), 1)], Ms(0))
    twice = [over(again, 2), over(again, 2)]
    outstanding.settled(twice, Ms(0))

    assert outstanding.counts == {"d": 1}


def test_a_recount_replaces_what_was_counted() -> None:
    outstanding, kept = Outstanding(), a_running("e")
    outstanding.dispatched([a_running(), a_running()], Ms(0))

    outstanding.recount([kept])
    known = dict(outstanding.counts)
    outstanding.settled([over(kept, 1)], Ms(0))

    assert known == {"e": 1}
    assert outstanding.counts["e"] == 0


def test_what_is_reserved_goes_with_the_attempts_and_what_is_let_go_of_is_known() -> None:
    one, other, free = a_running(reserved=5), a_running(reserved=7), a_running("e")
    outstanding = Outstanding()
    outstanding.dispatched([one, other, free], Ms(0))
    before = dict(outstanding.reserved)

    outstanding.settled([over(one, 1), over(free, 1)], Ms(0))
    settled = outstanding.reserved["d"], outstanding.released["d"]
    outstanding.recount([])

    assert before == {"d": 12}
    assert settled == (7, 5)
    assert (outstanding.reserved["d"], outstanding.released["d"]) == (0, 12)


def test_what_is_reserved_for_an_attempt_is_known_until_it_is_over() -> None:
    one, free = a_running(reserved=5), a_running()
    outstanding = Outstanding()

    outstanding.dispatched([one, free], Ms(0))

    assert outstanding.reserved_for(one) == 5
    assert outstanding.reserved_for(free) == 0
    assert outstanding.reserved_for(replace(one, attempt=2)) is None
    assert outstanding.reserved_for(a_running()) is None


def test_the_rate_of_a_deployment_leaves_out_the_time_in_which_it_had_nothing() -> None:
    outstanding = Outstanding()
    first, second = a_running(), a_running()

    outstanding.dispatched([first], Ms(0))
    outstanding.settled([over(first, 1)], Ms(1_000))
    before = outstanding.per_s()["d"]
    outstanding.dispatched([second], Ms(1_000_000))
    outstanding.settled([over(second, 1)], Ms(1_001_000))

    assert before == 0.5
    assert outstanding.per_s()["d"] == (0.5 + 1) / 2


def test_a_rate_follows_what_is_counted() -> None:
    rate = Rate()

    for step in range(1, 41):
        rate.add(100, Ms(step * 100))

    assert 800 < rate.per_s < 1200


def test_a_rate_outlives_idleness_but_not_slowness() -> None:
    idle, slow = Rate(per_s=1000.0), Rate(per_s=1000.0)
    for rate in (idle, slow):
        rate.begin(Ms(0))

    idle.begin(Ms(60_000))
    idle.add(300, Ms(60_300))
    slow.add(300, Ms(60_300))

    assert idle.per_s == 1000.0
    assert slow.per_s < 600.0
