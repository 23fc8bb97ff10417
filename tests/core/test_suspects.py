"""Who is suspected when a worker dies, who is tried next, and who is convicted."""

import math
from collections import Counter
from uuid import UUID

import pytest

from broker.core.suspects import FreeWorker, Involved, WaitingSuspect, blame, judge, turns
from schemas.catalog import Catalog, Deployment, Model, Route
from schemas.ruling import Suspicion
from schemas.subjects import WorkerId
from schemas.units import Ms
from tests.builders import a_catalog
from tests.core.suspects_simulator import Simulation

GROUP = UUID(int=1000)


class Groups:
    def __init__(self) -> None:
        self.made = 0

    def __call__(self) -> UUID:
        self.made += 1
        return UUID(int=self.made)


def apart(number: int, suspicion: Suspicion, *, ran_ms: int = 0, has_begun: bool = True) -> Involved:
    return Involved(UUID(int=number), 1, suspicion, has_begun, Ms(ran_ms))


def keys(*numbers: int) -> list[tuple[UUID, int]]:
    return [(UUID(int=n), 1) for n in numbers]


def test_all_that_a_dead_worker_may_have_held_is_one_group_of_suspects() -> None:
    blamed, released = judge([()], keys(1, 2, 3), Groups())

    assert [(one.job.int, one.attempt) for one in blamed] == [(1, 1), (2, 1), (3, 1)]
    assert {one.suspicion for one in blamed} == {Suspicion(UUID(int=1))}
    assert not any(one.is_convicted for one in blamed)
    assert not released


def test_one_job_among_others_is_only_suspected() -> None:
    [blamed], _ = judge([()], keys(7), Groups())

    assert (blamed.suspicion, blamed.is_convicted) == (Suspicion(UUID(int=1)), False)


def test_when_a_group_ends_its_worker_others_are_none_of_its_matter() -> None:
    blamed, released = judge([(apart(1, Suspicion(GROUP)), apart(2, Suspicion(GROUP)))], keys(8, 9), Groups())

    assert sorted(one.job.int for one in blamed) == [1, 2]
    assert len({one.suspicion.group for one in blamed}) == 2
    assert released == keys(8, 9)


def test_a_group_that_had_not_begun_stays_as_it_was_and_what_ran_is_suspected() -> None:
    known = Suspicion(GROUP, 1)

    blamed, released = judge([(apart(1, known, has_begun=False),)], keys(8), Groups())

    assert {one.job.int: one.suspicion for one in blamed} == {1: known, 8: Suspicion(UUID(int=1))}
    assert not any(one.is_convicted for one in blamed)
    assert not released


def test_of_two_groups_at_a_worker_only_the_one_that_had_begun_is_blamed() -> None:
    ran, waits = Suspicion(GROUP, 1), Suspicion(UUID(int=2000), 1)

    blamed, _ = judge([(apart(1, ran), apart(2, waits, has_begun=False))], [], Groups())

    assert {one.job.int: one.is_convicted for one in blamed} == {1: True, 2: False}
    assert blamed[1].suspicion == waits


def test_of_two_workers_that_die_together_each_is_judged_by_what_it_ran() -> None:
    blamed, released = judge([(apart(1, Suspicion(GROUP, 1)),), ()], keys(8, 9), Groups())

    assert {one.job.int: one.is_convicted for one in blamed} == {1: True, 8: False, 9: False}
    assert not released


def test_the_death_of_an_idle_worker_makes_no_suspects() -> None:
    assert judge([()], [], Groups()) == ([], [])


