"""Jobs are cancelled by what they have in common: nothing that is named starts any more, and an instruction ends it."""

from typing import Any
from uuid import UUID

import pytest

from broker.core.instructions import Carried
from broker.core.records import Audited, Entry, Place
from broker.errors import Conflict, ControlsChanged
from broker.ports import Ledger
from schemas.api import State
from schemas.cancel import CancelChoice, CancelCount
from schemas.instructions import Instruction, InstructionKind
from schemas.job import Lane
from schemas.outcome import Released
from schemas.units import Ms
from tests.builders import a_report, an_entry, an_id, now
from tests.contract.ledger.test_batch_cancels import filled, started
from tests.contract.ledger.test_cancels import settle
from tests.settling import running, state_of

OWN = CancelChoice(tenant="default")


async def give(ledger: Ledger, choice: CancelChoice = OWN, id_: UUID | None = None) -> Instruction:
    by = Audited(an_id(), now(), "default", "k")
    return await ledger.cancel_orders.give(id_ or an_id(), choice, by)


async def carried_out(ledger: Ledger, at: Ms | None = None) -> list[Carried]:
    """Carry all instructions out, without their rests. Return what each page came to."""
    pages, at = [], at or now()
    while (next_ms := await ledger.instructions.next_ms()) is not None:
        at = Ms(max(at, next_ms))
        page = await ledger.instructions.carry_on(at)
        assert page is not None
        pages.append(page)
    return pages


async def mixed(ledger: Ledger) -> dict[str, Entry]:
    """Jobs that wait, of several kinds."""
    made = {
        "plain": an_entry(),
        "model": an_entry(model="n"),
        "lane": an_entry(lane=Lane.STANDARD),
        "tenant": an_entry(tenant="other"),
    }
    await ledger.intake.admit(list(made.values()))
    [made["batch"]] = await filled(ledger, 1)
    return made


@pytest.mark.parametrize(
    ("fields", "ended"),
    [
        ({}, {"plain", "model", "lane", "batch"}),
        ({"model": "n"}, {"model"}),
        ({"lane": Lane.BULK}, {"plain", "model", "batch"}),
        ({"states": (State.QUEUED,), "model": "m", "lane": Lane.STANDARD}, {"lane"}),
        ({"states": (State.RUNNING,)}, set()),
        ({"tenant": "other"}, {"tenant"}),
        ({"until_ms": Ms(1)}, set()),
        ({"since_ms": Ms(10**14)}, set()),
    ],
    ids=["all", "model", "lane", "state and lane", "running", "tenant", "until", "since"],
)
async def test_what_matches_is_ended_and_nothing_else(
    ledger: Ledger, fields: dict[str, Any], ended: set[str]
) -> None:
    jobs = await mixed(ledger)
    choice = CancelChoice(**{"tenant": "default", **fields})
    count = await ledger.cancel_orders.count(choice)

    given = await give(ledger, choice)
    await carried_out(ledger)

    states = {name: await _state(ledger, entry) for name, entry in jobs.items()}
    assert {name for name, state in states.items() if state is State.CANCELLED} == ended
    assert count == CancelCount(len(ended), 0, more=False)
    done = await ledger.instructions.find(given.id, str(choice.tenant))
    assert done is not None
    assert (done.kind, done.counts.get("cancelled", 0), done.failure) == (InstructionKind.CANCEL, len(ended), None)
    assert done.ended_ms is not None


async def _state(ledger: Ledger, entry: Entry) -> State:
    shown = await ledger.jobs.find(entry.id, entry.tenant)
    assert shown is not None
    return shown.state


async def test_nothing_that_is_named_starts_from_then_on(ledger: Ledger) -> None:
    named, other = an_entry(model="n"), an_entry()
    await ledger.intake.admit([named, other])
    before = (await ledger.controls.read()).version

    await give(ledger, CancelChoice(tenant="default", model="n"))

    with pytest.raises(ControlsChanged):
        await started(ledger, named, controls=before)
    controls = await ledger.controls.read()
    for entry, kept in ((named, 0), (other, 1)):
        places = await ledger.backlog.page(entry.flow, after=None, limit=10)
        assert len(controls.keeps(entry.flow, places, now())) == kept
    await carried_out(ledger)
    assert (await ledger.controls.read()).orders == ()


async def test_what_runs_is_marked_once_and_never_tried_again(ledger: Ledger) -> None:
    attempt, before = await running(ledger), await running(ledger)
    given = await give(ledger)
    at = now()
    await ledger.cancels.cancel_jobs([before.job], "default", at)

    await carried_out(ledger, at)
    await settle(ledger, *(a_report(Released(), job=one.job) for one in (attempt, before)))

    assert await state_of(ledger, attempt.job) is State.CANCELLED
    done = await ledger.instructions.find(given.id, "default")
    assert done is not None
    assert done.counts == {"cancelled": 0, "stopping": 1}


async def test_only_what_waits_is_ended_if_that_is_asked(ledger: Ledger) -> None:
    runs = await running(ledger)

    await give(ledger, CancelChoice(tenant="default", states=(State.QUEUED,)))
    await carried_out(ledger)

    assert await ledger.cancels.marked() == []
    assert await state_of(ledger, runs.job) is State.RUNNING


async def test_a_job_that_is_put_back_while_the_pages_are_read_is_found_by_the_next_way_through(
    ledger: Ledger,
) -> None:
    waits, runs = an_entry(), await running(ledger)
    await ledger.intake.admit([waits])
    await give(ledger, CancelChoice(tenant="default", states=(State.QUEUED,)))
    first = await ledger.instructions.carry_on(now())
    assert first is not None
    assert not first.is_last

    await settle(ledger, a_report(Released(), job=runs.job))
    await carried_out(ledger)

    assert await state_of(ledger, runs.job) is State.CANCELLED


async def test_giving_it_again_changes_nothing_and_an_id_of_another_is_a_conflict(ledger: Ledger) -> None:
    first = await give(ledger)

    assert await give(ledger, CancelChoice(tenant="default", model="x"), first.id) == first
    with pytest.raises(Conflict):
        await give(ledger, CancelChoice(tenant="another"), first.id)
    [entry] = await ledger.audit.page("default", 10, None)
    assert entry.action == "cancel"


async def test_the_backlog_is_read_past_batches_that_may_not_start(ledger: Ledger) -> None:
    stopped, free = await filled(ledger, 5), an_entry(deadline_ms=now() + 7_200_000)
    overdue = an_entry(batch=stopped[0].batch, deadline_ms=now() - 1)
    await ledger.intake.admit([free, overdue])
    batch = stopped[0].batch
    assert batch is not None

    async def read(limit: int, after: Place | None = None) -> list[UUID]:
        page = await ledger.backlog.page_past(free.flow, [batch], after=after, now=now(), limit=limit)
        return [job.place.job for job in page]

    assert await read(100) == [overdue.id, free.id]
    assert await read(1) == [overdue.id]
    assert await read(100, overdue.place) == [free.id]
    assert await read(100, free.place) == []
