"""How a batch that runs is described in a line."""

import pytest
from msgspec.structs import replace

from broker.cli.layout import flowed
from broker.cli.progress import BETWEEN, describe
from schemas.api import Batch, BatchStatus, Counts
from schemas.job import Lane
from schemas.outcome import Usage
from schemas.units import Ms, NanoUsd
from tests.builders import an_id

BATCH = Batch(
    id=an_id(),
    status=BatchStatus.IN_PROGRESS,
    lane=Lane.BULK,
    created_ms=Ms(0),
    sealed_ms=Ms(1),
    completed_ms=None,
    deadline_ms=None,
    jobs=20_000,
    counts=Counts(admitted=20_000, succeeded=12_338, failed=93),
    usage=Usage(),
    cost_nano_usd=NanoUsd(980_000_000),
    metadata={},
    failures={"bad_request": 60, "engine_fault": 33},
)


def test_a_batch_is_described_by_how_far_it_is_when_it_is_done_what_it_costs_and_what_failed() -> None:
    assert describe(BATCH, rate=61.0) == [
        "12,431/20,000 62%",
        "61/s",
        "2 min 04 s left",
        "$0.98 of ~$1.58",
        "93 failed (bad_request 60, engine_fault 33)",
    ]


def test_failed_is_the_state_and_the_other_ends_have_their_own_words() -> None:
    counts = Counts(admitted=20_000, succeeded=12_338, failed=60, dead=30, cancelled=3)

    assert describe(replace(BATCH, counts=counts), rate=61.0)[-1] == (
        "60 failed, 3 cancelled, 30 dead (bad_request 60, engine_fault 33)"
    )


def test_a_batch_of_which_nothing_has_ended_promises_nothing_and_says_how_many_jobs_are_ahead() -> None:
    fresh = replace(BATCH, counts=Counts(admitted=5), cost_nano_usd=NanoUsd(0), failures={})

    assert describe(fresh, rate=0.0) == ["0/20,000 0%", "$0.00"]
    assert describe(replace(fresh, ahead=1), rate=0.0)[1] == "1 job ahead"
    assert describe(replace(fresh, ahead=1000, more_ahead=True), rate=0.0)[1] == "more than 1,000 jobs ahead"


def test_why_nothing_starts_comes_last_and_controls_no_terminal() -> None:
    assert describe(BATCH, rate=61.0, held="no worker\x1b[31m")[-1] == "no worker\\x1b[31m"


@pytest.mark.parametrize("width", [59, 79, 119])
def test_no_line_of_it_is_wider_than_the_terminal(width: int) -> None:
    lines = flowed(describe(BATCH, rate=61.0), width, BETWEEN)

    assert max(map(len, lines)) <= width
    assert BETWEEN.join(lines) == BETWEEN.join(describe(BATCH, rate=61.0))