@pytest.mark.parametrize("size", [2, 3, 8, 9])
def test_a_group_whose_worker_dies_is_halved(size: int) -> None:
    blamed = blame([apart(n, Suspicion(GROUP)) for n in reversed(range(size))], Groups())

    sizes = Counter(one.suspicion.group.int for one in blamed)
    assert sorted(one.job.int for one in blamed) == list(range(size))
    assert sorted(sizes.values()) == [size // 2, size - size // 2]
    assert not any(one.is_convicted for one in blamed)


def test_two_deaths_alone_convict_and_one_does_not() -> None:
    [first] = blame([apart(1, Suspicion(GROUP), ran_ms=1000)], Groups())
    [second] = blame([apart(1, first.suspicion, ran_ms=2000)], Groups())

    assert (first.is_convicted, first.suspicion.deaths_alone) == (False, 1)
    assert (second.is_convicted, second.suspicion.deaths_alone) == (True, 2)


@pytest.mark.parametrize(("ran_ms", "is_convicted"), [(0, True), (5000, True), (5001, False)])
def test_a_run_that_outlives_the_former_death_forgets_it(ran_ms: int, *, is_convicted: bool) -> None:
    [again] = blame([apart(1, Suspicion(GROUP, 1, Ms(1000)), ran_ms=ran_ms)], Groups())

    assert again.is_convicted is is_convicted
    assert again.suspicion == Suspicion(GROUP, 2 if is_convicted else 1, Ms(ran_ms))


def waiting(number: int, group: int, *, model: str = "m", tried: tuple[str, ...] = ()) -> WaitingSuspect:
    return WaitingSuspect(UUID(int=number), model, tried, Suspicion(UUID(int=group)))


def free(worker: str, *, deployment: str = "d", slots: int = 8, running: int = 0) -> FreeWorker:
    return FreeWorker(WorkerId(worker), deployment, slots, running)


def given(
    suspects: list[WaitingSuspect],
    workers: list[FreeWorker],
    *,
    catalog: Catalog | None = None,
    all_workers: int | None = None,
    apart: int = 0,
) -> list[tuple[str, int, list[int]]]:
    count = Counter(worker.deployment for worker in workers)
    if all_workers is not None:
        count["d"] = all_workers
    chosen = turns(suspects, workers, workers=count, apart=Counter(d=apart), catalog=catalog or a_catalog())
    return [(turn.worker, turn.group.int, [job.int for job in turn.jobs]) for turn in chosen]


def test_a_group_runs_on_the_worker_that_runs_the_least() -> None:
    assert given([waiting(1, 5), waiting(2, 5)], [free("a", running=3), free("b", running=1)]) == [("b", 5, [1, 2])]


def test_the_oldest_group_comes_first_and_two_groups_never_share_a_worker() -> None:
    assert given([waiting(1, 9), waiting(2, 5)], [free("a")]) == [("a", 5, [2])]


def test_half_of_the_workers_stay_for_others() -> None:
    groups = [waiting(n, n) for n in range(1, 6)]

    assert len(given(groups, [free("a"), free("b"), free("c"), free("e")])) == 2
    assert len(given(groups, [free("a"), free("b"), free("c")])) == 1
    assert given(groups, [free("a"), free("b"), free("c")], all_workers=4, apart=2) == []


def test_no_more_of_a_group_than_the_worker_has_slots() -> None:
    assert given([waiting(n, 5) for n in range(4)], [free("a", slots=3)]) == [("a", 5, [0, 1, 2])]


def test_a_group_goes_where_its_route_allows_and_first_where_it_has_not_failed() -> None:
    routes = (Route("d"), Route("e"))
    catalog = Catalog(
        models={"m": Model(route=routes), "other": Model(route=(Route("f"),))},
        deployments={name: Deployment(engine="simulated") for name in ("d", "e", "f")},
    )
    workers = [free("a"), free("b", deployment="e")]

    assert given([waiting(1, 5, tried=("d",))], workers, catalog=catalog) == [("b", 5, [1])]
    assert given([waiting(1, 5, tried=("d", "e"))], workers, catalog=catalog) == [("a", 5, [1])]
    assert given([waiting(1, 5, model="other")], workers, catalog=catalog) == []
    assert given([waiting(1, 5, model="gone")], workers, catalog=catalog) == []
    assert given([waiting(1, 5), waiting(2, 5, model="other")], workers, catalog=catalog) == [("a", 5, [1])]


def test_culprits_end_dead_and_nobody_else_does() -> None:
    """200 trials: 1 to 4 culprits among 40 to 100 jobs on 1 to 3 workers, half of them with 12 kills an hour besides."""
    for seed in range(200):
        culprits, workers, slots = 1 + seed % 4, 1 + seed % 3, (4, 8, 16)[seed // 3 % 3]
        jobs = 40 + seed * 7 % 61
        kills = 12.0 if seed % 2 else 0.0

        trial = Simulation(seed, jobs=jobs, culprits=culprits, workers=workers, slots=slots, kills_per_h=kills).run()

        assert trial.innocents_dead == 0, seed
        assert trial.culprits_dead == culprits, seed
        if not kills:
            assert trial.deaths <= culprits * (math.ceil(math.log2(trial.largest)) + 3), seed


def test_kills_from_outside_convict_nobody_as_rarely_as_stated() -> None:
    """30 kills an hour of each worker, 200 trials of 60 innocent jobs."""
    trials = [
        Simulation(seed, jobs=60, culprits=0, workers=2, slots=8, kills_per_h=30.0).run() for seed in range(200)
    ]

    assert sum(trial.innocents_dead for trial in trials) == 0
    assert sum(trial.deaths for trial in trials) > 10
