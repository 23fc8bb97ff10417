from collections import Counter
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from broker.core.fairness import WEIGHTS, Order
from broker.core.records import Flow, Place, WaitingJob
from schemas.catalog import Catalog, Deployment, Model, Route
from schemas.job import Lane
from schemas.units import Ms


def a_catalog(**models: dict[str, int]) -> Catalog:
    """Models by name, each with its deployments and their weights."""
    names = {deployment for routes in models.values() for deployment in routes}
    return Catalog(
        models={name: Model(route=tuple(Route(d, w) for d, w in routes.items())) for name, routes in models.items()},
        deployments={name: Deployment(engine="simulated") for name in names},
    )


def jobs(count: int, *, first: int = 1) -> list[WaitingJob]:
    return [WaitingJob(Place(0, Ms(10**12), UUID(int=first + n)), 0) for n in range(count)]


def test_within_a_flow_the_order_of_the_ledger_is_kept() -> None:
    waiting = {Flow("m", Lane.BULK, "t"): jobs(5)}

    picks = Order().choose(waiting, room={"d": 3}, catalog=a_catalog(m={"d": 1}), limit=100)

    assert [pick.place.job.int for pick in picks] == [1, 2, 3]


def test_no_more_is_chosen_than_there_is_room() -> None:
    waiting = {Flow("m", Lane.BULK, tenant): jobs(50, first=100 * n) for n, tenant in enumerate("abc", 1)}

    picks = Order().choose(waiting, room={"d": 7, "e": 2}, catalog=a_catalog(m={"d": 1, "e": 1}), limit=100)

    assert Counter(pick.deployment for pick in picks) == {"d": 7, "e": 2}


def test_lanes_share_by_weight_and_none_starves() -> None:
    waiting = {Flow("m", lane, "t"): jobs(1000, first=10_000 * n) for n, lane in enumerate(Lane, 1)}
    lane_of = {job.place.job: flow.lane for flow, flow_jobs in waiting.items() for job in flow_jobs}

    picks = Order().choose(waiting, room={"d": 210}, catalog=a_catalog(m={"d": 1}), limit=1000)

    served = Counter(lane_of[pick.place.job] for pick in picks)
    for lane in Lane:
        assert abs(served[lane] - 210 * WEIGHTS[lane] / sum(WEIGHTS.values())) <= 2, served


def test_a_lane_alone_takes_everything() -> None:
    waiting = {Flow("m", Lane.BULK, "t"): jobs(100)}

    picks = Order().choose(waiting, room={"d": 100}, catalog=a_catalog(m={"d": 1}), limit=1000)

    assert len(picks) == 100


def test_tenants_take_turns_however_much_one_has() -> None:
    waiting = {Flow("m", Lane.BULK, "big"): jobs(1000), Flow("m", Lane.BULK, "small"): jobs(3, first=5000)}

    picks = Order().choose(waiting, room={"d": 6}, catalog=a_catalog(m={"d": 1}), limit=1000)

    assert sum(pick.place.job.int >= 5000 for pick in picks) == 3


def test_a_tenant_that_comes_back_has_saved_up_nothing() -> None:
    order, catalog = Order(), a_catalog(m={"d": 1})
    busy = {Flow("m", Lane.BULK, "busy"): jobs(1000)}
    order.choose(busy | {Flow("m", Lane.BULK, "back"): jobs(1, first=9000)}, room={"d": 2}, catalog=catalog, limit=9)
    order.choose(busy, room={"d": 500}, catalog=catalog, limit=1000)

    both = busy | {Flow("m", Lane.BULK, "back"): jobs(500, first=9000)}
    picks = order.choose(both, room={"d": 100}, catalog=catalog, limit=1000)

    assert abs(sum(pick.place.job.int >= 9000 for pick in picks) - 50) <= 1


def test_tenants_lanes_and_models_share_by_tokens() -> None:
    """One's jobs take three times as much as the other's, so that it gets a third as many."""
    large = [replace(one, tokens=3) for one in jobs(1000)]
    small = jobs(1000, first=5000)
    pairs = [
        (Flow("m", Lane.BULK, "a"), Flow("m", Lane.BULK, "b"), 1),
        (Flow("m", Lane.BULK, "t"), Flow("n", Lane.BULK, "t"), 1),
        (Flow("m", Lane.STANDARD, "t"), Flow("m", Lane.BULK, "t"), 4),
    ]

    for first, second, weight in pairs:
        picks = Order().choose(
            {first: large, second: small}, room={"d": 400}, catalog=a_catalog(m={"d": 1}, n={"d": 1}), limit=1000
        )

        of_large = sum(pick.tokens for pick in picks if pick.flow == first)
        of_small = sum(pick.tokens for pick in picks if pick.flow == second)
        assert abs(of_large - weight * of_small) <= 3 * weight, (first, second)


