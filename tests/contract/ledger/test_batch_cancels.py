"""A batch is cancelled at once, before any row of a job is touched; its jobs are ended afterwards, a page at a time."""

from uuid import UUID

import pytest

from broker.core.records import Audited, Entry, Pick
from broker.errors import ControlsChanged
from broker.ports import Ledger
from schemas.api import Batch, BatchStatus, State
from schemas.job import Attempt
from schemas.outcome import Refused
from schemas.units import Ms
from tests.builders import an_entry, an_id, now
from tests.settling import a_batch, state_of


async def filled(ledger: Ledger, count: int) -> list[Entry]:
    """The entries of an open batch that wait."""
    batch = (await a_batch(ledger)).id
    entries = [an_entry(batch=batch) for _ in range(count)]
    await ledger.intake.admit(entries)
    return entries


async def cancel(ledger: Ledger, batch: UUID | None) -> bool:
    assert batch is not None
    return await ledger.cancels.cancel_batch(batch, "default", Audited(an_id(), now(), "default", "k"))


async def started(ledger: Ledger, *entries: Entry, controls: int) -> list[Attempt]:
    """What starts of these, for a leader that knows the controls of this version."""
    term = await ledger.leadership.lead("me", lease_ms=60_000)
    assert term is not None
    picks = [Pick(entry.flow, entry.place, "d") for entry in entries]
    return await ledger.attempts.dispatch(picks, term=term, controls=controls, now=now())


async def shown(ledger: Ledger, batch: UUID | None) -> Batch:
    assert batch is not None
    found = await ledger.batches.find(batch, "default")
    assert found is not None
    return found


async def test_nothing_of_a_cancelled_batch_starts_though_its_rows_are_as_they_were(ledger: Ledger) -> None:
    entries, other = await filled(ledger, 3), an_entry()
    await ledger.intake.admit([other])
    before = await ledger.controls.read()

    assert await cancel(ledger, entries[0].batch)

    with pytest.raises(ControlsChanged):
        await started(ledger, *entries, controls=before.version)
    after = await ledger.controls.read()
    assert after.cancelling == {entries[0].batch}
    places = await ledger.backlog.page(entries[0].flow, after=None, limit=10)
    assert [job.place.job for job in after.keeps(entries[0].flow, places, now())] == [other.id]
    state = await shown(ledger, entries[0].batch)
    assert (state.status, state.jobs, state.counts.cancelled) == (BatchStatus.CANCELLING, 3, 0)


async def test_jobs_that_come_later_are_ended_when_they_come(ledger: Ledger) -> None:
    entries = await filled(ledger, 2)
    batch = entries[0].batch
    await cancel(ledger, batch)
    late = [an_entry(batch=batch, custom_id="late"), an_entry(batch=batch, refused=Refused("x", "y")), an_entry()]

    admitted = await ledger.intake.admit(late)
    again = await ledger.intake.admit([*late, an_entry(batch=batch, idempotency_key="k")])

    assert [(one.job, one.state, one.custom_id) for one in admitted.cancelled] == [
        (late[0].id, State.CANCELLED, "late")
    ]
    assert [place.job for _, place in admitted.waiting] == [late[2].id]
    assert [one.job for one in admitted.refused] == [late[1].id]
    assert len(again.cancelled) == 1
    counts = (await shown(ledger, batch)).counts
    assert (counts.admitted, counts.cancelled, counts.failed) == (5, 2, 1)
    assert batch is not None
    info = (await ledger.intake.batches_of([batch]))[batch]
    assert not info.is_full


async def test_jobs_that_come_after_its_end_are_ended_too(ledger: Ledger) -> None:
    batch = (await a_batch(ledger)).id
    await cancel(ledger, batch)
    assert (await shown(ledger, batch)).status is BatchStatus.CANCELLED

    late = an_entry(batch=batch)
    await ledger.intake.admit([late])

    assert await state_of(ledger, late.id) is State.CANCELLED


async def test_a_cancelled_batch_ends_without_jobs_that_never_came(ledger: Ledger) -> None:
    entries, others = await filled(ledger, 2), await filled(ledger, 1)
    batch, waits = entries[0].batch, others[0].batch
    assert batch is not None
    assert waits is not None
    for lacking in (batch, waits):
        await ledger.batches.seal(lacking, "default", 3, now())
        await cancel(ledger, lacking)
    await ledger.cancels.end_page(batch, now(), limit=10)
    cancelled_ms = (await shown(ledger, batch)).cancel_ms
    assert cancelled_ms is not None
    later = Ms(now() + 1)

    assert await ledger.cancels.complete_without_lost(later, cancelled_before=cancelled_ms) == []
    assert await ledger.cancels.complete_without_lost(later, cancelled_before=later) == [batch]
    assert await ledger.cancels.complete_without_lost(later, cancelled_before=later) == []

    ended = await shown(ledger, batch)
    assert (ended.status, ended.jobs, ended.counts.cancelled) == (BatchStatus.CANCELLED, 3, 2)
    assert ended.completed_ms == later
    assert (await shown(ledger, waits)).status is BatchStatus.CANCELLING
    late = an_entry(batch=batch)
    await ledger.intake.admit([late])
    assert await state_of(ledger, late.id) is State.CANCELLED


async def test_a_batch_that_is_complete_or_cancelled_stays_as_it_is(ledger: Ledger) -> None:
    entries = await filled(ledger, 1)
    complete = (await a_batch(ledger)).id
    await ledger.batches.seal(complete, "default", 0, now())

    assert await cancel(ledger, entries[0].batch)
    first = await shown(ledger, entries[0].batch)
    assert not await cancel(ledger, entries[0].batch)
    assert not await cancel(ledger, complete)

    assert await shown(ledger, entries[0].batch) == first
    assert (await shown(ledger, complete)).status is BatchStatus.COMPLETED
