from collections.abc import Mapping
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from broker.core.backlog import FAILED_MOST, FIRST_PAGE, PAGE, Backlog, FlowBacklog, lower_heads
from broker.core.records import Flow, Head, Pick, Place, WaitingJob
from schemas.job import Lane
from schemas.units import Ms


def place(number: int) -> Place:
    return Place(0, Ms(10_000), UUID(int=number))


def waiting_job(number: int, *, tried: tuple[str, ...] = ()) -> WaitingJob:
    return WaitingJob(place(number), 0, tried)


def ready(flow: FlowBacklog) -> list[int]:
    return [one.place.job.int for one in flow.ready]


def test_a_short_page_ends_the_flow() -> None:
    flow = FlowBacklog()

    flow.add_page([waiting_job(1), waiting_job(2)], limit=5)

    assert flow.ended
    assert not flow.wants_page()


def test_a_job_announced_behind_the_cursor_is_read_again() -> None:
    flow = FlowBacklog()
    flow.add_page([waiting_job(10), waiting_job(20), waiting_job(30)], limit=3)

    flow.go_back_to(place(15))

    assert ready(flow) == [10]
    assert flow.read_to == place(14)
    assert flow.wants_page()


def test_a_job_announced_ahead_of_the_cursor_only_opens_the_flow_again() -> None:
    flow = FlowBacklog()
    flow.add_page([waiting_job(10)], limit=5)

    flow.go_back_to(place(15))

    assert ready(flow) == [10]
    assert flow.read_to == place(10)
    assert flow.wants_page()


def test_expired_jobs_leave_the_front() -> None:
    flow = FlowBacklog()
    flow.add_page([waiting_job(1), waiting_job(2), WaitingJob(Place(0, Ms(10_001), UUID(int=3)), 0)], limit=5)

    expired = flow.take_expired(Ms(10_000))

    assert [job.int for job in expired] == [1, 2]
    assert ready(flow) == [3]


def test_what_was_chosen_leaves_the_front() -> None:
    flow = FlowBacklog()
    flow.add_page([waiting_job(1), waiting_job(2), waiting_job(3)], limit=5)

    flow.remove({UUID(int=1), UUID(int=2)})

    assert ready(flow) == [3]


def test_flows_without_work_are_forgotten() -> None:
    backlog = Backlog()
    backlog.go_back_to(Flow("m", Lane.BULK, "t"), place(1))
    backlog.remove_idle()
    assert backlog.flows

    next(iter(backlog.flows.values())).add_page([], limit=5)
    backlog.remove_idle()

    assert not backlog.flows


def read(flow: FlowBacklog, waiting: Mapping[int, WaitingJob]) -> None:
    """One page, of what waits by its number."""
    after = flow.read_to.job.int if flow.read_to else 0
    page = [waiting[number] for number in sorted(waiting) if number > after][: flow.next_page_size()]
    flow.add_page(page, limit=flow.next_page_size())


def test_jobs_that_wait_for_another_deployment_do_not_end_the_reading() -> None:
    waiting = {n: waiting_job(n, tried=("d",)) for n in range(1, 501)} | {n: waiting_job(n) for n in range(501, 3001)}
    flow = FlowBacklog()

    while flow.wants_page():
        read(flow, waiting)

    assert len([one for one in flow.ready if not one.tried]) >= FIRST_PAGE // 2


def test_of_jobs_that_wait_for_another_deployment_a_bounded_number_is_held() -> None:
    waiting = {n: waiting_job(n, tried=("d",)) for n in range(1, 5001)} | {
        n: waiting_job(n) for n in range(5001, 5101)
    }
    flow = FlowBacklog()

    while flow.wants_page():
        read(flow, waiting)

    assert len(flow.ready) == FAILED_MOST + 100
    assert not flow.is_idle()


def test_jobs_that_were_passed_over_have_their_turn() -> None:
    waiting = {n: waiting_job(n, tried=("d",)) for n in range(1, 5001)} | {
        n: waiting_job(n) for n in range(5001, 5101)
    }
    flow, served = FlowBacklog(), list[int]()

    while not flow.is_idle():
        flow.reread_passed_over()
        while flow.wants_page():
            read(flow, waiting)
        failed = [one.place.job for one in flow.ready if one.tried][:100]
        chosen = set(failed or [one.place.job for one in flow.ready])
        served += [one.place.job.int for one in flow.ready if one.place.job in chosen]
        for job in chosen:
            del waiting[job.int]
        flow.remove(chosen)

    assert served == list(range(1, 5101))


def test_pages_are_small_until_a_flow_is_consumed() -> None:
    waiting = {n: waiting_job(n) for n in range(1, 5001)}
    flow = FlowBacklog()

    read(flow, waiting)
    assert len(flow.ready) == FIRST_PAGE
    assert not flow.wants_page()

    while len(flow.ready) < PAGE:
        flow.remove({one.place.job for one in flow.ready})
        read(flow, waiting)

    assert flow.page_size == PAGE


def test_flows_are_read_anew_a_few_at_a_time_and_those_gone_are_forgotten() -> None:
    names = [Flow("m", Lane.BULK, tenant) for tenant in "abc"]
    backlog = Backlog()
    backlog.restart(names)
    for flow in backlog.flows.values():
        flow.add_page([waiting_job(1)], limit=5)

    backlog.restart(names[1:])
    assert set(backlog.ready()) == set(names[1:])

    backlog.begin_rereads(1)
    assert set(backlog.ready()) == {names[2]}
    assert backlog.wants_more()

    backlog.begin_rereads(1)
    assert not backlog.ready()