def test_deployments_of_a_model_share_by_weight() -> None:
    waiting = {Flow("m", Lane.BULK, "t"): jobs(1000)}

    picks = Order().choose(waiting, room={"d": 500, "e": 500}, catalog=a_catalog(m={"d": 95, "e": 5}), limit=200)

    assert abs(Counter(pick.deployment for pick in picks)["e"] - 10) <= 1


def test_what_one_deployment_has_no_room_for_goes_to_the_other() -> None:
    waiting = {Flow("m", Lane.BULK, "t"): jobs(100)}

    picks = Order().choose(waiting, room={"d": 0, "e": 30}, catalog=a_catalog(m={"d": 95, "e": 5}), limit=200)

    assert Counter(pick.deployment for pick in picks) == {"e": 30}


def test_a_model_without_workers_does_not_hold_up_another() -> None:
    waiting = {Flow("dead", Lane.BULK, "t"): jobs(100), Flow("m", Lane.BULK, "t"): jobs(10, first=500)}

    picks = Order().choose(waiting, room={"d": 50}, catalog=a_catalog(m={"d": 1}, dead={"x": 1}), limit=200)

    assert len(picks) == 10


def test_a_model_that_left_the_catalog_waits() -> None:
    waiting = {Flow("gone", Lane.BULK, "t"): jobs(5)}

    assert not Order().choose(waiting, room={"d": 50}, catalog=a_catalog(m={"d": 1}), limit=200)


flows = st.builds(Flow, st.sampled_from(["m", "n"]), st.sampled_from(list(Lane)), st.sampled_from(["a", "b", "c"]))


@given(st.dictionaries(flows, st.integers(0, 20)), st.integers(0, 30), st.integers(0, 30), st.integers(0, 60))
def test_every_choice_is_whole(sizes: dict[Flow, int], room_d: int, room_e: int, limit: int) -> None:
    """Nothing twice, nothing beyond room or limit, each flow from its beginning, and no slot idle beside work."""
    waiting = {flow: jobs(size, first=1000 * n) for n, (flow, size) in enumerate(sizes.items(), 1)}

    picks = Order().choose(
        waiting, room={"d": room_d, "e": room_e}, catalog=a_catalog(m={"d": 1}, n={"d": 3, "e": 1}), limit=limit
    )

    chosen = [pick.place.job for pick in picks]
    used = Counter(pick.deployment for pick in picks)
    assert len(set(chosen)) == len(chosen) <= limit
    assert used["d"] <= room_d
    assert used["e"] <= room_e
    for flow_jobs in waiting.values():
        taken = [job.place.job in chosen for job in flow_jobs]
        assert taken == sorted(taken, reverse=True)
    if len(picks) < limit and used["d"] < room_d:
        assert len(picks) == sum(sizes.values())


def test_a_spare_gets_what_failed_elsewhere_and_nothing_else() -> None:
    failed = WaitingJob(Place(0, Ms(10**12), UUID(int=9)), 1, ("d",))
    waiting = {Flow("m", Lane.BULK, "t"): [*jobs(3), failed]}

    picks = Order().choose(waiting, room={"d": 2, "e": 9}, catalog=a_catalog(m={"d": 1, "e": 0}), limit=100)

    assert [(pick.place.job.int, pick.deployment) for pick in picks] == [(1, "d"), (2, "d"), (9, "e")]


def test_a_spare_stands_in_while_the_others_have_no_worker() -> None:
    waiting = {Flow("m", Lane.BULK, "t"): jobs(3)}
    catalog = a_catalog(m={"d": 1, "e": 0})

    alone = Order().choose(waiting, room={"e": 9}, catalog=catalog, limit=100)
    beside = Order().choose(waiting, room={"e": 9}, alive={"d"}, catalog=catalog, limit=100)

    assert {pick.deployment for pick in alone} == {"e"}
    assert not beside


