from hypothesis import given
from hypothesis import strategies as st

from broker.core.limits import affordable, is_reached
from broker.core.records import Spend
from schemas.units import NanoUsd

USD = 10**9


def spent(usd: float, executions: int) -> Spend:
    return Spend(NanoUsd(round(usd * USD)), executions)


def test_without_a_cap_every_free_slot_may_start_one() -> None:
    assert affordable(None, spent(1000, 1), running=5, free=64) == 64


def test_near_its_cap_a_deployment_starts_no_more_than_what_is_left_pays_for() -> None:
    day = spent(15, 15)

    assert affordable(20, day, running=0, free=64) == 5
    assert affordable(20, day, running=3, free=64) == 2
    assert affordable(20, day, running=3, free=1) == 1


def test_what_is_left_is_spent_by_one_at_a_time() -> None:
    nearly = Spend(NanoUsd(round(19.5 * USD)), 19)

    assert affordable(20, nearly, running=0, free=64) == 1
    assert affordable(20, nearly, running=1, free=64) == 0


def test_at_its_cap_a_deployment_starts_nothing() -> None:
    assert affordable(20, spent(20, 20), running=0, free=64) == 0
    assert affordable(0, spent(0, 0), running=0, free=64) == 0


def test_before_anything_is_known_all_slots_may_start_one() -> None:
    assert affordable(20, spent(0, 0), running=0, free=64) == 64


@given(st.floats(0, 100), st.floats(0.001, 100), st.integers(1, 50), st.integers(0, 50), st.integers(0, 50))
def test_a_cap_is_passed_by_less_than_one_mean(
    cap_usd: float, cost_usd: float, count: int, running: int, free: int
) -> None:
    day = spent(cost_usd, count)
    mean = day.cost_nano_usd / count

    started = affordable(cap_usd, day, running=running, free=free)

    assert 0 <= started <= free
    if started:
        assert not is_reached(cap_usd, day, running=running)
        assert day.cost_nano_usd + (running + started - 1) * mean < cap_usd * USD + 1
    elif free and not running:
        assert is_reached(cap_usd, day, running=0)


def test_what_runs_counts_towards_the_cap_at_the_days_mean() -> None:
    assert not is_reached(20, spent(15, 15), running=4)
    assert is_reached(20, spent(15, 15), running=5)
    assert is_reached(20, spent(20, 20), running=0)


def test_without_a_cap_none_is_reached() -> None:
    assert not is_reached(None, spent(1000, 1), running=64)


def test_while_something_runs_no_more_is_started_than_is_left() -> None:
    assert affordable(20, Spend(NanoUsd(round(18.5 * USD)), 18), running=1, free=64) == 0
