"""Each job that ends otherwise than succeeded has a row of its failure, whichever way it ends."""

from collections.abc import Mapping
from uuid import UUID

import asyncpg
import pytest

from broker.core.records import Final
from broker.core.settle import decide
from broker.ports import Ledger
from schemas.api import State
from schemas.outcome import (
    BadRequest,
    Cancelled,
    EngineFault,
    Expired,
    Failed,
    Failure,
    Outcome,
    Refused,
    Report,
    Throttled,
)
from schemas.ruling import Convict, EndRequest, Expire, Ruling
from tests.builders import a_report, a_success, an_attempt, an_entry, an_id, now
from tests.settling import PRICES, a_batch, a_verdict, running

pytestmark = pytest.mark.real


async def failures(url: str) -> Mapping[UUID, tuple[str, str, str, UUID | None]]:
    """State, kind, model and batch, by job."""
    connection = await asyncpg.connect(url)
    rows = await connection.fetch("select job, state, kind, model, batch from infermq.failures")
    await connection.close()
    return {row["job"]: (row["state"], row["kind"], row["model"], row["batch"]) for row in rows}


async def settle(ledger: Ledger, *items: Report | Ruling) -> None:
    jobs = await ledger.settlement.open_jobs({item.job for item in items})
    await ledger.settlement.settle(decide(items, jobs, prices=PRICES, now=now(), unit=0.5), now=now())


async def test_a_job_that_succeeds_has_no_failure(ledger: Ledger, ledger_url: str) -> None:
    attempt = await running(ledger)
    request = an_attempt(reply_to="r", key="k")

    await settle(ledger, a_report(job=attempt.job), a_report(job=request.job, interactive=request))

    assert await failures(ledger_url) == {}


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [(Failed(BadRequest("m")), "bad_request"), (Failed(Refused("too_hot", "m")), "too_hot")],
)
async def test_a_job_that_fails_has_one(ledger: Ledger, ledger_url: str, outcome: Outcome, kind: str) -> None:
    batch = (await a_batch(ledger)).id
    attempt = await running(ledger, batch=batch)
    other = await running(ledger)

    await settle(ledger, a_report(outcome, job=attempt.job), a_report(job=other.job))

    assert await failures(ledger_url) == {attempt.job: ("failed", kind, "m", batch)}


@pytest.mark.parametrize("failure", [EngineFault("m"), Throttled()])
async def test_a_job_out_of_attempts_has_one_with_its_last_failure(
    ledger: Ledger, ledger_url: str, failure: Failure
) -> None:
    attempt = await running(ledger)
    verdict = a_verdict(attempt, Failed(failure), transition=Final(State.DEAD, None, failure))

    await ledger.settlement.settle([verdict], now=now())

    kind = "throttled" if isinstance(failure, Throttled) else "engine_fault"
    assert await failures(ledger_url) == {attempt.job: ("dead", kind, "m", None)}


async def test_a_job_that_ends_where_it_waits_has_one(ledger: Ledger, ledger_url: str) -> None:
    waits = an_entry()
    await ledger.intake.admit([waits])

    await settle(ledger, Expire(waits.id))
    await settle(ledger, Expire(waits.id))

    assert await failures(ledger_url) == {waits.id: ("expired", "expired", "m", None)}


async def test_a_job_that_is_convicted_has_one(ledger: Ledger, ledger_url: str) -> None:
    attempt = await running(ledger)

    await settle(ledger, Convict(attempt.job, attempt.number, 2))

    assert await failures(ledger_url) == {attempt.job: ("dead", "worker_lost", "m", None)}


@pytest.mark.parametrize("is_known", [False, True], ids=["all new", "some known"])
async def test_a_job_that_is_refused_has_one(ledger: Ledger, ledger_url: str, *, is_known: bool) -> None:
    refused = an_entry(refused=Refused("unknown_model", "m"))
    known = an_entry()
    if is_known:
        await ledger.intake.admit([known])

    await ledger.intake.admit([refused, known])
    await ledger.intake.admit([refused, known])

    assert await failures(ledger_url) == {refused.id: ("failed", "unknown_model", "m", None)}


async def test_a_request_that_does_not_succeed_has_one(ledger: Ledger, ledger_url: str) -> None:
    failed, left, ruled = (an_attempt(reply_to="r", key="k") for _ in range(3))

    await settle(ledger, a_report(Failed(BadRequest("m")), job=failed.job, interactive=failed))
    await settle(ledger, EndRequest(ruled, Expired()), EndRequest(left, Cancelled()))

    assert await failures(ledger_url) == {
        failed.job: ("failed", "bad_request", "m", None),
        left.job: ("cancelled", "cancelled", "m", None),
        ruled.job: ("expired", "expired", "m", None),
    }


async def test_a_success_that_comes_after_the_end_changes_no_failure(ledger: Ledger, ledger_url: str) -> None:
    attempt = await running(ledger, deadline_ms=now() + 1)
    await settle(ledger, a_report(Expired(), job=attempt.job), Expire(attempt.job))

    await settle(ledger, a_report(a_success(), job=attempt.job, execution=an_id()))

    assert await failures(ledger_url) == {attempt.job: ("expired", "expired", "m", None)}
