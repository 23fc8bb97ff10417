"""How a batch that runs is described in a line."""

from msgspec.structs import replace

from broker.cli.progress import describe
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


def test_a_line_says_how_far_it_is_when_it_is_done_what_it_costs_and_what_failed() -> None:
    line = describe(BATCH, rate=61.0)

    assert line == (
        "62% · 61.0/s · 2 min 04 s left · $0.980000 of ~$1.576703 · "
        "[red]93 failed (bad_request 60, engine_fault 33)[/]"
    )


def test_a_batch_of_which_nothing_has_ended_promises_nothing() -> None:
    line = describe(replace(BATCH, counts=Counts(admitted=5), cost_nano_usd=NanoUsd(0), failures={}), rate=0.0)

    assert line == "0% · 0.0/s · $0.000000"