def test_what_failed_everywhere_alive_may_go_anywhere_alive() -> None:
    waiting = {Flow("m", Lane.BULK, "t"): [WaitingJob(Place(0, Ms(10**12), UUID(int=1)), 1, ("d",))]}

    picks = Order().choose(waiting, room={"d": 1}, catalog=a_catalog(m={"d": 1, "e": 1}), limit=100)

    assert [pick.deployment for pick in picks] == ["d"]


def test_of_lanes_that_are_level_the_heavier_is_served_first() -> None:
    """One slot, and a standard job that comes now and then: it waits for no further bulk job."""
    order, catalog = Order(), a_catalog(m={"d": 1})
    bulk = {Flow("m", Lane.BULK, "t"): jobs(1000)}
    for round_ in range(5):
        order.choose(bulk, room={"d": 1}, catalog=catalog, limit=1)

        [pick] = order.choose(
            bulk | {Flow("m", Lane.STANDARD, "t"): jobs(1, first=5000)}, room={"d": 1}, catalog=catalog, limit=1
        )

        assert pick.flow.lane is Lane.STANDARD, round_


def test_jobs_that_wait_for_another_deployment_hold_up_nothing_behind_them() -> None:
    failed = [WaitingJob(Place(0, Ms(10**12), UUID(int=n)), 1, ("d",)) for n in range(1, 501)]
    waiting = {Flow("m", Lane.BULK, "t"): [*failed, *jobs(3, first=1000)]}

    picks = Order().choose(waiting, room={"d": 9}, alive={"e"}, catalog=a_catalog(m={"d": 1, "e": 0}), limit=100)

    assert [pick.place.job.int for pick in picks] == [1000, 1001, 1002]


def test_models_that_draw_on_one_deployment_share_it_alike() -> None:
    waiting = {Flow("m", Lane.BULK, "t"): jobs(1000), Flow("n", Lane.BULK, "t"): jobs(1000, first=5000)}

    picks = Order().choose(waiting, room={"d": 100}, catalog=a_catalog(m={"d": 1}, n={"d": 1}), limit=1000)

    assert Counter(pick.flow.model for pick in picks) == {"m": 50, "n": 50}


def test_a_deployment_that_comes_back_gets_its_share_and_no_more() -> None:
    order, catalog = Order(), a_catalog(m={"d": 1, "e": 1})
    waiting = {Flow("m", Lane.BULK, "t"): jobs(1000)}
    order.choose(waiting, room={"d": 2, "e": 2}, catalog=catalog, limit=2)
    for _ in range(100):
        order.choose(waiting, room={"d": 1}, alive={"e"}, catalog=catalog, limit=1)

    picks = order.choose(waiting, room={"d": 100, "e": 100}, catalog=catalog, limit=100)

    assert abs(Counter(pick.deployment for pick in picks)["e"] - 50) <= 1


def test_a_job_that_failed_waits_for_a_regular_deployment_that_is_full() -> None:
    waiting = {Flow("m", Lane.BULK, "t"): [WaitingJob(Place(0, Ms(10**12), UUID(int=1)), 1, ("d",))]}
    catalog = a_catalog(m={"d": 1, "e": 1, "spare": 0})

    while_full = Order().choose(waiting, room={"d": 1, "spare": 1}, alive={"e"}, catalog=catalog, limit=100)
    while_away = Order().choose(waiting, room={"d": 1, "spare": 1}, catalog=catalog, limit=100)

    assert not while_full
    assert [pick.deployment for pick in while_away] == ["spare"]


def test_spares_stand_in_in_their_order() -> None:
    waiting = {Flow("m", Lane.BULK, "t"): jobs(3)}

    picks = Order().choose(waiting, room={"e": 1, "f": 9}, catalog=a_catalog(m={"d": 1, "e": 0, "f": 0}), limit=100)

    assert [pick.deployment for pick in picks] == ["e", "f", "f"]


@settings(max_examples=20)
@given(st.lists(st.integers(1, 4), min_size=60, max_size=60))
def test_over_many_small_rounds_the_shares_are_the_same(rooms: list[int]) -> None:
    """Every lane, tenant and model always has work; a round has room for a few only."""
    order = Order()
    names = [Flow(model, lane, tenant) for model in "mn" for lane in Lane for tenant in "ab"]
    waiting = {flow: jobs(300, first=1000 * n) for n, flow in enumerate(names, 1)}
    catalog = a_catalog(m={"d": 1}, n={"d": 1})
    served = Counter[Flow]()

    for room in rooms:
        picks = order.choose(waiting, room={"d": room}, catalog=catalog, limit=1000)
        assert len(picks) == room
        for pick in picks:
            served[pick.flow] += 1

    total = sum(rooms)
    for model in "mn":
        of_model = sum(count for flow, count in served.items() if flow.model == model)
        assert abs(of_model - total / 2) <= 1
        for lane in Lane:
            of_lane = {flow.tenant: served[flow] for flow in names if (flow.model, flow.lane) == (model, lane)}
            assert abs(sum(of_lane.values()) - of_model * WEIGHTS[lane] / sum(WEIGHTS.values())) <= 3, served
            assert abs(of_lane["a"] - of_lane["b"]) <= 1


