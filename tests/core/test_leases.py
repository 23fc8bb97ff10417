"""When an attempt must not run, and when it must end."""

import pytest

from schemas.job import Lane
from schemas.outcome import Expired, Failed, Outcome, TimedOut
from schemas.units import Ms
from tests.builders import an_attempt
from workers.core.leases import PRIORITY, before_run, extend_every_ms, while_running


def test_a_lease_survives_two_lost_extensions() -> None:
    assert 3 * extend_every_ms(Ms(15_000)) <= 15_000
    assert 4 * extend_every_ms(Ms(15_000)) > 15_000
    assert extend_every_ms(Ms(1)) == 1


def test_an_attempt_without_time_left_is_not_run() -> None:
    assert before_run(an_attempt(left_ms=1)) is None
    assert before_run(an_attempt(left_ms=0)) == Expired()


def test_no_instant_of_a_broker_ends_an_attempt() -> None:
    """The worker's clock may show any time."""
    attempt = an_attempt(deadline_ms=Ms(1), admitted_ms=Ms(0), dispatched_ms=Ms(0), left_ms=1000)
    ends = {
        fast: while_running(
            attempt,
            started=Ms(10**9 + fast),
            progressed=Ms(10**9 + fast),
            attempt_timeout=Ms(5000),
            progress_timeout=Ms(5000),
            now=Ms(10**9 + fast + 999),
        )
        for fast in (-3_600_000, -180_000, 0, 180_000, 3_600_000)
    }

    assert before_run(attempt) is None
    assert set(ends.values()) == {None}


@pytest.mark.parametrize(
    ("time", "outcome"),
    [
        (2899, None),
        (2900, Failed(TimedOut(Ms(2000), "progress"))),
        (4999, Failed(TimedOut(Ms(4099), "progress"))),
        (5000, Failed(TimedOut(Ms(5000), "attempt"))),
        (9999, Failed(TimedOut(Ms(9999), "attempt"))),
        (10_000, Expired()),
    ],
)
def test_an_attempt_ends_at_its_time_outs_and_its_deadline(time: int, outcome: Outcome | None) -> None:
    attempt = an_attempt(left_ms=10_000)

    ended = while_running(
        attempt,
        started=Ms(0),
        progressed=Ms(900),
        attempt_timeout=Ms(5000),
        progress_timeout=Ms(2000),
        now=Ms(time),
    )

    assert ended == outcome


def test_an_engine_runs_what_is_urgent_first() -> None:
    assert sorted(Lane, key=PRIORITY.__getitem__) == [Lane.INTERACTIVE, Lane.STANDARD, Lane.BULK]
    assert len({PRIORITY[lane] for lane in Lane}) == len(Lane)
