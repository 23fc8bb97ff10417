from collections.abc import Mapping
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from broker.core.backlog import FAILED_MOST, FIRST_PAGE, PAGE, Front, Fronts
from broker.core.records import Flow, Head, Pick, Place
from schemas.job import Lane
from schemas.units import Ms


def place(number: int) -> Place:
    return Place(Ms(10_000), UUID(int=number))


def head(number: int, *, tried: tuple[str, ...] = ()) -> Head:
    return Head(place(number), 0, tried)


def ready(front: Front) -> list[int]:
    return [one.place.job.int for one in front.ready]


def test_a_short_page_ends_the_flow() -> None:
    front = Front()

    front.took_page([head(1), head(2)], limit=5)

    assert front.ended
    assert not front.wants_page()


def test_a_job_announced_behind_the_cursor_is_read_again() -> None:
    front = Front()
    front.took_page([head(10), head(20), head(30)], limit=3)

    front.announced(place(15))

    assert ready(front) == [10]
    assert front.read_to == place(14)
    assert front.wants_page()


def test_a_job_announced_ahead_of_the_cursor_only_opens_the_flow_again() -> None:
    front = Front()
    front.took_page([head(10)], limit=5)

    front.announced(place(15))

    assert ready(front) == [10]
    assert front.read_to == place(10)
    assert front.wants_page()


def test_expired_jobs_leave_the_front() -> None:
    front = Front()
    front.took_page([head(1), head(2), Head(Place(Ms(10_001), UUID(int=3)), 0)], limit=5)

    expired = front.take_expired(Ms(10_000))

    assert [job.int for job in expired] == [1, 2]
    assert ready(front) == [3]


def test_what_was_chosen_leaves_the_front() -> None:
    front = Front()
    front.took_page([head(1), head(2), head(3)], limit=5)

    front.drop({UUID(int=1), UUID(int=2)})

    assert ready(front) == [3]


def test_flows_without_work_are_forgotten() -> None:
    fronts = Fronts()
    fronts.announced(Flow("m", Lane.BULK, "t"), place(1))
    fronts.prune()
    assert fronts.flows

    next(iter(fronts.flows.values())).took_page([], limit=5)
    fronts.prune()

    assert not fronts.flows


def read(front: Front, waiting: Mapping[int, Head]) -> None:
    """One page, of what waits by its number."""
    after = front.read_to.job.int if front.read_to else 0
    page = [waiting[number] for number in sorted(waiting) if number > after][: front.next_page()]
    front.took_page(page, limit=front.next_page())


def test_jobs_that_wait_for_another_deployment_do_not_end_the_reading() -> None:
    waiting = {n: head(n, tried=("d",)) for n in range(1, 501)} | {n: head(n) for n in range(501, 3001)}
    front = Front()

    while front.wants_page():
        read(front, waiting)

    assert len([one for one in front.ready if not one.tried]) >= FIRST_PAGE // 2


def test_of_jobs_that_wait_for_another_deployment_a_bounded_number_is_held() -> None:
    waiting = {n: head(n, tried=("d",)) for n in range(1, 5001)} | {n: head(n) for n in range(5001, 5101)}
    front = Front()

    while front.wants_page():
        read(front, waiting)

    assert len(front.ready) == FAILED_MOST + 100
    assert not front.is_idle()


def test_jobs_that_were_passed_over_have_their_turn() -> None:
    waiting = {n: head(n, tried=("d",)) for n in range(1, 5001)} | {n: head(n) for n in range(5001, 5101)}
    front, served = Front(), list[int]()

    while not front.is_idle():
        front.go_back()
        while front.wants_page():
            read(front, waiting)
        failed = [one.place.job for one in front.ready if one.tried][:100]
        chosen = set(failed or [one.place.job for one in front.ready])
        served += [one.place.job.int for one in front.ready if one.place.job in chosen]
        for job in chosen:
            del waiting[job.int]
        front.drop(chosen)

    assert served == list(range(1, 5101))


def test_pages_are_small_until_a_flow_is_consumed() -> None:
    waiting = {n: head(n) for n in range(1, 5001)}
    front = Front()

    read(front, waiting)
    assert len(front.ready) == FIRST_PAGE
    assert not front.wants_page()

    while len(front.ready) < PAGE:
        front.drop({one.place.job for one in front.ready})
        read(front, waiting)

    assert front.page == PAGE


