"""Whatever is asked of the ledger in memory and of the one on Postgres, in any order: both answer and hold the same."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from operator import attrgetter
from random import Random
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.core.lost import lost_executions
from broker.core.records import Audited, Entry, Flow, Pick, Settled, WaitingJob
from broker.core.settle import decide
from broker.core.suspects import Turn
from broker.errors import BadData, Conflict, ControlsChanged, Deposed
from broker.ledger import open_ledger
from broker.ports import Ledger
from broker.simulate.ledger.areas import ledger_of
from broker.simulate.ledger.stored import MemoryRow
from broker.simulate.ledger.table import Table
from broker.simulate.ledger.tables import Tables
from broker.simulate.ledger.transactions import OpenGate
from broker.simulate.timers import LoopTimers
from schemas.api import BatchCreate, BatchList, State
from schemas.changes import Change
from schemas.control import Pause, PauseKind
from schemas.ids import uuid7
from schemas.job import Attempt, Lane
from schemas.listing import JobFilter
from schemas.outcome import (
    BadRequest,
    Cancelled,
    EngineFault,
    Expired,
    Failed,
    Outcome,
    Refused,
    Released,
    Report,
    Throttled,
    Usage,
)
from schemas.ruling import Cancel, Convict, EndRequest, Expire, Lost, PutBack, Ruling, Suspect, Suspicion
from schemas.units import Ms
from schemas.webhooks import Webhook
from tests.builders import (
    SEAL_KEY,
    a_report,
    a_success,
    a_worker,
    an_attempt,
    an_entropy,
    an_entry,
    an_execution_id,
    now,
)
from tests.conftest import a_database
from tests.settling import PRICES

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]
EXAMPLES = int(os.environ.get("ALIKE", "15"))
TENANTS = ("default", "t")
MODELS = ("m", "n")
LANES = (Lane.BULK, Lane.STANDARD)
MINUTE_MS = 60_000
EXPECTED = (Conflict, BadData, Deposed, ControlsChanged)


@dataclass
class Both:
    """Two ledgers, and what was done to both."""

    memory: Ledger
    postgres: Ledger
    tables: Tables
    url: str
    now: Ms
    entries: list[Entry] = field(default_factory=list)
    requests: list[Attempt] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    batches: list[tuple[UUID, str]] = field(default_factory=list)
    webhooks: list[UUID] = field(default_factory=list)
    numbers: int = 0

    async def do(
        self, name: str, *asked: object, told: Callable[[Any], Any] = lambda answer: answer, **named: object
    ) -> Any:
        """Do it to both. Return what both answer, once `told` has put into order what is in none."""
        answers = [await _answer(ledger, name, asked, named) for ledger in (self.memory, self.postgres)]
        in_memory, on_postgres = (answer if isinstance(answer, type) else told(answer) for answer in answers)
        assert in_memory == on_postgres
        return answers[1]

    def an_id(self) -> UUID:
        self.numbers += 1
        return uuid7(self.now, self.numbers)

    def somebody(self, tenant: str = "default") -> Audited:
        return Audited(self.an_id(), self.now, tenant, "k")


async def _answer(ledger: Ledger, name: str, asked: Sequence[object], named: Mapping[str, object]) -> Any:
    try:
        return await attrgetter(name)(ledger)(*asked, **named)
    except EXPECTED as error:
        return type(error)


def in_order(values: Any) -> Any:
    return sorted(values, key=repr)


def settled(done: Settled) -> object:
    return in_order(done.final), in_order(done.requeued), in_order(done.ended_attempts)


async def admit(both: Both, chance: Random) -> None:
    entries = [_entry(both, chance) for _ in range(chance.randint(1, 4))]
    both.entries += entries
    await both.do("intake.admit", entries)


def _entry(both: Both, chance: Random) -> Entry:
    if both.entries and chance.random() < 0.2:
        known = chance.choice(both.entries)
        return an_entry(
            **{name: getattr(known, name) for name in known.__struct_fields__}
            | ({"body_hash": b"x" * 16} if chance.random() < 0.5 else {})
        )
    batch, tenant = chance.choice([*both.batches, (None, chance.choice(TENANTS))])
    refused = chance.random() < 0.1
    return an_entry(
        id=both.an_id(),
        tenant=tenant,
        lane=chance.choice(LANES),
        model=chance.choice(MODELS),
        batch=batch,
        line=None if batch is None else both.numbers,
        custom_id=chance.choice([None, f"c{both.numbers}"]),
        priority=chance.choice([0, 0, 1, -2]),
        admitted_ms=both.now,
        deadline_ms=Ms(both.now + chance.choice([1, 5, 60]) * MINUTE_MS),
        max_attempts=chance.choice([1, 3]),
        metadata=chance.choice([None, {"a": "1"}, {"a": "1", "b": "2"}]),
        idempotency_key=chance.choice([None, None, "k", "l"]),
        refused=Refused("unknown_model", "no") if refused else None,
        too_late_for=batch if refused and chance.random() < 0.5 else None,
    )


async def batch(both: Both, chance: Random) -> None:
    if both.batches and chance.random() < 0.6:
        id_, tenant = chance.choice(both.batches)
        if chance.random() < 0.3:
            by = both.somebody(tenant)
            await both.do("cancels.cancel_batch", id_, tenant, by)
        else:
            jobs = chance.randint(0, 4)
            await both.do("batches.seal", id_, tenant, jobs, both.now)
        return
    tenant = chance.choice(TENANTS)
    ask = BatchCreate(
        id=both.an_id(),
        lane=chance.choice(LANES),
        metadata=chance.choice([{}, {"a": "1"}]),
        webhook=chance.choice([None, *both.webhooks]),
    )
    both.batches.append((ask.id, tenant))
    await both.do("batches.create", ask, tenant, both.now)


async def dispatch(both: Both, chance: Random) -> None:
    controls = await both.do("controls.read")
    term = await both.do("leadership.lead", "me", lease_ms=600_000)
    picks = []
    for head in await both.do("backlog.heads"):
        page = await _page(both, head.flow)
        picks += [Pick(head.flow, one.place, chance.choice("de")) for one in page if chance.random() < 0.7]
    picks = list({pick.place.job: pick for pick in picks}.values())
    chance.shuffle(picks)
    if not picks:
        return
    version = controls.version if chance.random() < 0.9 else controls.version - 1
    term = term if chance.random() < 0.95 else term + 1
    started = await both.do("attempts.dispatch", picks, term=term, controls=version, now=both.now)
    if not isinstance(started, type):
        both.attempts += started


async def _page(both: Both, flow: Flow) -> Sequence[WaitingJob]:
    page: Sequence[WaitingJob] = await both.do("backlog.page", flow, after=None, limit=3)
    if page:
        after = page[0].place
        await both.do("backlog.page", flow, after=after, limit=9)
        past = [id_ for id_, _ in both.batches[:1]]
        await both.do("backlog.page_past", flow, past, after=after, now=both.now, limit=9)
    return page


async def settle(both: Both, chance: Random) -> None:
    if not both.attempts:
        return
    items = [_word(both, chance, chance.choice(both.attempts)) for _ in range(chance.randint(1, 5))]
    await _settle(both, chance, items)


async def usual(both: Both, chance: Random) -> None:
    """Report on attempts that run, as nearly always."""
    running = await both.do("attempts.running", told=in_order)
    by_job = {(one.job, one.number): one for one in both.attempts}
    known = [by_job[one.job, one.attempt] for one in running if (one.job, one.attempt) in by_job]
    items = [_report(one, chance) for one in known if chance.random() < 0.6]
    if items:
        await _settle(both, chance, items)


async def _settle(both: Both, chance: Random, items: Sequence[Report | Ruling]) -> None:
    ids = {item.job for item in items}
    jobs = await both.do("settlement.open_jobs", ids)
    gone = [item for item in items if isinstance(item, Lost)]
    asked = {one.job for one in gone}
    requests = await both.do("attempts.requests_of", asked) if gone else {}
    lost = lost_executions(gone, requests=requests, recorded={}, prices=PRICES)
    verdicts = decide(items, jobs, prices=PRICES, lost=lost, alive=("d",), now=both.now, unit=0.5)
    for _ in range(chance.choice([1, 1, 2])):
        await both.do("settlement.settle", verdicts, now=both.now, told=settled)


def _word(both: Both, chance: Random, attempt: Attempt) -> Report | Ruling:
    job, number = attempt.job, attempt.number
    if chance.random() < 0.5:
        return _report(attempt, chance)
    rulings: list[Ruling] = [
        Expire(job),
        PutBack(job, number),
        Suspect(job, number, Suspicion(uuid7(both.now, chance.randint(1, 2)))),
        Convict(job, number, 2),
        Cancel(job, number),
        Lost(
            job=job,
            attempt=number,
            deployment=attempt.deployment,
            execution=an_execution_id(job, number, chance.randint(1, 2)),
            worker="w",
            started_ms=both.now,
        ),
    ]
    return chance.choice(rulings)


def _report(attempt: Attempt, chance: Random, *, interactive: Attempt | None = None) -> Report:
    """Whatever an execution came to, each report of it says the same."""
    delivery = chance.choice([1, 1, 1, 2])
    execution = an_execution_id(attempt.job, attempt.number, delivery)
    return a_report(
        _outcome(Random(execution.int)),  # noqa: S311 - to be repeated
        job=attempt.job,
        attempt=attempt.number,
        delivery=delivery,
        deployment=attempt.deployment,
        interactive=interactive,
    )


def _outcome(chance: Random) -> Outcome:
    usage = Usage(chance.randint(0, 9), chance.randint(0, 9))
    outcomes: list[Outcome] = [
        a_success(usage=usage),
        a_success(usage=usage),
        Failed(EngineFault("x"), usage),
        Failed(BadRequest("x"), usage),
        Failed(Throttled(), usage),
        Released(),
        Expired(),
        Cancelled(),
    ]
    return chance.choice(outcomes)


async def request(both: Both, chance: Random) -> None:
    """An interactive request ends, or one of its attempts does; some are another's with the same id."""
    if both.requests and chance.random() < 0.6:
        known = chance.choice(both.requests)
        attempt = an_attempt(
            **{name: getattr(known, name) for name in known.__struct_fields__}
            | {"number": known.number + chance.randint(0, 1)}
            | ({"tenant": "another"} if chance.random() < 0.2 else {})
        )
    else:
        ids = [entry.id for entry in both.entries[-2:]]
        attempt = an_attempt(
            job=chance.choice([both.an_id(), both.an_id(), *ids]),
            lane=Lane.INTERACTIVE,
            admitted_ms=both.now,
            deadline_ms=Ms(both.now + MINUTE_MS),
            dispatched_ms=both.now,
            reply_to="r",
            key="k",
        )
    both.requests.append(attempt)
    items: list[Report | Ruling] = [_report(attempt, chance, interactive=attempt)]
    if chance.random() < 0.4:
        ends: list[Failed | Expired | Cancelled] = [Failed(EngineFault("y")), Expired(), Cancelled()]
        items.append(EndRequest(attempt, chance.choice(ends)))
    await _settle(both, chance, items)