@given(st.lists(st.integers(1, 60), min_size=1, unique=True), st.integers(1, 7), st.data())
def test_nothing_that_waits_is_ever_missed(arrivals: list[int], limit: int, data: st.DataObject) -> None:
    """Jobs arrive in any order, between pages of any size; reading and choosing goes through all of them."""
    flow, ledger, served = FlowBacklog(), set[int](), list[int]()

    def read() -> None:
        after = flow.read_to.job.int if flow.read_to else 0
        page = sorted(number for number in ledger if number > after)[:limit]
        flow.add_page([waiting_job(number) for number in page], limit=limit)

    for number in arrivals:
        ledger.add(number)
        flow.go_back_to(place(number))
        if data.draw(st.booleans()):
            read()
        serve = data.draw(st.booleans())
        if serve and flow.ready:
            served.append(flow.ready[0].place.job.int)
            ledger.discard(served[-1])
            flow.remove({UUID(int=served[-1])})
    while not flow.is_idle():
        read()
        served += ready(flow)
        ledger -= set(ready(flow))
        flow.remove({one.place.job for one in flow.ready})

    assert sorted(served) == sorted(arrivals)


@given(
    st.lists(
        st.builds(
            WaitingJob,
            st.builds(Place, st.integers(-1, 1), st.sampled_from([Ms(10_000), Ms(20_000)]), st.uuids(version=4)),
            st.just(1),
            st.sampled_from([(), ("d",)]),
        ),
        min_size=1,
        max_size=40,
        unique_by=lambda job: job.place.job,
    ),
    st.integers(1, 7),
    st.data(),
)
def test_each_job_leaves_once_and_in_order(arrivals: list[WaitingJob], limit: int, data: st.DataObject) -> None:
    """Jobs come at any place of the order, while pages are read and time goes on."""
    flow, ledger, left, time = FlowBacklog(), dict[UUID, WaitingJob](), list[UUID](), 1_000

    def go_on() -> None:
        flow.reread_passed_over()
        if flow.wants_page():
            behind = [job for job in ledger.values() if flow.read_to is None or job.place > flow.read_to]
            flow.add_page(sorted(behind, key=lambda job: job.place)[:limit], limit=limit)
        places = [job.place for job in flow.ready]
        assert places == sorted(set(places))
        gone = flow.take_expired(Ms(time))
        assert all(ledger[job].place.deadline_ms <= time for job in gone)
        if data.draw(st.booleans()):
            chosen = [job.place.job for job in flow.ready if data.draw(st.booleans())]
            flow.remove(set(chosen))
            gone += chosen
        for job in gone:
            del ledger[job]
        left.extend(gone)

    for job in arrivals:
        ledger[job.place.job] = job
        flow.go_back_to(job.place)
        time += data.draw(st.sampled_from([0, 500]))
        if data.draw(st.booleans()):
            go_on()
    time = 40_000
    while not flow.is_idle():
        go_on()

    assert sorted(left) == sorted(job.place.job for job in arrivals)


def test_what_was_chosen_of_several_flows_leaves_each_of_them() -> None:
    first, second = Flow("m", Lane.BULK, "a"), Flow("m", Lane.BULK, "b")
    backlog = Backlog()
    backlog.restart([first, second])
    for flow, numbers in {first: (1, 2), second: (3, 4)}.items():
        backlog.flows[flow].add_page([waiting_job(n) for n in numbers], limit=5)

    backlog.remove(
        [Pick(first, place(1), "d"), Pick(second, place(4), "d"), Pick(Flow("m", Lane.BULK, "c"), place(9), "d")]
    )

    assert {flow: [one.place.job.int for one in left] for flow, left in backlog.ready().items()} == {
        first: [2],
        second: [3],
    }


def at_rank(rank: int, number: int, deadline: int) -> WaitingJob:
    return WaitingJob(Place(rank, Ms(deadline), UUID(int=number)), 0)


def test_jobs_of_each_priority_expire_by_their_own_order() -> None:
    flow = FlowBacklog()
    jobs = [(-5, 1, 100), (-5, 2, 300), (0, 3, 50), (0, 4, 100), (0, 5, 101), (9, 6, 400), (10, 7, 99)]
    flow.add_page([at_rank(*job) for job in jobs], limit=9)

    assert [job.int for job in flow.take_expired(Ms(100))] == [1, 3, 4, 7]
    assert ready(flow) == [2, 5, 6]
    assert not flow.take_expired(Ms(100))


def test_going_back_keeps_what_has_a_higher_priority() -> None:
    flow = FlowBacklog()
    flow.add_page([at_rank(-5, 1, 900), at_rank(0, 2, 100), at_rank(0, 3, 200)], limit=3)

    flow.go_back_to(Place(0, Ms(50), UUID(int=9)))

    assert ready(flow) == [1]
    assert flow.read_to == Place(0, Ms(50), UUID(int=8))


def test_lower_priorities_are_all_but_the_first_of_each_flow() -> None:
    a, b, c = (Flow("m", Lane.BULK, tenant) for tenant in "abc")
    heads = [Head(flow, rank, Ms(1)) for flow, rank in ((a, -1), (a, 0), (a, 1), (b, 3), (c, 0), (c, 1))]

    assert lower_heads(heads) == [heads[1], heads[2], heads[5]]


def test_a_flow_whose_page_is_on_its_way_wants_no_other() -> None:
    flow = FlowBacklog(is_being_read=True)

    assert not flow.wants_page()
