"""Requests that wait for slots: whose turn it is, and how many may wait."""

from collections import Counter
from collections.abc import Sequence
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from broker.core.line import Depth, Line, Pace, Waiter
from schemas.units import Ms
from tests.builders import an_id

DEEP = Depth(1_000, 1_000_000)


def a_waiter(tenant: str = "t", *, model: str = "m", size: int = 10, at: tuple[str, ...] = ("d",)) -> Waiter:
    return Waiter(an_id(), model, tenant, size, at)


def entered(line: Line, *waiters: Waiter) -> list[Sequence[UUID]]:
    return [line.enter(waiter) for waiter in waiters]


def turns(line: Line, deployment: str = "d", *, most: int = 1_000) -> list[UUID]:
    """In the order in which slots are given out."""
    found: list[UUID] = []
    while len(found) < most and (job := line.next(deployment)) is not None:
        found.append(job)
    return found


def test_the_requests_of_a_tenant_go_in_their_order() -> None:
    line, waiters = Line(DEEP), [a_waiter() for _ in range(3)]
    entered(line, *waiters)

    assert turns(line) == [one.job for one in waiters]
    assert (len(line), dict(line.wanted), dict(line.by_model)) == (0, {}, {})


def test_a_hundred_of_one_tenant_do_not_stand_before_one_of_another() -> None:
    line, many, one = Line(DEEP), [a_waiter("many") for _ in range(100)], a_waiter("one")
    entered(line, *many, one)

    assert turns(line).index(one.job) == 1


def test_tenants_take_turns() -> None:
    line = Line(DEEP)
    a, b, c = ([a_waiter(tenant) for _ in range(3)] for tenant in "abc")
    entered(line, *a, *b, *c)

    assert turns(line) == [one.job for each in zip(a, b, c, strict=True) for one in each]


def test_a_slot_goes_to_one_that_may_take_it_and_others_keep_their_turn() -> None:
    line = Line(DEEP)
    elsewhere, here, later = a_waiter("a", at=("e",)), a_waiter("a"), a_waiter("b")
    entered(line, elsewhere, here, later)

    assert line.next("e") == elsewhere.job
    assert turns(line) == [later.job, here.job]
    assert line.next("f") is None


def test_one_that_comes_back_is_first() -> None:
    line, waiters = Line(DEEP), [a_waiter("a"), a_waiter("b"), a_waiter("a")]
    entered(line, *waiters)
    again = waiters[0]
    assert line.next("d") == again.job

    line.come_back(again)

    assert turns(line) == [again.job, waiters[1].job, waiters[2].job]


def test_what_leaves_takes_no_slot_and_one_that_is_not_there_may_leave() -> None:
    line, waiters = Line(DEEP), [a_waiter("a"), a_waiter("b")]
    entered(line, *waiters)

    line.leave(waiters[0].job)
    line.leave(waiters[0].job)

    assert turns(line) == [waiters[1].job]


def test_it_knows_how_many_want_a_slot_of_each_deployment() -> None:
    line = Line(DEEP)
    both, one = a_waiter(at=("d", "e")), a_waiter(at=("d",))
    entered(line, both, one)
    assert line.wanted == {"d": 2, "e": 1}

    line.move(both.job, ("f",))
    assert line.wanted == {"d": 1, "f": 1}

    line.leave(both.job)
    assert line.wanted == {"d": 1}


def test_where_one_tenant_waits_alone_the_newest_is_refused_beyond_the_depth() -> None:
    line, waiters = Line(Depth(2, 1_000)), [a_waiter() for _ in range(3)]

    assert entered(line, *waiters) == [[], [], [waiters[2].job]]
    assert line.by_model["m"] == 2


def test_the_tenant_that_waits_with_most_gives_way_to_another() -> None:
    line = Line(Depth(3, 1_000))
    many, one = [a_waiter("many") for _ in range(3)], a_waiter("one")
    entered(line, *many)

    assert line.enter(one) == [many[2].job]
    assert turns(line) == [many[0].job, one.job, many[1].job]


def test_the_bytes_that_wait_are_bounded_too() -> None:
    line = Line(Depth(100, 100))
    large, small = a_waiter("large", size=90), a_waiter("small", size=20)

    assert entered(line, large, small) == [[], [large.job]]
    assert line.enter(a_waiter(size=101)) != []
    assert line.by_model["m"] == 1


def test_each_model_has_a_depth_of_its_own() -> None:
    line = Line(Depth(1, 1_000))

    assert entered(line, a_waiter(model="m"), a_waiter(model="n")) == [[], []]


def test_those_that_come_back_are_not_refused() -> None:
    line, one = Line(Depth(1, 1_000)), a_waiter("a")
    line.enter(a_waiter("b"))

    line.come_back(one)

    assert line.by_model["m"] == 2


waiters = st.builds(
    a_waiter,
    st.sampled_from("abc"),
    model=st.sampled_from("mn"),
    size=st.integers(1, 60),
    at=st.sampled_from([("d",), ("e",), ("d", "e")]),
)


@given(st.lists(st.tuples(waiters, st.sampled_from(["enter", "back", "d", "e", "leave"])), max_size=60))
def test_its_counts_are_those_of_who_waits(steps: list[tuple[Waiter, str]]) -> None:
    line, waiting = Line(Depth(5, 100)), dict[UUID, Waiter]()
    for waiter, step in steps:
        if step == "enter":
            waiting[waiter.job] = waiter
            for job in line.enter(waiter):
                del waiting[job]
        elif step == "back":
            line.come_back(waiter)
            waiting[waiter.job] = waiter
        elif step == "leave" and waiting:
            line.leave(waiting.popitem()[0])
        elif (served := line.next(step)) is not None:
            assert step in waiting.pop(served).deployments

        assert set(line.jobs) == set(waiting)
        assert line.wanted == Counter(name for one in waiting.values() for name in one.deployments)
        assert line.by_model == Counter(one.model for one in waiting.values())


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=60))
def test_nobody_waits_longer_than_a_turn_of_each_other_tenant(tenants: list[str]) -> None:
    line = Line(DEEP)
    mine = {one.job: one.tenant for one in map(a_waiter, tenants)}
    for job, tenant in mine.items():
        line.enter(Waiter(job, "m", tenant, 1, ("d",)))

    served = [mine[job] for job in turns(line)]

    for tenant in set(tenants):
        first = served.index(tenant)
        assert first < len(set(tenants))


def test_the_time_to_come_back_is_how_long_those_that_wait_will_take() -> None:
    pace = Pace()
    for tenth in range(100):
        pace.started("m", Ms(tenth * 100))

    assert 1_900 <= pace.retry_after_ms("m", 20, Ms(9_900)) <= 2_100
    assert pace.retry_after_ms("m", 1, Ms(9_900)) == 1_000
    assert pace.retry_after_ms("m", 100_000, Ms(9_900)) == 60_000
    assert pace.retry_after_ms("other", 20, Ms(9_900)) == 5_000
    pace.started("m", Ms(10_000))
    assert 1_900 <= pace.retry_after_ms("m", 20, Ms(10_100)) <= 2_100
