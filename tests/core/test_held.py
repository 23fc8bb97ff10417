"""What a worker's beat says that it holds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.units import MOST_ATTEMPTS
from schemas.worker import HeldExecution, held_bytes, held_in
from tests.builders import an_id

HELD = st.builds(HeldExecution, job=st.uuids(), attempt=st.integers(1, MOST_ATTEMPTS), execution=st.uuids())


@given(st.lists(HELD))
def test_what_is_held_is_read_as_it_was_written(held: list[HeldExecution]) -> None:
    assert list(held_in(held_bytes(held))) == held


def test_a_record_is_the_job_the_attempt_and_the_execution() -> None:
    one = HeldExecution(an_id(), 258, an_id())

    assert held_bytes([one]) == one.job.bytes + b"\x00\x00\x01\x02" + one.execution.bytes


def test_what_is_no_whole_record_is_ignored() -> None:
    one = HeldExecution(an_id(), 1, an_id())

    assert list(held_in(held_bytes([one]) + b"\x00" * 35)) == [one]


@pytest.mark.parametrize("attempt", [0, MOST_ATTEMPTS + 1, 2**32 - 1])
def test_an_attempt_that_no_job_has_is_ignored(attempt: int) -> None:
    one = HeldExecution(an_id(), 1, an_id())

    assert list(held_in(held_bytes([HeldExecution(an_id(), attempt, an_id()), one]))) == [one]