async def cancel(both: Both, chance: Random) -> None:
    ids = {entry.id for entry in chance.sample(both.entries, min(3, len(both.entries)))} | {both.an_id()}
    tenant = chance.choice(TENANTS)
    await both.do(
        "cancels.cancel_jobs",
        ids,
        tenant,
        both.now,
        told=lambda done: (
            done if isinstance(done, type) else (in_order(done.ended), in_order(done.marked), done.states)
        ),
    )
    for id_, _ in both.batches[-2:]:
        await both.do("cancels.mark_batch", id_, both.now, told=in_order)
        if chance.random() < 0.5 and any(one.id == id_ for one in await _cancelled(both)):
            await both.do(
                "cancels.end_page",
                id_,
                both.now,
                limit=99,
                told=in_order,
            )
    await both.do("cancels.marked", told=in_order)


async def _cancelled(both: Both) -> Sequence[Any]:
    pages = [await both.do("batches.page", tenant, BatchList(limit=50)) for tenant in TENANTS]
    return [one for page in pages for one in page if one.cancel_ms is not None]


async def tick(both: Both, chance: Random) -> None:
    both.now = Ms(both.now + chance.choice([1, 1000, MINUTE_MS, 10 * MINUTE_MS]))
    await both.do("backlog.next_due")
    await both.do("backlog.move_due", both.now, limit=1000, told=in_order)
    await both.do("attempts.overdue", both.now, told=in_order)


