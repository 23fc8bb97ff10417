"""Reports that cannot be read or recorded: kept as dead letters, and no broker, other report or job suffers."""

from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import pytest

from broker.ports import Ledger
from schemas import subjects
from schemas.api import State
from schemas.codec import packed
from schemas.jetstream.client import NatsClient as Nats
from schemas.job import Attempt
from schemas.outcome import EngineFault, Succeeded, Usage
from tests.builders import a_report, a_success, an_attempt
from tests.declared import declare_streams
from tests.real.test_settle import buried, ended, settling
from tests.reporting import report
from tests.settling import running, state_of
from tests.system import until

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]
MALFORMED: list[tuple[str, object]] = [
    ("timings.run_ms", 2**63),
    ("timings.started_ms", -1),
    ("outcome.usage.input_tokens", -5),
    ("outcome.usage.output_tokens", 2**64 - 1),
    ("outcome.body", "text"),
    ("outcome", None),
    ("run_ack", "x 1\r\ny\r\nPUB evil 1\r\nx\r\n"),
    ("delivery", 0),
]
"""What is wrong with a report whose attempt can be read."""
HOPELESS: list[tuple[str, object]] = [
    ("attempt", 2**40),
    ("attempt", -1),
    ("job", b"short"),
    ("deployment", "d\0"),
    ("worker", "w" * 1000),
    ("execution", None),
]
"""What is wrong with a report of which nothing can be believed."""


def malformed(attempt: Attempt, path: str, value: object, **changes: Any) -> bytes:
    """A message of one report, in which one value is another."""
    fields = msgspec.to_builtins(a_report(job=attempt.job, **changes), builtin_types=(UUID, bytes))
    *way, last = path.split(".")
    inner = fields
    for name in way:
        inner = inner[name]
    inner[last] = value
    return packed([fields])


@pytest.mark.parametrize(("path", "value"), MALFORMED, ids=repr)
async def test_a_report_with_a_bad_value_fails_its_attempt_and_harms_no_other(
    nc: Nats, ledger: Ledger, path: str, value: object
) -> None:
    attempt, other = await running(ledger, max_attempts=1), await running(ledger)

    async with settling(nc, ledger) as metrics:
        await nc.jetstream().publish(subjects.outcome("d"), malformed(attempt, path, value))
        await report(nc, a_report(job=other.job))

        await ended(ledger, attempt, State.DEAD)
        await ended(ledger, other, State.SUCCEEDED)
        await buried(metrics, 1)

    shown = await ledger.jobs.find(attempt.job, "default")
    assert shown is not None
    assert isinstance(shown.failure, EngineFault)


@pytest.mark.parametrize(("path", "value"), HOPELESS, ids=repr)
async def test_a_report_of_no_attempt_ends_nothing(nc: Nats, ledger: Ledger, path: str, value: object) -> None:
    attempt, other = await running(ledger), await running(ledger)

    async with settling(nc, ledger) as metrics:
        await nc.jetstream().publish(subjects.outcome("d"), malformed(attempt, path, value))
        await report(nc, a_report(job=other.job))

        await ended(ledger, other, State.SUCCEEDED)
        await buried(metrics, 1)

    assert await state_of(ledger, attempt.job) is State.RUNNING


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("interactive.tenant", "t\0"),
        ("interactive.metadata", {"a\0": "b"}),
        ("interactive.deadline_ms", 2**63),
        ("interactive.number", 2**40),
        ("interactive.job", UUID(int=2**128 - 1)),
    ],
    ids=repr,
)
async def test_a_request_with_a_bad_value_is_not_recorded(nc: Nats, ledger: Ledger, path: str, value: object) -> None:
    request, other = an_attempt(reply_to="x", key="k"), await running(ledger)

    async with settling(nc, ledger):
        message = malformed(request, path, value, interactive=request)
        await nc.jetstream().publish(subjects.outcome("d"), message)
        await report(nc, a_report(job=other.job))

        await ended(ledger, other, State.SUCCEEDED)


@pytest.mark.parametrize("body", [b"", b"}", b'{"a": 1}x', b'{"a": "\xff"}', b"[" * 100_000, b'"\xed\xa0\x80"'])
async def test_a_response_that_is_not_json_is_a_failure_and_spoils_no_page(
    nc: Nats, ledger: Ledger, body: bytes
) -> None:
    attempt = await running(ledger, max_attempts=1)

    async with settling(nc, ledger):
        await report(nc, a_report(a_success(body=body, usage=Usage(3, 4)), job=attempt.job))

        await ended(ledger, attempt, State.DEAD)

    shown = await ledger.jobs.find(attempt.job, "default")
    assert shown is not None
    assert shown.usage == Usage(3, 4)
    assert msgspec.json.decode(msgspec.json.encode(shown))["body"] is None


async def test_an_outcome_that_cannot_be_recorded_is_kept_and_ends_its_job(
    nc: Nats, ledger: Ledger, ledger_url: str
) -> None:
    """Each value is in its bounds; the sum in the job's row is not."""
    attempt, other = await running(ledger), await running(ledger)
    connection = await asyncpg.connect(ledger_url)
    await connection.execute("update infermq.jobs set input_tokens = $2 where id = $1", attempt.job, 2**63 - 1)
    await declare_streams(nc)
    await report(
        nc,
        *(a_report(Succeeded(b"{}", Usage(5, 5)), job=one.job) for one in (other, attempt)),
        a_report(job=other.job),
    )

    async with settling(nc, ledger) as metrics:
        await ended(ledger, attempt, State.FAILED)
        await ended(ledger, other, State.SUCCEEDED)
        await buried(metrics, 1)

    [reason] = [row["reason"] for row in await connection.fetch("select reason from infermq.dead_letters")]
    assert str(attempt.job) in reason
    await connection.execute("update infermq.jobs set input_tokens = 0 where id = $1", attempt.job)
    await connection.close()


async def test_what_cannot_be_recorded_at_all_is_kept_and_the_others_are_recorded(
    nc: Nats, ledger: Ledger, ledger_url: str
) -> None:
    attempt, other = await running(ledger), await running(ledger)
    connection = await asyncpg.connect(ledger_url)
    await connection.execute(
        f"alter table infermq.executions add constraint refuses check (job <> '{attempt.job}') not valid"
    )
    await declare_streams(nc)
    await report(nc, a_report(job=attempt.job), a_report(job=other.job))

    async with settling(nc, ledger) as metrics:
        await ended(ledger, other, State.SUCCEEDED)
        await buried(metrics, 1)

        async def is_empty() -> bool:
            return not (await nc.jetstream().stream_info(subjects.OUTCOME)).state.messages

        await until(is_empty, "all is acked")

    assert await state_of(ledger, attempt.job) is State.RUNNING
    await connection.close()


async def test_a_page_of_results_shows_a_failure_that_only_newer_brokers_know(
    ledger: Ledger, ledger_url: str
) -> None:
    attempt = await running(ledger)
    connection = await asyncpg.connect(ledger_url)
    await connection.execute(
        """update infermq.jobs set failure = '{"type": "of_tomorrow", "message": "m"}' where id = $1""", attempt.job
    )

    shown = await ledger.jobs.find(attempt.job, "default")

    assert shown is not None
    assert isinstance(shown.failure, EngineFault)
    assert "of_tomorrow" in shown.failure.message
    await connection.close()
