"""Calls in any order come to the same on both ledgers: answers, errors, and what there is in the end."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import UUID

import msgspec
import pytest

from broker.core.files import Pieces
from broker.core.keys import KeyRecord
from broker.core.records import Audited, FileBatch, Final, Ignore, Pick, Requeue, RequeuedJobs, Verdict
from broker.core.settle import decide
from broker.core.webhooks import Came
from broker.errors import BadData, Conflict, ControlsChanged, LastOperator, Unavailable
from broker.ledger import open_ledger
from broker.ports import Ledger
from schemas.accounts import Role
from schemas.api import BatchCreate, BatchList, State
from schemas.cancel import CancelChoice
from schemas.changes import BatchChange, Change
from schemas.control import Pause, PauseKind
from schemas.dead import DeadFilter
from schemas.files import File, FileList, Purpose
from schemas.ids import uuid7
from schemas.job import Attempt, Lane
from schemas.listing import JobFilter
from schemas.outcome import EngineFault, Failed, Outcome, Released, TimedOut
from schemas.repeats import BatchRetry, Replay, ReplayDiff, RetryCheck
from schemas.units import Ms
from schemas.webhooks import DeliveryList, DeliveryResend, EventType, Try, Webhook, WebhookChange
from tests.builders import CHAT, SEAL_KEY, a_dead_letter, a_report, a_success, an_entry, now
from tests.contract.ledger.test_file_batches import a_line
from tests.memory import a_memory_ledger
from tests.settling import PRICES
from tests.system import CATALOG

pytestmark = pytest.mark.real
EXPECTED = (BadData, Conflict, ControlsChanged, LastOperator, Unavailable, ValueError)
"""What a call may raise."""
STEPS = 250
UNLIKE = {"event"}
"""Fields that each ledger fills by chance."""


def plain(value: Any) -> Any:
    """Without what may differ: JSON as it is written, the order in sets, and ids that a ledger makes."""
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    if isinstance(value, dict):
        return {str(name): plain(one) for name, one in value.items() if name not in UNLIKE}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, msgspec.Raw):
        return msgspec.json.decode(value)
    if isinstance(value, msgspec.Struct):
        return plain({name: getattr(value, name) for name in value.__struct_fields__})
    return value


class Both:
    """Two ledgers with which the same is done, at the same instants and with the same ids."""

    def __init__(self, memory: Ledger, postgres: Ledger, seed: int) -> None:
        self.ledgers = (memory, postgres)
        self.chance = random.Random(seed)  # noqa: S311 - no secret
        self.at = now()
        self.made = 0
        self.jobs: list[UUID] = []
        self.batches: list[UUID] = []
        self.webhooks: list[UUID] = []
        self.files: list[UUID] = []
        self.running: list[Attempt] = []
        self.done: list[str] = []

    def id(self) -> UUID:
        self.made += 1
        return uuid7(self.at, self.made)

    def key(self) -> str:
        """The id of a key, of which there are few."""
        return self.chance.choice("uvwxyz")

    def by(self) -> Audited:
        return Audited(self.id(), self.at, "default", "k")

    def some(self, among: list[UUID], most: int = 4) -> list[UUID]:
        """Some of them, and perhaps one that there is not."""
        there = self.chance.sample(among, min(len(among), self.chance.randint(1, most)))
        return [*there, self.id()] if not there or self.chance.random() < 0.1 else there

    def one(self, among: list[UUID]) -> UUID:
        return self.some(among, 1)[-1]

    async def same(self, call: Callable[[Ledger], Awaitable[Any]], *, sort: bool = False) -> Any:
        """Call both, and return what came of it in Postgres; an error that is expected, too."""
        answers = []
        for ledger in self.ledgers:
            try:
                answers.append(await call(ledger))
            except EXPECTED as error:
                answers.append(type(error))
        memory, postgres = map(plain, answers)
        if sort and isinstance(memory, list):
            memory, postgres = sorted(memory, key=repr), sorted(postgres, key=repr)
        assert memory == postgres, self.done[-8:]
        return answers[1]

    async def step(self) -> None:
        kind = self.chance.choice(_KINDS)
        self.at = Ms(self.at + self.chance.choice((1, 7, 400)))
        self.done.append(kind.__name__)
        await kind(self)


def of_each(area: str, method: str, *values: object, **named: object) -> Callable[[Ledger], Awaitable[Any]]:
    """Return what calls a method of an area of a ledger."""

    def call(ledger: Ledger) -> Any:
        return getattr(getattr(ledger, area), method)(*values, **named)

    return call


async def admit(both: Both) -> None:
    batch = both.one(both.batches) if both.batches and both.chance.random() < 0.7 else None
    entries = [
        an_entry(
            id=both.id(),
            batch=batch,
            line=n,
            custom_id=f"c{n}",
            model=both.chance.choice("mn"),
            lane=both.chance.choice((Lane.BULK, Lane.STANDARD)),
            priority=both.chance.choice((0, 0, 5)),
            metadata=both.chance.choice(({"a": "1"}, None)),
            admitted_ms=both.at,
            deadline_ms=both.at + 3_600_000,
        )
        for n in range(both.chance.randint(1, 6))
    ]
    known = await both.ledgers[1].intake.batches_of([batch] if batch else [])
    if batch is not None and batch not in known:
        return
    both.jobs += [entry.id for entry in entries]
    await both.same(lambda ledger: ledger.intake.admit(entries))


async def make_batch(both: Both) -> None:
    webhook = both.one(both.webhooks) if both.webhooks and both.chance.random() < 0.3 else None
    ask = BatchCreate(id=both.id(), metadata={"of": both.chance.choice("ab")}, webhook=webhook)
    both.batches.append(ask.id)
    await both.same(lambda ledger: ledger.batches.create(ask, "default", both.at))


async def seal(both: Both) -> None:
    batch, jobs = both.one(both.batches), both.chance.randint(0, 8)
    await both.same(lambda ledger: ledger.batches.seal(batch, "default", jobs, both.at))


async def dispatch(both: Both) -> None:
    term = await both.same(lambda ledger: ledger.leadership.lead("me", lease_ms=600_000))
    controls = (await both.same(lambda ledger: ledger.controls.read())).version
    picks = []
    heads = await both.same(lambda ledger: ledger.backlog.heads())
    for flow in dict.fromkeys(head.flow for head in heads):
        page = await both.same(of_each("backlog", "page", flow, after=None, limit=3))
        picks += [Pick(flow, job.place, "d") for job in page if both.chance.random() < 0.7]
    if both.chance.random() < 0.05:
        picks += picks[:1]  # which a leader never does
    if picks:
        started = await both.same(
            lambda ledger: ledger.attempts.dispatch(picks, term=term, controls=controls, now=both.at)
        )
        both.running += started if isinstance(started, list) else []


async def settle(both: Both) -> None:
    both.chance.shuffle(both.running)
    ended, both.running = both.running[:4], both.running[4:]
    if not ended:
        return
    verdicts = [_verdict(both, attempt) for attempt in ended]
    await both.same(lambda ledger: ledger.settlement.settle(verdicts, now=both.at))
    if both.chance.random() < 0.3:
        await both.same(lambda ledger: ledger.settlement.settle(verdicts, now=both.at))


def _verdict(both: Both, attempt: Attempt) -> Verdict:
    """What an attempt came to, and what follows."""
    failure = TimedOut(Ms(9), "attempt")
    outcome, transition = both.chance.choice(
        (
            (a_success(), Final(State.SUCCEEDED, a_success().body, None)),
            (a_success(body=b'{"a":\n1}'), Final(State.SUCCEEDED, b'{"a":\n1}', None)),
            (Failed(EngineFault("x")), Final(State.FAILED, None, EngineFault("x"))),
            (Failed(failure), Final(State.DEAD, None, failure)),
            (Failed(failure), Requeue(Ms(both.at + 500), counted=True, tried=("d",))),
            (Released(), Requeue(both.at, counted=False)),
            (Released(), Ignore()),
        )
    )
    return _with(attempt, outcome, transition)


def _with(attempt: Attempt, outcome: Outcome, transition: Final | Requeue | Ignore) -> Verdict:
    report = a_report(outcome, job=attempt.job, attempt=attempt.number)
    [verdict] = decide([report], {}, prices=PRICES, now=attempt.dispatched_ms, unit=0.5)
    return msgspec.structs.replace(verdict, transition=transition)


async def move_due(both: Both) -> None:
    await both.same(lambda ledger: ledger.backlog.move_due(both.at, limit=2), sort=True)
    await both.same(lambda ledger: ledger.backlog.next_due())


async def cancel_jobs(both: Both) -> None:
    jobs = both.some(both.jobs)

    async def cancel(ledger: Ledger) -> tuple[Any, ...]:
        done = await ledger.cancels.cancel_jobs(jobs, "default", both.at)
        return done.ended, sorted(done.marked, key=lambda one: one.job), done.states

    await both.same(cancel)
    await both.same(lambda ledger: ledger.cancels.marked())


async def cancel_early(both: Both) -> None:
    jobs = [both.one(both.jobs), both.id()]
    await both.same(lambda ledger: ledger.cancels.cancel_early(jobs, "default", both.at))
    found = await both.same(lambda ledger: ledger.cancels.early_cancels())
    await both.same(lambda ledger: ledger.cancels.forget_early(found, made_before=Ms(both.at - 5000)))


async def cancel_batch(both: Both) -> None:
    batch, by = both.one(both.batches), both.by()
    await both.same(lambda ledger: ledger.cancels.cancel_batch(batch, "default", by))
    await both.same(lambda ledger: ledger.cancels.mark_batch(batch, both.at), sort=True)


async def end_pages(both: Both) -> None:
    for batch in sorted((await both.same(lambda ledger: ledger.controls.read())).cancelling):
        await both.same(of_each("cancels", "end_page", batch, both.at, limit=1000))


async def order_cancels(both: Both) -> None:
    model, batch = both.chance.choice("mn"), both.one(both.batches)
    choice = CancelChoice(
        tenant="default",
        model=both.chance.choice((model, None)),
        batch=batch,
        until_ms=both.at,
        states=both.chance.choice(((), (State.QUEUED,), (State.RUNNING,))),
    )
    id_, by = both.id(), both.by()
    await both.same(lambda ledger: ledger.cancel_orders.count(choice))
    await both.same(lambda ledger: ledger.cancel_orders.give(id_, choice, by))


async def change(both: Both) -> None:
    what = Change(
        lane=both.chance.choice((Lane.STANDARD, Lane.BULK, None)),
        priority=both.chance.choice((None, 7, -7)),
        deadline_ms=both.chance.choice((None, Ms(both.at + 7_200_000))),
    )
    job, batch, by, id_ = both.one(both.jobs), both.one(both.batches), both.by(), both.id()
    if both.chance.random() < 0.6:
        await both.same(lambda ledger: ledger.changes.change_job(job, "default", what, by))
    else:
        await both.same(lambda ledger: ledger.changes.give(BatchChange(id_, batch, what), "default", by))


async def retry(both: Both) -> None:
    batch, by = both.one(both.batches), both.by()
    ask = BatchRetry(
        id=both.id(), batch=batch, states=both.chance.choice(((State.FAILED,), (State.FAILED, State.DEAD)))
    )
    check = RetryCheck(batch=batch, custom_ids=("c0", "c1", "none"))
    await both.same(lambda ledger: ledger.retries.not_retried(check, "default"))
    if await both.same(lambda ledger: ledger.retries.give(ask, "default", by)) is not None:
        both.batches.append(ask.id)


async def replay(both: Both) -> None:
    wanted, by = JobFilter(batch=both.one(both.batches)), both.by()
    ask = Replay(id=both.id(), filter=wanted, max_tokens=both.chance.choice((None, 3)))
    await both.same(lambda ledger: ledger.replays.select(wanted, (), "default", None))
    await both.same(lambda ledger: ledger.replays.give(ask, "default", by))
    both.batches.append(ask.id)


async def requeue_dead(both: Both) -> None:
    letters = await both.same(lambda ledger: ledger.dead_letters.page(DeadFilter(), limit=9))
    jobs = tuple(one.id for one in letters if one.what == "job")
    ask, by = RequeuedJobs(id=both.id(), tenant="default", jobs=jobs[:3]), both.by()
    await both.same(lambda ledger: ledger.dead_letters.requeue_jobs(ask, by, {}))
    both.batches.append(ask.id)


async def drop_dead(both: Both) -> None:
    letter, by = a_dead_letter(received_ms=both.at), both.by()
    await both.same(lambda ledger: ledger.dead_letters.record([letter]))
    await both.same(lambda ledger: ledger.dead_letters.count(DeadFilter()), sort=True)
    letters = await both.same(lambda ledger: ledger.dead_letters.page(DeadFilter(tenant="default"), limit=9))
    gone = [one.id for one in letters if both.chance.random() < 0.3]
    await both.same(lambda ledger: ledger.dead_letters.drop(gone, gone, by, {}))


async def carry_on(both: Both) -> None:
    for _ in range(both.chance.randint(1, 4)):
        both.at = Ms(both.at + 300)
        carried = await both.same(_carried(both.at))
        if carried is None:
            return
        both.jobs += [place.job for _, place in carried.waiting]


def _carried(at: Ms) -> Callable[[Ledger], Awaitable[Any]]:
    async def carry(ledger: Ledger) -> Any:
        carried = await ledger.instructions.carry_on(at)
        if carried is None:
            return None
        ended = sorted(carried.ended, key=lambda one: one.job)
        return msgspec.structs.replace(carried, ended=tuple(ended), waiting=tuple(sorted(carried.waiting)))

    return carry


async def pause(both: Both) -> None:
    kind = both.chance.choice(list(PauseKind))
    name = str(both.one(both.batches)) if kind is PauseKind.BATCH else both.chance.choice("mn")
    by = both.by()
    if both.chance.random() < 0.5:
        paused = Pause(kind=kind, name=name, paused_ms=both.at, tenant="default", key="k", reason="a test")
        await both.same(lambda ledger: ledger.controls.pause(paused, by))
    else:
        await both.same(lambda ledger: ledger.controls.resume(kind, name, by))
    if kind is PauseKind.BATCH:
        await both.same(lambda ledger: ledger.controls.park(UUID(name), now=both.at, limit=1000))
    await both.same(lambda ledger: ledger.controls.unpark(limit=1000), sort=True)


async def make_webhook(both: Both) -> None:
    events = tuple(both.chance.sample(list(EventType), both.chance.randint(0, 3)))
    made = Webhook(
        id=both.id(), tenant="default", url="http://a.test", events=events, created_ms=both.at, made_by="default/k"
    )
    secret, by = bytes(both.chance.randbytes(32)), both.by()
    if await both.same(lambda ledger: ledger.webhooks.create(made, secret, by)) is not None:
        both.webhooks.append(made.id)


async def change_webhook(both: Both) -> None:
    webhook, by, secret = both.one(both.webhooks), both.by(), both.chance.randbytes(32)
    ask = WebhookChange(id=webhook, label="x", disabled=both.chance.choice((True, False, None)))
    what = both.chance.random()
    if what < 0.6:
        await both.same(lambda ledger: ledger.webhooks.change(ask, "default", by))
    elif what < 0.9:
        await both.same(
            lambda ledger: ledger.webhooks.rotate(webhook, "default", secret, by, until=Ms(both.at + 900))
        )
    else:
        await both.same(lambda ledger: ledger.webhooks.delete(webhook, "default", by))
    await both.same(lambda ledger: ledger.webhooks.page("default"))


async def deliver(both: Both) -> None:
    """Each ledger makes ids of its own, and orders by them what was made at one instant."""
    came = both.chance.choice(
        (
            Came(tried=Try(at_ms=both.at, took_ms=Ms(1), status=200), next_ms=None, is_delivered=True),
            Came(tried=Try(at_ms=both.at, took_ms=Ms(1), status=500), next_ms=Ms(both.at + 500)),
            Came(tried=Try(at_ms=both.at, took_ms=Ms(1), status=410), next_ms=None, is_gone=True),
        )
    )

    async def claim(ledger: Ledger) -> Any:
        due = await ledger.deliveries.claim([], both.at, until=Ms(both.at + 5000), limit=100)
        for one in due:
            await ledger.deliveries.record(one, came, both.at)
        return sorted((one.webhook, one.made_ms, one.secrets, one.url) for one in due)

    await both.same(claim)


async def list_deliveries(both: Both) -> None:
    failed_of = both.one(both.webhooks)

    async def told(ledger: Ledger) -> Any:
        found = (await ledger.webhooks.deliveries(DeliveryList(limit=1000), "default")).deliveries
        return sorted((str(one.webhook), one.made_ms) for one in found)

    async def resend(ledger: Ledger) -> int:
        return len(await ledger.webhooks.resend(DeliveryResend(failed_of=failed_of), "default", both.at))

    await both.same(told)
    if both.chance.random() < 0.2:
        await both.same(resend)


async def read_jobs(both: Both) -> None:
    wanted = JobFilter(
        states=tuple(both.chance.sample(list(State)[1:], both.chance.randint(0, 2))),
        kinds=both.chance.choice(((), (), ("timed_out",))),
        model=both.chance.choice((None, "m")),
        batch=both.chance.choice((None, both.one(both.batches))),
        metadata=both.chance.choice(({}, {"a": "1"})),
    )
    page = await both.same(lambda ledger: ledger.jobs.page("default", wanted, limit=5, before=None))
    await both.same(lambda ledger: ledger.jobs.page("default", wanted, limit=5, before=page.next))
    for job in both.some(both.jobs):
        await both.same(of_each("jobs", "find", job, "default"))


async def read_batches(both: Both) -> None:
    batch = both.one(both.batches)
    await both.same(lambda ledger: ledger.batches.page("default", BatchList(limit=9, metadata={"of": "a"})))
    await both.same(lambda ledger: ledger.batches.find(batch, "default"))
    for own in (True, False):
        await both.same(of_each("batches", "results", batch, "default", None, 9, own=own))
    await both.same(lambda ledger: ledger.replays.differences(ReplayDiff(batch), "default"))


async def change_tenants(both: Both) -> None:
    name, by = both.chance.choice(("x", "y", "z")), both.by()
    what = both.chance.choice(("create", "disable", "enable"))
    if what == "create":
        await both.same(lambda ledger: ledger.tenants.create(name, "label", by))
    elif what == "disable":
        force = both.chance.random() < 0.5
        await both.same(lambda ledger: ledger.tenants.disable(name, by, force=force))
    else:
        await both.same(lambda ledger: ledger.tenants.enable(name, by))
    await both.same(lambda ledger: ledger.tenants.page("w", now=both.at, limit=2))


async def change_keys(both: Both) -> None:
    tenant, old, new, by = both.chance.choice("xy"), both.key(), both.key(), both.by()
    record = KeyRecord(
        id=new,
        tenant=tenant,
        role=both.chance.choice((Role.OPERATOR, Role.PRODUCER)),
        hash=both.chance.randbytes(32),
        models=both.chance.choice((None, frozenset("mn"))),
        created_ms=both.at,
        expires_ms=both.chance.choice((None, Ms(both.at + 500))),
    )
    what, force = both.chance.choice(("create", "first", "revoke", "rotate")), both.chance.random() < 0.3
    if what == "create":
        await both.same(lambda ledger: ledger.api_keys.create(record, by))
    elif what == "first":
        await both.same(lambda ledger: ledger.api_keys.first(record, by, force=force))
    elif what == "revoke":
        await both.same(lambda ledger: ledger.api_keys.revoke(tenant, old, by, force=force))
    else:
        await both.same(lambda ledger: ledger.api_keys.rotate(old, record, by, until=Ms(both.at + 300)))


async def read_keys(both: Both) -> None:
    tenant, key = both.chance.choice("xy"), both.key()
    await both.same(lambda ledger: ledger.api_keys.used({key: both.at}))
    await both.same(lambda ledger: ledger.api_keys.find(tenant, key))
    for ended in (True, False):
        await both.same(of_each("api_keys", "page", tenant, None, ended=ended, now=both.at, limit=3))

    async def directory(ledger: Ledger) -> Any:
        found = await ledger.api_keys.directory(ended_since=Ms(both.at - 100))
        return found.version, found.tenants, found.keys

    await both.same(directory)


async def make_file(both: Both) -> None:
    lines = [a_line(both.chance.randint(0, 6), body={"model": both.chance.choice("mmm?")}) for _ in range(4)]
    content = b"\n".join([*lines, *both.chance.choice(([], [b"{"], [b'{"custom_id": "\\u0000"}']))])
    made = File(
        id=both.id(),
        purpose=Purpose.BATCH,
        name="in.jsonl",
        bytes=0,
        created_ms=both.at,
        expires_ms=both.chance.choice((None, Ms(both.at + 3000))),
    )
    both.files.append(made.id)
    is_cut_off = both.chance.random() < 0.1

    async def store(ledger: Ledger) -> Any:
        store = await ledger.stores.current()
        await ledger.files.begin(made, store, "default", "k")
        if is_cut_off:
            return None
        pieces, blobs = Pieces(), await ledger.stores.of(store)
        for number, piece in enumerate([*pieces.add(content), *pieces.rest()]):
            await blobs.put(made.id, number, piece)
        return await ledger.files.finish(made.id, pieces.bytes, both.at)

    await both.same(store)


async def use_files(both: Both) -> None:
    file, batch, by = both.one(both.files), both.id(), both.by()
    ask = FileBatch(
        id=batch,
        file=file,
        lane=Lane.BULK,
        endpoint=CHAT,
        window="24h",
        deadline_ms=Ms(both.at + 86_400_000),
        skips_bad=both.chance.random() < 0.7,
    )
    if await both.same(lambda ledger: ledger.file_batches.create(ask, {}, "default", by)) is not None:
        both.batches.append(batch)
    if both.chance.random() < 0.2:
        await both.same(lambda ledger: ledger.files.delete(file, "default", both.at))
    await both.same(lambda ledger: ledger.files.page("default", FileList(), both.at))
    await both.same(lambda ledger: ledger.files.to_drop(both.at))


async def read_file_batches(both: Both) -> None:
    async def all_of_them(ledger: Ledger) -> Any:
        states = await ledger.file_batches.page("default", limit=9, before=None)
        bad = [await ledger.file_batches.bad_lines(one.batch.id, after=-1, limit=9) for one in states]
        sizes = [await ledger.file_batches.sizes(one) for one in states]
        return states, bad, sizes

    batch = both.one(both.batches)
    await both.same(all_of_them)
    await both.same(lambda ledger: ledger.file_batches.delete_file(batch, "default", "output", both.at))


async def read_orders(both: Both) -> None:
    await both.same(lambda ledger: ledger.instructions.page("default", 9, None))
    await both.same(lambda ledger: ledger.instructions.next_ms())
    await both.same(lambda ledger: ledger.audit.page(None, 9, None))
    await both.same(lambda ledger: ledger.status.backlog(both.at), sort=True)


async def drop_old(both: Both) -> None:
    before = Ms(both.at - 3000)
    await both.same(lambda ledger: ledger.retention.drop_messages(before, limit=2))
    await both.same(lambda ledger: ledger.retention.drop_dead_jobs(before, now=both.at, limit=2))
    await both.same(lambda ledger: ledger.retention.drop_instructions(before, limit=2))
    await both.same(lambda ledger: ledger.retention.drop_deliveries(before, limit=200))
    await both.same(lambda ledger: ledger.retention.drop_audit(before, limit=2))


_KINDS = (
    admit, admit, admit, make_batch, seal, dispatch, dispatch, dispatch, settle, settle, settle, move_due, cancel_jobs,
    cancel_early, cancel_batch, end_pages, order_cancels, change, change, retry, retry, replay, requeue_dead, drop_dead,
    carry_on, carry_on, carry_on, pause, make_webhook, change_webhook, deliver, deliver, list_deliveries, read_jobs,
    read_jobs, read_batches, read_batches, read_orders, drop_old, change_tenants, change_keys, change_keys, read_keys,
    make_file, use_files, use_files, read_file_batches,
)  # fmt: skip


@pytest.fixture
async def ledgers(ledger_url: str) -> AsyncIterator[tuple[Ledger, Ledger]]:
    async with a_memory_ledger() as memory, open_ledger(ledger_url, clock=now, connections=2) as postgres:
        await postgres.seal_keys.agree(SEAL_KEY)
        yield memory, postgres


@pytest.mark.parametrize("seed", range(6))
async def test_calls_in_any_order_come_to_the_same(ledgers: tuple[Ledger, Ledger], seed: int) -> None:
    both = Both(*ledgers, seed)
    at, by = both.at, both.by()
    await both.same(lambda ledger: ledger.catalogs.apply(CATALOG.format(slots=4, options=""), "k", at))
    await both.same(lambda ledger: ledger.tenants.create("other", None, by))

    for _ in range(STEPS):
        await both.step()

    for job in both.jobs:
        await both.same(of_each("jobs", "find", job, "default"))
    for batch in both.batches:
        await both.same(of_each("batches", "find", batch, "default"))
    await both.same(lambda ledger: ledger.controls.read())