def test_flows_are_read_anew_a_few_at_a_time_and_those_gone_are_forgotten() -> None:
    names = [Flow("m", Lane.BULK, tenant) for tenant in "abc"]
    fronts = Fronts()
    fronts.restart(names)
    for front in fronts.flows.values():
        front.took_page([head(1)], limit=5)

    fronts.restart(names[1:])
    assert set(fronts.ready()) == set(names[1:])

    fronts.freshen(1)
    assert set(fronts.ready()) == {names[2]}
    assert fronts.wants_more()

    fronts.freshen(1)
    assert not fronts.ready()


@given(st.lists(st.integers(1, 60), min_size=1, unique=True), st.integers(1, 7), st.data())
def test_nothing_that_waits_is_ever_missed(arrivals: list[int], limit: int, data: st.DataObject) -> None:
    """Jobs arrive in any order, between pages of any size; reading and choosing goes through all of them."""
    front, ledger, served = Front(), set[int](), list[int]()

    def read() -> None:
        after = front.read_to.job.int if front.read_to else 0
        page = sorted(number for number in ledger if number > after)[:limit]
        front.took_page([head(number) for number in page], limit=limit)

    for number in arrivals:
        ledger.add(number)
        front.announced(place(number))
        if data.draw(st.booleans()):
            read()
        serve = data.draw(st.booleans())
        if serve and front.ready:
            served.append(front.ready[0].place.job.int)
            ledger.discard(served[-1])
            front.drop({UUID(int=served[-1])})
    while not front.is_idle():
        read()
        served += ready(front)
        ledger -= set(ready(front))
        front.drop({one.place.job for one in front.ready})

    assert sorted(served) == sorted(arrivals)


@given(
    st.lists(
        st.builds(
            Head,
            st.builds(Place, st.sampled_from([Ms(10_000), Ms(20_000)]), st.uuids(version=4)),
            st.just(1),
            st.sampled_from([(), ("d",)]),
        ),
        min_size=1,
        max_size=40,
        unique_by=lambda head: head.place.job,
    ),
    st.integers(1, 7),
    st.data(),
)
def test_each_job_leaves_once_and_in_order(arrivals: list[Head], limit: int, data: st.DataObject) -> None:
    """Jobs come at any place of the order, while pages are read and time goes on."""
    front, ledger, left, time = Front(), dict[UUID, Head](), list[UUID](), 1_000

    def go_on() -> None:
        front.go_back()
        if front.wants_page():
            behind = [head for head in ledger.values() if front.read_to is None or head.place > front.read_to]
            front.took_page(sorted(behind, key=lambda head: head.place)[:limit], limit=limit)
        places = [head.place for head in front.ready]
        assert places == sorted(set(places))
        gone = front.take_expired(Ms(time))
        assert all(ledger[job].place.deadline_ms <= time for job in gone)
        if data.draw(st.booleans()):
            chosen = [head.place.job for head in front.ready if data.draw(st.booleans())]
            front.drop(set(chosen))
            gone += chosen
        for job in gone:
            del ledger[job]
        left.extend(gone)

    for head in arrivals:
        ledger[head.place.job] = head
        front.announced(head.place)
        time += data.draw(st.sampled_from([0, 500]))
        if data.draw(st.booleans()):
            go_on()
    time = 40_000
    while not front.is_idle():
        go_on()

    assert sorted(left) == sorted(head.place.job for head in arrivals)


def test_what_was_chosen_of_several_flows_leaves_each_of_them() -> None:
    first, second = Flow("m", Lane.BULK, "a"), Flow("m", Lane.BULK, "b")
    fronts = Fronts()
    fronts.restart([first, second])
    for flow, numbers in {first: (1, 2), second: (3, 4)}.items():
        fronts.flows[flow].took_page([head(n) for n in numbers], limit=5)

    fronts.drop(
        [Pick(first, place(1), "d"), Pick(second, place(4), "d"), Pick(Flow("m", Lane.BULK, "c"), place(9), "d")]
    )

    assert {flow: [one.place.job.int for one in left] for flow, left in fronts.ready().items()} == {
        first: [2],
        second: [3],
    }
