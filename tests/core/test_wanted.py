"""Slots that a worker offers to relays at which requests wait."""

from hypothesis import given
from hypothesis import strategies as st

from schemas.units import Ms
from workers.core.wanted import OFFER_MS, WANTED_MS, Wanted


def heard(**counts: int) -> Wanted:
    wanted = Wanted()
    for relay, count in counts.items():
        wanted.heard(relay, count, Ms(0))
    return wanted


def test_free_slots_are_offered_to_those_who_want_them_in_turns() -> None:
    wanted = heard(a=5, b=1, c=5)

    assert wanted.offers(4, Ms(0)) == {"a": 2, "b": 1, "c": 1}
    assert wanted.offers(4, Ms(0)) == {}
    assert wanted.offers(5, Ms(0)) == {"c": 1}


def test_no_more_is_offered_than_is_wanted() -> None:
    assert heard(a=2).offers(8, Ms(0)) == {"a": 2}
    assert heard().offers(8, Ms(0)) == {}
    assert heard(a=2).offers(0, Ms(0)) == {}


def test_a_request_that_comes_uses_its_offer_and_waits_no_longer() -> None:
    wanted = heard(a=2)
    wanted.offers(1, Ms(0))

    wanted.came("a")

    assert wanted.waiting(Ms(0)) == 1
    assert wanted.offers(1, Ms(0)) == {"a": 1}


def test_an_offer_that_nobody_uses_is_made_again_after_a_moment() -> None:
    wanted = heard(a=1)
    wanted.offers(1, Ms(0))

    assert wanted.offers(1, Ms(OFFER_MS - 1)) == {}
    assert wanted.offers(1, OFFER_MS) == {"a": 1}


def test_a_relay_that_is_silent_is_forgotten() -> None:
    wanted = heard(a=3)

    assert wanted.waiting(Ms(WANTED_MS - 1)) == 3
    assert wanted.waiting(WANTED_MS) == 0
    assert not wanted


def test_where_nobody_waits_any_more_every_offer_is_void() -> None:
    wanted = heard(a=1, b=1)
    wanted.offers(1, Ms(0))

    wanted.heard("a", 0, Ms(0))

    assert wanted.offers(1, Ms(0)) == {"b": 1}


def test_one_that_comes_from_where_nobody_was_known_to_wait_changes_nothing() -> None:
    wanted = heard(a=1)

    wanted.came("b")

    assert wanted.waiting(Ms(0)) == 1


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5), st.integers(0, 6)), max_size=30))
def test_no_slot_is_offered_twice_at_once(steps: list[tuple[str, int, int]]) -> None:
    wanted, live = Wanted(), 0
    for relay, count, free in steps:
        wanted.heard(relay, count, Ms(0))
        before = len(wanted._offers)
        dealt = sum(wanted.offers(free, Ms(0)).values())
        live = before + dealt
        assert dealt == 0 or live <= free