async def pause(both: Both, chance: Random) -> None:
    kind, name = chance.choice(
        [(PauseKind.MODEL, "m"), *((PauseKind.BATCH, str(id_)) for id_, _ in both.batches[-2:])]
    )
    by = both.somebody()
    asked = Pause(kind=kind, name=name, paused_ms=both.now, tenant="default", key="k", reason="r")
    if chance.random() < 0.6:
        await both.do("controls.pause", asked, by)
    else:
        await both.do("controls.resume", kind, name, by)
    for id_, _ in both.batches:
        await both.do("controls.park", id_, now=both.now, limit=99)
    await both.do("controls.unpark", limit=99, told=in_order)


async def suspects(both: Both, chance: Random) -> None:
    waiting = await both.do("suspects.waiting")
    await both.do("suspects.running", told=in_order)
    if not waiting:
        return
    one = chance.choice(waiting)
    if chance.random() < 0.3:
        await both.do("suspects.clear", [one.suspicion.group])
        return
    term = await both.do("leadership.lead", "me", lease_ms=600_000)
    turn = Turn(a_worker(), "d", one.suspicion.group, (one.job,))
    started = await both.do("suspects.dispatch", turn, term=term, now=both.now)
    if not isinstance(started, type):
        both.attempts += started


async def change(both: Both, chance: Random) -> None:
    if not both.entries:
        return
    entry, by = chance.choice(both.entries), both.somebody()
    asked = Change(
        lane=chance.choice([None, *LANES]),
        priority=chance.choice([None, 3]),
        deadline_ms=chance.choice([None, Ms(both.now + 7 * MINUTE_MS)]),
    )
    await both.do("changes.change_job", entry.id, entry.tenant, asked, by)


