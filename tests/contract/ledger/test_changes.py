"""Jobs are changed while they wait: alone, or all of a batch in pages; what runs or has ended stays as it is."""

from uuid import UUID

import msgspec
import pytest

from broker.core.admit import LONGEST_MS
from broker.core.principal import Principal, open_principal
from broker.core.records import Entry, Pick, Requeue
from broker.ports import Ledger
from broker.service import ChangeService
from broker.service.refusal import Refusal
from schemas import subjects
from schemas.accounts import Role
from schemas.api import State
from schemas.changes import BatchChange, Change, JobChange, JobChanged, JobTerms
from schemas.ids import uuid7
from schemas.instructions import InstructionKind
from schemas.jetstream.client import NatsClient as Nats
from schemas.job import Lane
from schemas.outcome import Released
from schemas.units import Ms
from tests.builders import a_success, an_entropy, an_entry, an_id, now
from tests.settling import a_batch, a_verdict, dispatched, running, settled

pytestmark = pytest.mark.real
ME = open_principal("default", "k")


async def nothing() -> None:
    """Nobody carries instructions out here."""


@pytest.fixture
async def service(nc: Nats, ledger: Ledger) -> ChangeService:
    return ChangeService(
        nc=nc, ledger=ledger.changes, batches=ledger.batches, tell=nothing, clock=now, entropy=an_entropy
    )


async def terms_of(ledger: Ledger, job: UUID) -> JobTerms:
    shown = await ledger.jobs.find(job, "default")
    assert shown is not None
    return JobTerms(shown.lane, shown.deadline_ms, shown.priority)


def terms(entry: Entry) -> JobTerms:
    return JobTerms(entry.lane, entry.deadline_ms, entry.priority)


async def carried_out(ledger: Ledger) -> None:
    while await ledger.instructions.carry_on(now()) is not None:
        pass


async def refused(service: ChangeService, job: UUID, change: Change, principal: Principal = ME) -> str:
    with pytest.raises(Refusal) as error:
        await service.change_job(principal, JobChange(job, change))
    return error.value.problem.code


async def test_a_waiting_job_stands_in_its_new_place_at_once(
    service: ChangeService, ledger: Ledger, nc: Nats
) -> None:
    notices = await nc.subscribe(subjects.CTL_WAITING)
    entry, other = an_entry(), an_entry()
    await ledger.intake.admit([entry, other])
    at = Ms(now() + 7_200_000)

    changed = await service.change_job(
        ME, JobChange(entry.id, Change(lane=Lane.STANDARD, deadline_ms=at, priority=9))
    )

    after = JobTerms(Lane.STANDARD, at, 9)
    assert changed == JobChanged(entry.id, terms(entry), after)
    assert await terms_of(ledger, entry.id) == after
    assert await terms_of(ledger, other.id) == terms(other)
    heads = await ledger.backlog.heads()
    assert [(head.flow.lane, head.rank, head.deadline_ms) for head in heads] == [
        (Lane.BULK, 0, other.deadline_ms),
        (Lane.STANDARD, -9, at),
    ]
    assert await notices.next_msg(timeout=2)
    [audited] = await ledger.audit.page(None, 9, None)
    assert (audited.tenant, audited.key, audited.action) == ("default", "k", "change")
    assert msgspec.json.decode(audited.target) == {"job": str(entry.id)}
    assert msgspec.json.decode(audited.before, type=JobTerms) == terms(entry)
    assert msgspec.json.decode(audited.after, type=JobTerms) == after


async def test_what_was_read_of_it_before_starts_nothing(service: ChangeService, ledger: Ledger) -> None:
    entry = an_entry()
    await ledger.intake.admit([entry])
    [stale] = await ledger.backlog.page(entry.flow, after=None, limit=9)

    await service.change_job(ME, JobChange(entry.id, Change(priority=1)))
    term = await ledger.leadership.lead("me", lease_ms=60_000)
    assert term is not None
    picks = [Pick(entry.flow, stale.place, "d")]
    assert await ledger.attempts.dispatch(picks, term=term, controls=1, now=now()) == []

    [fresh] = await ledger.backlog.page(entry.flow, after=None, limit=9)
    [attempt] = await ledger.attempts.dispatch([Pick(entry.flow, fresh.place, "d")], term=term, controls=1, now=now())
    assert attempt.job == entry.id
    assert await settled(ledger, a_verdict(attempt, a_success())) == [(entry.id, State.SUCCEEDED)]


