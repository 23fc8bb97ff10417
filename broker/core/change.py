"""Decides which changes of jobs that wait may be made."""

from msgspec.structs import replace

from broker.core.admit import LONGEST_MS
from schemas.api import Problem
from schemas.changes import Change
from schemas.units import Ms


def problem(change: Change, now: Ms) -> Problem | None:
    """Say what is wrong with a change. None: nothing is."""
    if change == Change():
        return Problem("bad_request", "it changes nothing: say a lane, a deadline or a priority", "change")
    if change.deadline_ms is not None and change.deadline_in_ms is not None:
        return Problem("two_deadlines", "send deadline_ms or deadline_in_ms, not both", "change.deadline_in_ms")
    deadline = resolved(change, now).deadline_ms
    if deadline is not None and deadline <= now:
        return Problem("deadline_past", f"the deadline was {now - deadline} ms ago", "change.deadline_ms")
    if deadline is not None and deadline > now + LONGEST_MS:
        days = LONGEST_MS // (24 * 3_600_000)
        return Problem(
            "deadline_too_far", f"the deadline is more than {days} days ahead", "change.deadline_ms", LONGEST_MS
        )
    return None


def resolved(change: Change, now: Ms) -> Change:
    """Return the change with its deadline as an instant."""
    if change.deadline_in_ms is None:
        return change
    return replace(change, deadline_ms=now + change.deadline_in_ms, deadline_in_ms=None)


def merged(before: Change | None, change: Change) -> Change:
    """Return one change for both, of which the later counts."""
    if before is None:
        return change
    return Change(
        lane=change.lane or before.lane,
        deadline_ms=before.deadline_ms if change.deadline_ms is None else change.deadline_ms,
        priority=before.priority if change.priority is None else change.priority,
    )
