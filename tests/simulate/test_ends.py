"""What has ended stays as it is."""

import msgspec
import pytest

from broker.simulate.checks.ends import Ends
from broker.simulate.ledger.stored import JobRow, ResultRow
from broker.simulate.ledger.tables import Tables
from broker.simulate.world.story import Story
from broker.simulate.world.world import World
from schemas.job import Lane
from tests.builders import an_id

JOB = JobRow(
    id=an_id(),
    tenant="default",
    key="default",
    lane=Lane.BULK,
    model="quick",
    endpoint="/v1/chat/completions",
    state="open",
    max_attempts=3,
    admitted_ms=1,
    deadline_ms=2,
    body_hash=b"",
)


def wrong(before: str, after: str) -> list[str]:
    found: list[str] = []
    tables = Tables(World(1, Story()), lambda: 1)
    Ends(tables, found.append)
    assert tables.jobs.trigger is not None
    tables.jobs.trigger(msgspec.structs.replace(JOB, state=before), msgspec.structs.replace(JOB, state=after))
    return found


@pytest.mark.parametrize(("before", "after"), [("open", "succeeded"), ("dead", "open"), ("failed", "failed")])
def test_a_job_may_end_and_be_opened_again(before: str, after: str) -> None:
    assert wrong(before, after) == []


@pytest.mark.parametrize(
    ("before", "after"), [("succeeded", "open"), ("cancelled", "succeeded"), ("dead", "expired")]
)
def test_a_job_that_has_ended_has_no_other_end(before: str, after: str) -> None:
    assert wrong(before, after) == [f"job {JOB.id} was {before}, and becomes {after}"]


def test_a_result_is_never_written_over() -> None:
    found: list[str] = []
    tables = Tables(World(1, Story()), lambda: 1)
    Ends(tables, found.append)
    assert tables.results.trigger is not None
    row = ResultRow(job=JOB.id, body=b"one")

    tables.results.trigger(row, msgspec.structs.replace(row, body=b"two"))

    assert found == [f"the result of job {JOB.id} is written over"]
