"""Takes jobs through a ledger as the roles do, for tests of what the ledger keeps."""

from typing import Any
from uuid import UUID

from broker.core.price import Prices
from broker.core.records import Entry, Pick, Verdict
from broker.core.settle import decide
from broker.ports import Ledger
from schemas.api import Batch, BatchCreate, State
from schemas.job import Attempt
from schemas.outcome import Outcome
from tests.builders import a_catalog, a_report, an_entry, an_id, now

PRICES = Prices(catalog=a_catalog(), source="catalog:1")


async def a_batch(ledger: Ledger) -> Batch:
    return await ledger.batches.create(BatchCreate(id=an_id()), "default", now())


async def dispatched(ledger: Ledger, *entries: Entry) -> list[Attempt]:
    term = await ledger.leadership.lead("me", lease_ms=60_000)
    assert term is not None
    picks = [Pick(entry.flow, entry.place, "d") for entry in entries]
    return await ledger.attempts.dispatch(picks, term=term, controls=1, now=now())


async def running(ledger: Ledger, **changes: Any) -> Attempt:
    """A job that has been dispatched."""
    entry = an_entry(**changes)
    await ledger.intake.admit([entry])
    return (await dispatched(ledger, entry))[0]


def a_verdict(
    attempt: Attempt, outcome: Outcome, *, delivery: int = 1, transition: Any = None, **changes: Any
) -> Verdict:
    report = a_report(outcome, job=attempt.job, attempt=attempt.number, delivery=delivery, **changes)
    [verdict] = decide([report], {}, prices=PRICES, now=now(), unit=0.5)
    if transition is None:
        return verdict
    return Verdict(
        job=verdict.job,
        attempt=verdict.attempt,
        transition=transition,
        executed=verdict.executed,
        entry=verdict.entry,
    )


async def settled(ledger: Ledger, *verdicts: Verdict) -> list[tuple[UUID, State]]:
    done = await ledger.settlement.settle(verdicts, now=now())
    return [(one.job, one.state) for one in done.final]


async def state_of(ledger: Ledger, job: UUID) -> State:
    shown = await ledger.jobs.find(job, "default")
    assert shown is not None
    return shown.state
