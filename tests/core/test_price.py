import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.price import price_nano_usd
from schemas.catalog import Price
from schemas.outcome import Usage
from schemas.units import MOST_NANO_USD

tokens = st.integers(0, 10**7)
cents = st.integers(0, 10**5)


@given(st.tuples(tokens, tokens, tokens), st.tuples(cents, cents, st.none() | cents))
def test_a_price_is_the_sum_of_its_three_parts(
    counts: tuple[int, int, int], prices: tuple[int, int, int | None]
) -> None:
    fresh, out, cached = counts
    per_in, per_out, per_cached = prices
    price = Price(
        input=per_in / 100, output=per_out / 100, cached_input=None if per_cached is None else per_cached / 100
    )

    cost = price_nano_usd(Usage(fresh + cached, out, cached), price)

    exact = 10 * (fresh * per_in + out * per_out + cached * (per_in if per_cached is None else per_cached))
    assert cost == min(exact, MOST_NANO_USD)


def test_cached_tokens_may_be_free() -> None:
    assert price_nano_usd(Usage(100, 0, 60), Price(input=1.0, cached_input=0.0)) == 40 * 1000


@pytest.mark.parametrize("usd", [0.29, 2.01])
def test_a_price_is_what_its_decimals_say(usd: float) -> None:
    assert price_nano_usd(Usage(1_000_000, 0), Price(input=usd)) == round(usd * 100) * 10**7


def test_a_part_of_a_nano_dollar_is_charged_as_one() -> None:
    assert price_nano_usd(Usage(1, 0), Price(input=0.000001)) == 1


def test_more_cached_tokens_than_input_tokens_earn_nothing() -> None:
    assert price_nano_usd(Usage(10, 0, 10**9), Price(input=1.0, cached_input=0.5)) == 5000


def test_a_price_has_a_bound() -> None:
    assert price_nano_usd(Usage(10**9, 10**9), Price(input=1e6, output=1e6)) == MOST_NANO_USD
