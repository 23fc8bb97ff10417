"""How many slots an engine has now, and how many outcomes may wait beside free ones."""

import pytest

from broker.core.pools import lookahead
from workers.core.capacity import Load, deferrable_outcomes, slots


def test_slots_grow_by_an_eighth_and_one_at_least_up_to_the_most() -> None:
    idle = Load(running=0, waiting=0, kv_usage=0.0)

    assert slots(80, most=256, load=idle) == 90
    assert slots(2, most=256, load=idle) == 3
    assert slots(250, most=256, load=idle) == 256


def test_slots_fall_by_a_tenth_while_requests_wait_for_memory() -> None:
    assert slots(100, most=256, load=Load(running=200, waiting=1, kv_usage=0.9)) == 90
    assert slots(100, most=256, load=Load(running=50, waiting=1, kv_usage=0.9)) == 45
    assert slots(1, most=256, load=Load(running=0, waiting=1, kv_usage=1.0)) == 1


@pytest.mark.parametrize(
    "load",
    [Load(running=80, waiting=1, kv_usage=0.89), Load(running=80, waiting=0, kv_usage=1.0)],
    ids=["waits for the next step", "nothing waits"],
)
def test_slots_do_not_fall_for_less(load: Load) -> None:
    assert slots(80, most=256, load=load) == 90


@pytest.mark.parametrize("slots", [*range(1, 100), 256, 10_000])
def test_outcomes_that_wait_beside_free_slots_leave_room_in_the_look_ahead(slots: int) -> None:
    assert deferrable_outcomes(slots) < lookahead(slots, per_s=0.0)


def test_a_quarter_of_the_slots_may_wait_with_their_outcomes() -> None:
    assert [deferrable_outcomes(3), deferrable_outcomes(4), deferrable_outcomes(16)] == [0, 1, 4]