ROUTE = {"d": 2, "e": 1, "s": 0, "t": 0}
tried = st.sets(st.sampled_from(list(ROUTE))).map(lambda names: tuple(sorted(names)))


def may_take(job: WaitingJob, alive: set[str]) -> set[str]:
    """The rule in words: a regular deployment that is alive and has not failed it; if there is none, such a spare. A job
    that all of those alive have failed begins again.
    """
    regular = {name for name, weight in ROUTE.items() if weight}
    left = alive - set(job.tried) or alive
    return (left & regular) or left


@settings(max_examples=300)
@given(
    st.dictionaries(flows.filter(lambda flow: flow.model == "m"), st.lists(tried, max_size=12)),
    st.dictionaries(st.sampled_from(list(ROUTE)), st.integers(0, 8)),
    st.sets(st.sampled_from(list(ROUTE))),
    st.integers(0, 40),
)
def test_each_job_goes_where_it_may_and_no_slot_is_idle_that_could_take_one(
    sizes: dict[Flow, list[tuple[str, ...]]], room: dict[str, int], more_alive: set[str], limit: int
) -> None:
    waiting = {
        flow: [WaitingJob(Place(0, Ms(10**12), UUID(int=1000 * n + at)), 1, one) for at, one in enumerate(failed)]
        for n, (flow, failed) in enumerate(sizes.items(), 1)
    }
    alive = more_alive | set(room)

    picks = Order().choose(waiting, room=room, alive=alive, catalog=a_catalog(m=ROUTE), limit=limit)

    given_to = {pick.place.job: pick.deployment for pick in picks}
    left = Counter(room)
    left.subtract(given_to.values())
    assert len(given_to) == len(picks) <= limit
    assert all(count >= 0 for count in left.values())
    for flow_jobs in waiting.values():
        skipped = set[tuple[str, ...]]()
        for job in flow_jobs:
            if job.place.job not in given_to:
                skipped.add(job.tried)
                assert len(picks) == limit or not any(left[name] > 0 for name in may_take(job, alive))
            else:
                assert job.tried not in skipped
                assert given_to[job.place.job] in may_take(job, alive)


def test_retries_never_overtake_another_tenants_fresh_work() -> None:
    """However many jobs of one tenant come back, and however early their deadlines: it gets its turns, and no more."""
    retries = [
        WaitingJob(Place(0, Ms(10**12 - 10**6 + n), UUID(int=n)), attempt=2, tried=("gone",)) for n in range(1, 500)
    ]
    waiting = {Flow("m", Lane.BULK, "failed"): retries, Flow("m", Lane.BULK, "fresh"): jobs(50, first=9000)}
    order, catalog = Order(), a_catalog(m={"d": 1, "gone": 1})

    picks = order.choose(waiting, room={"d": 100}, catalog=catalog, limit=1000)

    fresh = [n for n, pick in enumerate(picks, 1) if pick.flow.tenant == "fresh"]
    assert len(fresh) == 50
    assert all(n <= 2 * turn for turn, n in enumerate(fresh, 1)), fresh


def test_a_tenant_whose_jobs_fail_and_come_back_at_once_is_charged_for_each_attempt() -> None:
    order, catalog = Order(), a_catalog(m={"d": 1})
    failing = {Flow("m", Lane.BULK, "failed"): jobs(1)}
    left, served = jobs(60, first=9000), Counter[str]()

    for _ in range(50):  # its one job is back before each choice
        waiting = failing | {Flow("m", Lane.BULK, "fresh"): left}
        for pick in order.choose(waiting, room={"d": 1}, catalog=catalog, limit=1):
            served[pick.flow.tenant] += 1
            left = [job for job in left if job.place != pick.place]

    assert abs(served["failed"] - served["fresh"]) <= 1
