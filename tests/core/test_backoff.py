import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.backoff import DEATH_MS, LONGEST_RETRY_AFTER_MS, backoff_ms, wait_ms
from broker.core.retry import DEFAULT
from schemas.catalog import Retry
from schemas.outcome import EngineFault, EngineLost, Failure, Throttled
from schemas.units import Ms

units = st.floats(0, 1, exclude_max=True)
NEARLY_ONE = 1 - 2**-53
BASE_MS, CAP_MS = Ms(500), Ms(60_000)


@given(st.integers(1, 10**9), units)
def test_a_wait_is_within_its_bounds_after_any_attempt(attempt: int, unit: float) -> None:
    assert (
        0
        <= backoff_ms(attempt, base_ms=BASE_MS, cap_ms=CAP_MS, unit=unit)
        < min(CAP_MS, BASE_MS * 2 ** min(attempt - 1, 20))
    )


@pytest.mark.parametrize(
    ("attempt", "most_ms"), [(1, 500), (2, 1000), (3, 2000), (7, 32_000), (8, 60_000), (99, 60_000)]
)
def test_a_wait_grows_twofold_up_to_its_cap(attempt: int, most_ms: int) -> None:
    assert most_ms - 1 <= backoff_ms(attempt, base_ms=BASE_MS, cap_ms=CAP_MS, unit=NEARLY_ONE) <= most_ms


@given(st.integers(1, 40), units, units)
def test_waits_are_spread_over_all_that_is_allowed(attempt: int, one: float, other: float) -> None:
    sooner, later = sorted((one, other))

    assert backoff_ms(attempt, base_ms=BASE_MS, cap_ms=CAP_MS, unit=0.0) == 0
    assert backoff_ms(attempt, base_ms=BASE_MS, cap_ms=CAP_MS, unit=sooner) <= backoff_ms(
        attempt, base_ms=BASE_MS, cap_ms=CAP_MS, unit=later
    )


@given(st.integers(0, 10 * LONGEST_RETRY_AFTER_MS), st.integers(1, 40), units)
def test_an_engine_that_asks_for_patience_gets_up_to_an_hour_and_jitter_on_top(
    asked: int, attempt: int, unit: float
) -> None:
    waited = wait_ms(Throttled(Ms(asked)), attempt, policy=DEFAULT, unit=unit)

    assert waited == min(asked, LONGEST_RETRY_AFTER_MS) + backoff_ms(
        attempt, base_ms=BASE_MS, cap_ms=CAP_MS, unit=unit
    )


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
    assert base_ms - 1 <= wait_ms(failure, 1, policy=DEFAULT, unit=NEARLY_ONE) <= base_ms


@pytest.mark.parametrize(
    ("policy", "attempt", "most_ms"),
    [
        (Retry(backoff_base_s=2), 1, 2000),
        (Retry(backoff_base_s=2), 3, 8000),
        (Retry(backoff_base_s=2, backoff_cap_s=5), 3, 5000),
        (Retry(backoff_cap_s=0.7), 2, 700),
        (Retry(backoff_base_s=0.0005), 3, 0),
    ],
)
def test_the_models_policy_sets_base_and_cap(policy: Retry, attempt: int, most_ms: int) -> None:
    assert most_ms - 1 <= wait_ms(EngineFault("x"), attempt, policy=policy, unit=NEARLY_ONE) <= most_ms


def test_what_an_engine_had_when_it_died_waits_no_longer_than_the_models_cap() -> None:
    assert wait_ms(EngineLost("x"), 9, policy=Retry(backoff_cap_s=1), unit=NEARLY_ONE) <= 1000
    assert wait_ms(EngineLost("x"), 1, policy=Retry(backoff_base_s=20), unit=NEARLY_ONE) > 19_000