async def test_a_job_that_waits_for_its_time_is_changed_too(service: ChangeService, ledger: Ledger) -> None:
    entry, due = an_entry(), Ms(now() + 60_000)
    await ledger.intake.admit([entry])
    [attempt] = await dispatched(ledger, entry)
    again = Requeue(due, counted=True)
    await ledger.settlement.settle([a_verdict(attempt, Released(), transition=again)], now=now())

    await service.change_job(ME, JobChange(entry.id, Change(lane=Lane.STANDARD, priority=3)))
    [(flow, place)] = await ledger.backlog.move_due(due, limit=9)

    assert (flow.lane, place.rank, place.deadline_ms) == (Lane.STANDARD, -3, entry.deadline_ms)


async def test_what_runs_has_ended_or_is_anothers_is_refused_and_stays(
    service: ChangeService, ledger: Ledger
) -> None:
    runs, ended, theirs = await running(ledger), await running(ledger), an_entry(tenant="other")
    await settled(ledger, a_verdict(ended, a_success()))
    await ledger.intake.admit([theirs])
    change = Change(priority=1)

    assert await refused(service, runs.job, change) == "not_waiting"
    assert await refused(service, ended.job, change) == "not_waiting"
    assert await refused(service, theirs.id, change) == "unknown_job"
    assert await refused(service, an_id(), change) == "unknown_job"
    assert await refused(service, runs.job, Change()) == "bad_request"
    assert await refused(service, runs.job, Change(deadline_ms=now() - 1)) == "deadline_past"
    bulk_only = Principal(tenant="default", key="k", role=Role.PRODUCER, lanes=frozenset({Lane.BULK}))
    assert await refused(service, runs.job, Change(lane=Lane.INTERACTIVE), bulk_only) == "forbidden"
    assert (await terms_of(ledger, runs.job)).priority == 0
    assert await ledger.audit.page(None, 9, None) == ()


async def test_a_deadline_is_at_most_a_week_after_the_admission(service: ChangeService, ledger: Ledger) -> None:
    at = Ms(now() - 24 * 3_600_000)
    entry = an_entry(id=uuid7(at, 1), admitted_ms=at)
    await ledger.intake.admit([entry])

    assert await refused(service, entry.id, Change(deadline_in_ms=LONGEST_MS - 1000)) == "deadline_too_far"
    assert await terms_of(ledger, entry.id) == terms(entry)


# batches


async def test_all_that_waits_of_a_batch_is_changed_in_pages_and_what_comes_later_too(
    service: ChangeService, ledger: Ledger
) -> None:
    batch, at = (await a_batch(ledger)).id, Ms(now() + 7_200_000)
    entries = [an_entry(batch=batch) for _ in range(1203)]
    outside, first = an_entry(), entries[0]
    await ledger.intake.admit([*entries, outside])
    [attempt] = await dispatched(ledger, first)
    change = Change(lane=Lane.STANDARD, deadline_in_ms=7_200_000, priority=5)

    given = await service.change_batch(ME, BatchChange(an_id(), batch, change))
    again = await service.change_batch(ME, BatchChange(given.id, batch, Change(priority=-7)))
    await carried_out(ledger)

    done = await ledger.instructions.find(given.id, "default")
    assert done is not None
    assert again.what == given.what
    assert (done.kind, done.counts, done.failure) == (InstructionKind.CHANGE, {"changed": 1202}, None)
    assert done.ended_ms is not None
    found = {entry.id: await terms_of(ledger, entry.id) for entry in (entries[1], entries[-1], outside, first)}
    assert (found[outside.id], found[first.id]) == (terms(outside), terms(first))
    for changed in (found[entries[1].id], found[entries[-1].id]):
        assert (changed.lane, changed.priority) == (Lane.STANDARD, 5)
        assert abs(changed.deadline_ms - at) < 60_000
    shown = await ledger.batches.find(batch, "default")
    assert shown is not None
    assert (shown.lane, shown.priority) == (Lane.STANDARD, 5)
    info = (await ledger.intake.batches_of([batch]))[batch]
    assert (info.submit_lane, info.change and info.change.priority) == (Lane.BULK, 5)
    [audited] = await ledger.audit.page(None, 9, None)
    assert msgspec.json.decode(audited.before, type=Change) == Change(lane=Lane.BULK, priority=0)
    assert msgspec.json.decode(audited.after, type=Change).lane is Lane.STANDARD
    assert await settled(ledger, a_verdict(attempt, a_success())) == [(first.id, State.SUCCEEDED)]


async def test_a_batch_of_another_tenant_is_not_found_and_one_that_has_ended_is_refused(
    service: ChangeService, ledger: Ledger
) -> None:
    batch = (await a_batch(ledger)).id
    ask = BatchChange(an_id(), batch, Change(priority=1))

    with pytest.raises(Refusal, match="there is no batch"):
        await service.change_batch(open_principal("other", "k"), ask)
    await ledger.batches.seal(batch, "default", 0, now())
    with pytest.raises(Refusal, match="has ended"):
        await service.change_batch(ME, ask)