async def listen(both: Both, chance: Random) -> None:
    webhook = Webhook(
        id=both.an_id(),
        tenant="default",
        url="https://example.com/",
        events=chance.choice([(), ("job.settled",), ("batch.completed", "batch.cancelled", "batch.expired")]),
        created_ms=both.now,
        made_by="default/k",
    )
    both.webhooks.append(webhook.id)
    by = both.somebody()
    await both.do("webhooks.create", webhook, b"s" * 32, by)


async def read(both: Both, chance: Random) -> None:
    """Ask all that can be asked."""
    for entry in both.entries[-8:]:
        await both.do("jobs.find", entry.id, entry.tenant)
    for id_, tenant in both.batches:
        await _read_batch(both, chance, id_, tenant)
    for tenant in TENANTS:
        await both.do("jobs.of_key", tenant, "k")
        wanted, limit = _filter(both, chance), chance.choice([1, 3, 100])
        await both.do("jobs.page", tenant, wanted, limit=limit, before=None)
        asked = BatchList(limit=3, lane=chance.choice([None, *LANES]), metadata=chance.choice([{}, {"a": "1"}]))
        await both.do("batches.page", tenant, asked)
    named = [(one.job, one.number) for one in both.attempts[-3:]]
    await both.do("spend.read", both.now, named)
    await both.do("status.backlog", both.now, told=in_order)
    await both.do("intake.batches_of", [id_ for id_, _ in both.batches])
    await both.do("attempts.running", told=in_order)
    running = [one for one in await both.postgres.attempts.running() if one.ward is None]
    if running:
        await both.do("attempts.attempts_of", running, now=both.now, told=in_order)


