import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.backoff import BASE_MS, CAP_MS, DEATH_MS, LONGEST_RETRY_AFTER_MS, backoff_ms, wait_ms
from schemas.outcome import EngineFault, EngineLost, Failure, Throttled
from schemas.units import Ms

units = st.floats(0, 1, exclude_max=True)
NEARLY_ONE = 1 - 2**-53


@given(st.integers(1, 10**9), units)
def test_a_wait_is_within_its_bounds_after_any_attempt(attempt: int, unit: float) -> None:
    assert 0 <= backoff_ms(attempt, unit=unit) < min(CAP_MS, BASE_MS * 2 ** min(attempt - 1, 20))


@pytest.mark.parametrize(
    ("attempt", "most_ms"), [(1, 500), (2, 1000), (3, 2000), (7, 32_000), (8, 60_000), (99, 60_000)]
)
def test_a_wait_grows_twofold_up_to_its_cap(attempt: int, most_ms: int) -> None:
    assert most_ms - 1 <= backoff_ms(attempt, unit=NEARLY_ONE) <= most_ms


@given(st.integers(1, 40), units, units)
def test_waits_are_spread_over_all_that_is_allowed(attempt: int, one: float, other: float) -> None:
    sooner, later = sorted((one, other))

    assert backoff_ms(attempt, unit=0.0) == 0
    assert backoff_ms(attempt, unit=sooner) <= backoff_ms(attempt, unit=later)


@given(st.integers(0, 10 * LONGEST_RETRY_AFTER_MS), st.integers(1, 40), units)
def test_an_engine_that_asks_for_patience_gets_up_to_an_hour_and_jitter_on_top(
    asked: int, attempt: int, unit: float
) -> None:
    waited = wait_ms(Throttled(Ms(asked)), attempt, unit=unit)

    assert waited == min(asked, LONGEST_RETRY_AFTER_MS) + backoff_ms(attempt, unit=unit)


@pytest.mark.parametrize(
    ("failure", "base_ms"),
    [
        (EngineLost("x"), DEATH_MS),
        (EngineLost("x", sent=False), BASE_MS),
        (EngineFault("x"), BASE_MS),
        (Throttled(), BASE_MS),
    ],
)
def test_only_what_an_engine_had_when_it_died_is_spread_widely(failure: Failure, base_ms: Ms) -> None:
    assert base_ms - 1 <= wait_ms(failure, 1, unit=NEARLY_ONE) <= base_ms
