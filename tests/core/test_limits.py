"""used + reserved + estimate ≤ limit."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.limits import Account, affordable, cap_of, hold, left, room, usd, warnings
from broker.core.records import Flow, Pick, Place
from schemas.api import HoldCode
from schemas.catalog import Catalog, Deployment, Price
from schemas.job import Lane
from schemas.units import Ms, NanoUsd
from tests.builders import an_id

USD = 10**9
NOON = Ms(1_800_014_400_000)
"""15 January 2027, 12:00 UTC."""
MIDNIGHT = Ms(NOON + 12 * 3600 * 1000)


CANNOT_PAY = (
    "daily cap of 0.01 USD on d cannot pay one more of about 0.03 (0.00 spent, 0.00 reserved): "
    "raise it or ask for less"
)


def dollars(amount: float) -> NanoUsd:
    return NanoUsd(round(amount * USD))


def an_account(
    used: float | None = 0.0, *, limit: float = 20.0, estimate: float | None = 1.0, **more: Any
) -> Account:
    return Account(
        limit=cap_of(limit),
        used=None if used is None else dollars(used),
        estimate=None if estimate is None else dollars(estimate),
        **more,
    )


def started(account: Account, *, reserved: float = 0.0, running: int = 0, free: int = 64) -> int:
    return room(account, reserved=dollars(reserved), running=running, free=free)


def said(account: Account, *, reserved: float = 0.0, running: int = 0) -> tuple[HoldCode, str, Ms | None] | None:
    found = hold("d", account, reserved=dollars(reserved), running=running, now=NOON)
    return None if found is None else (found.code, found.message, found.until_ms)


def test_no_more_is_started_than_what_is_left_pays_for() -> None:
    assert started(an_account(15.0)) == 5
    assert started(an_account(15.0), reserved=3.0) == 2
    assert started(an_account(15.0), reserved=3.0, free=1) == 1
    assert started(an_account(19.5)) == 0


def test_the_first_jobs_of_a_deployment_are_held_to_its_cap_too() -> None:
    assert started(an_account(0.0, limit=1.0, estimate=0.3), free=32) == 3


def test_a_cap_that_is_spent_starts_nothing_not_even_what_costs_nothing() -> None:
    for account in (an_account(20.0), an_account(20.0, estimate=0.0), an_account(0.0, limit=0.0, estimate=0.0)):
        assert started(account) == 0
        assert said(account) is not None


def test_what_costs_nothing_fills_every_slot() -> None:
    assert started(an_account(1.0, estimate=0.0)) == 64


def test_nothing_starts_while_nobody_can_say_what_was_spent() -> None:
    account = an_account(None)

    assert started(account) == 0
    assert left(account, reserved=0) == 0
    message = "what d has spent today is not known, and its daily cap of 20.00 USD holds it until it is"
    assert said(account) == (HoldCode.SPEND_UNKNOWN, message, None)


def test_while_hardly_anything_says_what_it_costs_few_run_at_once() -> None:
    unknown = an_account(estimate=None, at_once=1)

    assert started(unknown) == 1
    assert started(unknown, running=1) == 0
    assert started(an_account(at_once=3), running=1) == 2
    message = "nothing says yet what d costs, so its daily cap of 20.00 USD lets 1 run at once"
    assert said(unknown, running=1) == (HoldCode.DAILY_CAP, message, None)


@pytest.mark.parametrize(
    ("account", "reserved", "message", "until"),
    [
        (an_account(20.0), 0.0, "daily cap of 20.00 USD spent on d, resumes 00:00 UTC", MIDNIGHT),
        (
            an_account(15.0),
            4.5,
            "what runs on d may spend the rest of its daily cap of 20.00 USD (15.00 spent, 4.50 reserved)",
            None,
        ),
        (
            an_account(19.5),
            0.0,
            "daily cap of 20.00 USD on d cannot pay one more of about 1.00 (19.50 spent, 0.00 reserved), resumes 00:00 UTC",
            MIDNIGHT,
        ),
        (
            an_account(limit=0.01, estimate=0.03),
            0.0,
            CANNOT_PAY,
            None,
        ),
    ],
    ids=["spent", "reserved", "less left than one", "less than one"],
)
def test_a_hold_says_the_numbers(account: Account, reserved: float, message: str, until: Ms | None) -> None:
    assert said(account, reserved=reserved) == (HoldCode.DAILY_CAP, message, until)


@given(
    limit=st.integers(0, 10**6),
    used=st.integers(0, 10**6),
    reserved=st.integers(0, 10**6),
    estimate=st.integers(0, 10**5),
    running=st.integers(0, 50),
    free=st.integers(0, 50),
)
def test_what_is_used_and_reserved_and_started_stays_within_the_limit(
    *, limit: int, used: int, reserved: int, estimate: int, running: int, free: int
) -> None:
    account = Account(limit=NanoUsd(limit), used=NanoUsd(used), estimate=NanoUsd(estimate))

    count = room(account, reserved=reserved, running=running, free=free)

    assert 0 <= count <= free
    if count:
        assert used + reserved + count * estimate <= limit
        assert hold("d", account, reserved=reserved, running=running, now=NOON) is None
    elif free:
        assert hold("d", account, reserved=reserved, running=running, now=NOON) is not None


# picks with an estimate each


def a_pick(deployment: str = "d") -> Pick:
    return Pick(Flow("m", Lane.BULK, "t"), Place(0, Ms(1), an_id()), deployment)


def test_picks_are_paid_in_their_order_as_far_as_the_money_goes() -> None:
    first, dear, second, late, elsewhere = a_pick(), a_pick(), a_pick(), a_pick(), a_pick("e")
    costs = {first: 4, dear: 11, second: 6, late: 1}
    estimates = {pick.place.job: NanoUsd(nano) for pick, nano in costs.items()}

    found = affordable([first, dear, second, late, elsewhere], estimates=estimates, left={"d": 10})

    assert found == ([first, second, elsewhere], [dear])


@given(st.lists(st.integers(0, 20), max_size=20), st.integers(0, 50))
def test_the_picks_that_are_paid_cost_no_more_than_was_left(costs: list[int], money: int) -> None:
    picks = [a_pick() for _ in costs]
    estimates = {pick.place.job: NanoUsd(nano) for pick, nano in zip(picks, costs, strict=True)}

    paid, dear = affordable(picks, estimates=estimates, left={"d": money})

    assert sum(estimates[pick.place.job] for pick in paid) <= money
    assert all(estimates[pick.place.job] > money for pick in dear)
    assert bool(paid) or len(dear) == len(picks)


@pytest.mark.parametrize(
    ("nano", "text"), [(0, "0.00"), (2 * USD, "2.00"), (10**7, "0.01"), (10**6, "0.001"), (123_456, "0.000123456")]
)
def test_small_amounts_keep_their_digits(nano: int, text: str) -> None:
    assert usd(nano) == text


# catalogs


def test_a_cap_that_nothing_prices_or_that_costs_nothing_is_warned_of() -> None:
    def warned(price: Price | None, *, cap: float | None = 1.0) -> list[str]:
        deployment = Deployment(engine="simulated", price=price, daily_cap_usd=cap)
        return [warning.partition(":")[2] for warning in warnings(Catalog(deployments={"d": deployment}))]

    [unpriced], [free] = warned(None), warned(Price())
    assert unpriced.startswith(" daily_cap_usd without a price")
    assert free.startswith(" daily_cap_usd with a price of 0")
    assert warned(Price(output=1.0)) == warned(None, cap=None) == []