async def _read_batch(both: Both, chance: Random, id_: UUID, tenant: str) -> None:
    own, final, limit = chance.random() < 0.5, chance.random() < 0.5, chance.choice([1, 2, 50])
    await both.do("batches.find", id_, tenant)
    cursor = None
    for _ in range(3):
        at = cursor
        page = await both.do("batches.read", id_, tenant, at, limit, own=own, final=final)
        cursor = page.page.cursor


def _filter(both: Both, chance: Random) -> JobFilter:
    return JobFilter(
        states=chance.choice(
            [(), (), (State.QUEUED,), (State.RUNNING,), (State.FAILED, State.DEAD), (State.SUCCEEDED, State.FAILED)]
        ),
        kinds=chance.choice([(), (), ("engine_fault", "unknown_model")]),
        model=chance.choice([None, *MODELS]),
        lane=chance.choice([None, *LANES]),
        batch=chance.choice([None, None, *(id_ for id_, _ in both.batches)]),
        metadata=chance.choice([{}, {"a": "1"}]),
    )


STEPS = (
    admit, admit, batch, dispatch, dispatch, settle, settle, usual, request, cancel, tick, pause, suspects, change,
    listen, read,
)  # fmt: skip


@settings(max_examples=EXAMPLES)
@given(st.lists(st.tuples(st.sampled_from(range(len(STEPS))), st.integers(0, 1 << 32)), min_size=5, max_size=60))
def test_both_answer_and_hold_the_same(servers: tuple[str, str], steps: list[tuple[int, int]]) -> None:
    async def run() -> None:
        async with two_ledgers(servers[1]) as both:
            for step, seed in steps:
                await STEPS[step](both, Random(seed))  # noqa: S311 - to be repeated
            await read(both, Random(0))  # noqa: S311 - to be repeated
            await both.do("sums.check", within_s=60.0)
            await assert_the_same_rows(both)

    asyncio.run(run())


@asynccontextmanager
async def two_ledgers(base: str) -> AsyncIterator[Both]:
    timers = LoopTimers(asyncio.get_running_loop(), wall_ns=now() * 1_000_000)
    tables = Tables(timers, an_entropy)
    async with a_database(base) as url, open_ledger(url, clock=now, connections=1) as postgres:
        memory = ledger_of(tables, timers, OpenGate(), now)
        await memory.days.keep()
        await memory.seal_keys.agree(SEAL_KEY)
        yield Both(memory, postgres, tables, url, now())


LEFT_OUT = {
    "deliveries": {"id", "event"},
    "tenants": {"created_ms"},
    "leader": {"until", "until_ns"},
}
"""Columns that are made by chance or by the server's clock."""


async def assert_the_same_rows(both: Both) -> None:
    connection = await asyncpg.connect(both.url)
    try:
        for name, table in vars(both.tables).items():
            if isinstance(table, Table):
                rows = await connection.fetch(f"select * from infermq.{name}")  # noqa: S608 - a table of ours
                in_memory = [_columns(name, row.__struct_fields__, row) for row in table]
                on_postgres = [_columns(name, row.keys(), row) for row in rows]
                assert in_order(in_memory) == in_order(on_postgres), name
        version = await connection.fetchval("select number from infermq.control_version")
        assert both.tables.control_version.now == version
    finally:
        await connection.close()


def _columns(table: str, names: Any, row: MemoryRow | asyncpg.Record) -> dict[str, object]:
    """Return the columns of a row as they can be compared: JSON may have its fields in any order."""
    kept = sorted(set(names) - LEFT_OUT.get(table, set()))
    return {name: _plain(row[name]) for name in kept}


def _plain(value: Any) -> object:
    if isinstance(value, str) and value.startswith(("{", "[")):
        return json.dumps(json.loads(value), sort_keys=True)
    return list(value) if isinstance(value, tuple) else str(value) if isinstance(value, str) else value
