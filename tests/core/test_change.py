"""What may be changed of a job that waits."""

import pytest

from broker.core.admit import LONGEST_MS
from broker.core.change import merged, problem, resolved
from schemas.changes import Change
from schemas.job import Lane
from schemas.units import Ms

NOW = Ms(1_800_000_000_000)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (Change(), "bad_request"),
        (Change(deadline_ms=NOW + 1, deadline_in_ms=1), "two_deadlines"),
        (Change(deadline_ms=NOW), "deadline_past"),
        (Change(deadline_ms=NOW + 1), None),
        (Change(deadline_ms=NOW + LONGEST_MS), None),
        (Change(deadline_ms=NOW + LONGEST_MS + 1), "deadline_too_far"),
        (Change(deadline_in_ms=LONGEST_MS + 1), "deadline_too_far"),
        (Change(priority=0), None),
        (Change(lane=Lane.BULK), None),
    ],
)
def test_a_change_that_cannot_be_made_is_named(change: Change, code: str | None) -> None:
    wrong = problem(change, NOW)

    assert (wrong and wrong.code) == code


def test_a_deadline_from_now_becomes_an_instant() -> None:
    assert resolved(Change(deadline_in_ms=5, priority=1), NOW) == Change(deadline_ms=NOW + 5, priority=1)
    assert resolved(Change(lane=Lane.BULK), NOW) == Change(lane=Lane.BULK)


def test_of_two_changes_the_later_counts() -> None:
    first = Change(lane=Lane.BULK, deadline_ms=5, priority=7)

    assert merged(None, first) == first
    assert merged(first, Change(priority=0)) == Change(lane=Lane.BULK, deadline_ms=5, priority=0)
    assert merged(Change(priority=0), first) == first
