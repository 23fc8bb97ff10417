"""Filters of jobs select exactly what matches, page by page in either order, whatever way they are found by."""

from collections.abc import AsyncIterator, Mapping
from typing import Any
from uuid import UUID

import pytest

from broker.core.records import Entry
from broker.ledger.connection import Connection
from broker.ledger.jobs import PgJobs
from broker.ledger.selection import select_jobs
from broker.ports import Ledger
from schemas.api import State
from schemas.ids import uuid7
from schemas.job import Lane
from schemas.listing import JobFilter
from schemas.outcome import BadRequest, EngineFault, Failed, Refused
from schemas.ruling import Expire
from schemas.units import Ms
from tests.builders import a_report, an_entry, now
from tests.real.test_failures import settle
from tests.settling import a_batch, dispatched

NOW = Ms(now() - 60_000)
States = Mapping[UUID, tuple[Entry, State, str | None]]
"""Each job with its state and the kind of its failure."""


async def filled(ledger: Ledger) -> States:
    """Record jobs in every state that a broker makes of them, of two tenants, three seconds, and two batches."""
    batches = [None, (await a_batch(ledger)).id, (await a_batch(ledger)).id]
    entries = [
        an_entry(
            id=uuid7(Ms(NOW + n // 8 * 1000), n),
            tenant="other" if n % 5 == 4 else "default",
            lane=Lane.STANDARD if n % 3 == 0 else Lane.BULK,
            model=f"m{n % 2}",
            batch=batches[n % 3] if n % 5 != 4 else None,
            custom_id=f"c{n % 4}",
            metadata={"team": f"t{n % 2}", "run": str(n)} if n % 4 else None,
            refused=Refused("unknown_model", "m") if n % 8 == 7 else None,
        )
        for n in range(24)
    ]
    await ledger.intake.admit(entries)
    states: dict[UUID, tuple[Entry, State, str | None]] = {}
    for n, entry in enumerate(entries):
        states[entry.id] = (entry, *await _played(ledger, entry, n % 8))
    return states


async def _played(ledger: Ledger, entry: Entry, part: int) -> tuple[State, str | None]:
    match part:
        case 7:
            return State.FAILED, "unknown_model"
        case 6:
            await settle(ledger, Expire(entry.id))
            return State.EXPIRED, "expired"
        case 4 | 5:
            return State.QUEUED, None
    await dispatched(ledger, entry)
    match part:
        case 0:
            return State.RUNNING, None
        case 1:
            await settle(ledger, a_report(Failed(BadRequest("m")), job=entry.id))
            return State.FAILED, "bad_request"
        case 2 if entry.max_attempts:
            await settle(ledger, a_report(Failed(EngineFault("m")), job=entry.id))
            return State.QUEUED, None  # it is tried again
        case _:
            await settle(ledger, a_report(job=entry.id))
            return State.SUCCEEDED, None


def matches(wanted: JobFilter, entry: Entry, state: State, kind: str | None) -> bool:
    asked: list[tuple[Any, bool]] = [
        (wanted.states, state in wanted.states),
        (wanted.kinds, kind in wanted.kinds),
        (wanted.model, entry.model == wanted.model),
        (wanted.lane, entry.lane == wanted.lane),
        (wanted.batch, entry.batch == wanted.batch),
        (wanted.custom_id, entry.custom_id == wanted.custom_id),
        (wanted.since_ms, entry.id.int >> 80 >= (wanted.since_ms or 0)),
        (wanted.until_ms, entry.id.int >> 80 < (wanted.until_ms or 0)),
        (wanted.metadata, wanted.metadata.items() <= (entry.metadata or {}).items()),
    ]
    return all(fits for given, fits in asked if given)


def filters(batch: UUID) -> list[JobFilter]:
    one_each: list[dict[str, Any]] = [
        *({"states": (state,)} for state in State),
        {"states": (State.QUEUED, State.RUNNING)},
        {"states": (State.FAILED, State.EXPIRED)},
        {"states": (State.SUCCEEDED, State.FAILED)},
        {"states": (State.RUNNING, State.DEAD)},
        {"kinds": ("bad_request",)},
        {"kinds": ("unknown_model", "expired")},
        {"kinds": ("unknown_model",), "states": (State.SUCCEEDED,)},
        {"kinds": ("refused",)},
        {"model": "m1"},
        {"lane": Lane.STANDARD},
        {"batch": batch},
        {"custom_id": "c3"},
        {"since_ms": NOW + 1000},
        {"until_ms": NOW + 2000},
        {"metadata": {"team": "t1"}},
        {"metadata": {"team": "t1", "run": "3"}},
        {"metadata": {"run": "none"}},
        {},
    ]
    return [
        JobFilter(**{**one, **other})
        for one in one_each
        for other in ({}, {"batch": batch}, {"model": "m0", "since_ms": NOW + 1000}, {"kinds": ("bad_request",)})
    ]


@pytest.fixture
async def reader(ledger: Ledger) -> AsyncIterator[Connection]:
    """What the jobs of the ledger are read by."""
    assert isinstance(ledger.jobs, PgJobs)
    async with ledger.jobs._database.connection() as connection:
        yield connection


async def pages(
    reader: Connection, tenant: str | None, wanted: JobFilter, *, newest_first: bool = True, **bounds: Any
) -> list[tuple[UUID, State]]:
    """Go on until the last page."""
    found: list[tuple[UUID, State]] = []
    after: UUID | None = None
    for _ in range(100):
        page = await select_jobs(reader, tenant, wanted, after=after, newest_first=newest_first, **bounds)
        assert len(page.jobs) <= bounds["limit"]
        found += [(job.id, job.state) for job in page.jobs]
        after = page.next
        if after is None:
            return found
    raise AssertionError(f"no end: {wanted}")


@pytest.mark.parametrize(
    "bounds", [{"limit": 1000}, {"limit": 2}, {"limit": 5, "most": 3}, {"limit": 3, "small_batch": 0}], ids=str
)
async def test_each_filter_finds_what_matches_once_and_in_order(
    ledger: Ledger, reader: Connection, bounds: dict[str, Any]
) -> None:
    states = await filled(ledger)
    batch = next(entry.batch for entry, _, _ in states.values() if entry.batch is not None)

    for wanted in filters(batch):
        matching = [job for job, one in states.items() if matches(wanted, *one)]
        for tenant in ("default", "other", None):
            due = [(job, states[job][1]) for job in matching if tenant in (states[job][0].tenant, None)]
            assert await pages(reader, tenant, wanted, newest_first=False, **bounds) == sorted(due), wanted
            assert await pages(reader, tenant, wanted, **bounds) == sorted(due, reverse=True), wanted


async def test_a_line_says_what_there_is_to_say(ledger: Ledger, reader: Connection) -> None:
    states = await filled(ledger)

    lines = (await select_jobs(reader, None, JobFilter(), limit=100)).jobs

    for line in lines:
        entry, _, kind = states[line.id]
        assert (line.lane, line.model, line.batch, line.custom_id) == (
            entry.lane, entry.model, entry.batch, entry.custom_id,
        )  # fmt: skip
        assert line.metadata == (entry.metadata or {})
        assert (line.failure is None) == (kind in (None, "expired"))
        assert (line.settled_ms is None) == (line.state in (State.QUEUED, State.RUNNING))


async def test_a_job_that_is_dispatched_or_ends_between_two_pages_comes_at_most_once(
    ledger: Ledger, reader: Connection
) -> None:
    entries = [an_entry() for _ in range(6)]
    await ledger.intake.admit(entries)
    queued = JobFilter(states=(State.QUEUED,))

    first = await select_jobs(reader, "default", queued, limit=2)
    await dispatched(ledger, entries[5], entries[3], entries[2])
    await ledger.intake.admit([an_entry()])
    rest = await select_jobs(reader, "default", queued, limit=10, after=first.next)

    assert [job.id for job in (*first.jobs, *rest.jobs)] == [entries[n].id for n in (5, 4, 1, 0)]


@pytest.mark.parametrize("newest_first", [True, False])
async def test_a_call_looks_at_a_bounded_number_of_jobs(
    ledger: Ledger, reader: Connection, *, newest_first: bool
) -> None:
    entries = [an_entry(custom_id="wanted" if n in (0, 5) else None) for n in range(6)]
    await ledger.intake.admit(entries)
    wanted = JobFilter(custom_id="wanted")

    first = await select_jobs(reader, "default", wanted, limit=9, newest_first=newest_first, most=4)
    rest = await select_jobs(reader, "default", wanted, limit=9, newest_first=newest_first, most=4, after=first.next)

    order = entries[::-1] if newest_first else entries
    assert [job.id for job in first.jobs] == [order[0].id]
    assert first.next == order[3].id
    assert [job.id for job in rest.jobs] == [order[5].id]
    assert rest.next is None
