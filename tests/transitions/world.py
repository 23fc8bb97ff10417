"""The ledger under test, beside what is known of it: a step says what it may change, and nothing else may."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

import asyncpg

from broker.core.controls import Controls
from broker.core.records import Entry, Flow, Pick, Verdict
from broker.errors import Unavailable
from broker.ledger import open_ledger
from broker.ledger.areas import STEPS
from broker.ledger.changes import change_page
from broker.ledger.connection import Connection
from broker.ledger.requeues import requeue_page
from broker.ledger.retries import retry_page
from broker.ports import Ledger
from schemas.catalog import parse
from schemas.control import PauseKind
from schemas.ids import uuid7
from schemas.instructions import InstructionKind
from schemas.job import Attempt, Lane
from schemas.outcome import Report
from schemas.repeats import BatchRetry, Replay
from schemas.units import Ms
from tests.sums import disagreements
from tests.transitions.broken import broken_repeats
from tests.transitions.interrupted import Cut, interrupted
from tests.transitions.standing import ABSENT, Reader, Seen, SeenBatch, Standing

TENANTS = ("ann", "bob")
MODELS = {"m": ("d", "e"), "n": ("e",)}
TOML = """
[models.m]
route = [{ deployment = "d" }, { deployment = "e" }]
[models.n]
route = [{ deployment = "e" }]
[deployments.d]
engine = "simulated"
price = { input = 1.0, output = 2.0 }
[deployments.e]
engine = "simulated"
price = { input = 3.0, output = 1.0 }
"""
CATALOG = parse(TOML)
HOUR_MS = 3_600_000
_WAITING = """
select count(*) from pg_stat_get_activity(null)
 where datid = (select oid from pg_database where datname = current_database()) and wait_event_type = 'Lock'
"""


@dataclass(slots=True)
class Known:
    """What the test knows of a job."""

    number: int
    tenant: str
    model: str
    lane: Lane
    batch: UUID | None
    deadline_ms: Ms
    not_before_ms: Ms | None = None
    rank: int = 0

    @property
    def flow(self) -> Flow:
        return Flow(self.model, self.lane, self.tenant)


Effect = Callable[[UUID, Standing], set[Standing]]
"""How a job may stand after a step that found it standing so."""


def nothing(_: UUID, before: Standing) -> set[Standing]:
    return {before}


def only(effects: Mapping[UUID, Effect]) -> Effect:
    """Change these jobs alone."""

    def effect(job: UUID, before: Standing) -> set[Standing]:
        return effects[job](job, before) if job in effects else {before}

    return effect


def then(first: Effect, second: Effect) -> Effect:
    def effect(job: UUID, before: Standing) -> set[Standing]:
        return {after for between in first(job, before) for after in second(job, between)}

    return effect


def either(first: Effect, second: Effect) -> Effect:
    def effect(job: UUID, before: Standing) -> set[Standing]:
        return first(job, before) | second(job, before)

    return effect


def missing(effect: Effect, moved: Callable[[UUID], bool]) -> Effect:
    """Perhaps leave these jobs as they are, since they are not where they were looked for."""

    def some(job: UUID, before: Standing) -> set[Standing]:
        return effect(job, before) | ({before} if moved(job) else set())

    return some


def _none(_: UUID) -> bool:
    return False


async def _no_check(_: Any) -> None:
    """Nothing to check."""


@dataclass(slots=True, kw_only=True)
class Step:
    """Something that is done to the ledger."""

    says: str
    call: Callable[[], Awaitable[Any]]
    effect: Effect = nothing
    raises: tuple[type[Exception], ...] = ()
    """What it may end with; then it has changed nothing."""
    is_fenced: bool = False
    """Whether it does nothing if the leader or the controls change first, and misses the jobs that have moved."""
    moves_fence: bool = False
    """Whether it may change the leader or the controls."""
    moves: Callable[[UUID], bool] = _none
    """Which jobs that wait may stand at another place afterwards."""
    is_atomic: bool = True
    """Whether it is one transaction."""
    makes_jobs: bool = False
    """Whether jobs may come of it that the test does not know."""
    learn: Callable[[Any], Awaitable[None]] = _no_check
    """Checks the answer, and learns from it. Not called if the answer was lost."""


@dataclass(slots=True)
class Leader:
    """A broker that believes it leads, and the controls that it has read."""

    name: str
    term: int = 0
    controls: Controls = field(default_factory=Controls)
    picks: list[Pick] = field(default_factory=list)
    """What it chose before, and has not dispatched."""
    chosen_by: int = 0
    """The version of the controls that it chose by."""


class World:
    """One ledger with one history."""

    def __init__(self, ledger: Ledger, reader: Reader, hand: Connection, *, cut: Cut, clock: "Clock") -> None:
        self.ledger, self.reader, self.hand, self.cut, self.clock = ledger, reader, hand, cut, clock
        self.jobs: dict[UUID, Known] = {}
        self.seen: dict[UUID, Seen] = {}
        self.batches: dict[UUID, tuple[str, Lane]] = {}
        self.seen_batches: dict[UUID, SeenBatch] = {}
        self.messages: list[list[Entry]] = []
        """Submitted before, to come again."""
        self.keys: dict[tuple[str, str], UUID] = {}
        self.attempts: list[Attempt] = []
        self.reports: dict[UUID, Report] = {}
        """What each execution came to."""
        self.groups: list[list[Verdict]] = []
        """Settled before, to come again."""
        self.pending: list[list[Verdict]] = []
        """Decided and not settled yet."""
        self.pauses: set[tuple[PauseKind, str]] = set()
        self.changes = 0
        """How many changes should have an audit row, at least."""
        self.leaders = (Leader("A"), Leader("B"))
        self.fences = (0, 1)
        """The newest term, and the version of the controls."""
        self.new: set[UUID] = set()
        """Jobs that have just been made by an instruction."""
        self.retries: list[tuple[BatchRetry, str]] = []
        """Those that were given, each with its tenant."""
        self.replays: list[tuple[Replay, str]] = []
        self.requeued: set[UUID] = set()
        """The batches that requeues have made."""
        self.is_racing = False
        self.steps = 0
        self._entropy = 0

    @property
    def retried(self) -> set[UUID]:
        """The batches that retries, replays and requeues have made."""
        return self.requeued | {ask.id for ask, _ in self.retries} | {ask.id for ask, _ in self.replays}

    @property
    def now(self) -> Ms:
        return self.clock.now

    def new_id(self, at: int = 0) -> UUID:
        self._entropy += 1
        return uuid7(Ms(self.now + at), (self._entropy << 40) | self._entropy)

    def standing(self, job: UUID) -> Standing:
        return self.seen[job].standing if job in self.seen else ABSENT

    def open_jobs(self, *places: str) -> list[UUID]:
        return [job for job, seen in self.seen.items() if seen.standing.place in places]

    def name(self, job: UUID) -> str:
        return f"#{self.jobs[job].number}" if job in self.jobs else str(job)

    def know(self, job: UUID, known: Known) -> None:
        self.jobs.setdefault(job, known)

    def is_held(self, job: UUID) -> str | None:
        """What holds the job back, as far as the test knows."""
        known = self.jobs[job]
        names = {
            PauseKind.MODEL: known.model,
            PauseKind.LANE: str(known.lane),
            PauseKind.TENANT: known.tenant,
            PauseKind.BATCH: str(known.batch),
        }
        found = [f"{kind} {name}" for kind, name in names.items() if (kind, name) in self.pauses]
        if known.batch is not None and self.seen_batches[known.batch].cancel_ms is not None:
            found.append(f"batch {known.batch} is cancelled")
        return ", ".join(found) or None

    async def do(self, step: Step, cut_after: int | None = None) -> None:
        """Do a step, and cut its connection after so many statements if asked to. Check what changed."""
        self.cut.set(cut_after)
        try:
            answer = await self._answer(step)
        finally:
            was_cut = self.cut.was_made
            self.cut.set(None)
        if not was_cut and not isinstance(answer, Exception):
            await step.learn(answer)
        failed = isinstance(answer, Exception)
        effects = [nothing] if failed and not was_cut else [step.effect]
        if was_cut:
            effects = [nothing, step.effect] if step.is_atomic else [either(nothing, step.effect)]
        await self.check(effects, [step])

    async def _answer(self, step: Step) -> Any:
        try:
            return await step.call()
        except step.raises as error:
            return error
        except Unavailable as error:
            if not self.cut.was_made:
                raise
            return error

    async def do_both(self, one: Step, other: Step, held: str) -> None:
        """Do two steps at once: afterwards all must be as if one had come after the other.

        All rows of the table `held` are locked until both wait for them, or are done.
        """
        self.is_racing = True
        try:
            await self._do_both(one, other, held)
        finally:
            self.is_racing = False

    async def _do_both(self, one: Step, other: Step, held: str) -> None:
        holding = self.reader.connection.transaction()
        await holding.start()
        try:
            await self.reader.connection.execute(f"select from infermq.{held} for update")
            tasks = []
            for step in (one, other):
                tasks.append(asyncio.create_task(self._answer(step)))
                await self._until_waiting(tasks)
        finally:
            await holding.rollback()
        answers = await asyncio.gather(*tasks)
        for step, answer in zip((one, other), answers, strict=True):
            if not isinstance(answer, Exception):
                await step.learn(answer)
        effects = [then(one.effect, other.effect), then(other.effect, one.effect)]
        for step, rest, answer in ((one, other, answers[0]), (other, one, answers[1])):
            if isinstance(answer, Exception) or (step.is_fenced and rest.moves_fence):
                effects.append(rest.effect)
            if step.is_fenced:
                effects.append(then(rest.effect, missing(step.effect, rest.moves)))
        if not (one.is_atomic and other.is_atomic):
            effects = [either(effects[0], effects[1])]
        await self.check(effects, [one, other])

    async def _until_waiting(self, tasks: Sequence[asyncio.Task[Any]]) -> None:
        """Wait until each task is done, or waits for a lock."""
        for _ in range(200):
            left = sum(not task.done() for task in tasks)
            if await self.hand.fetchval(_WAITING) >= left:
                return
            await asyncio.sleep(0.002)

    async def check(self, effects: Sequence[Effect], steps: Sequence[Step]) -> None:
        """Check that the jobs stand as one of these effects says, and learn how they stand."""
        before, read = self.seen, await self.reader.read()
        after, batches = read.jobs, read.batches
        said = " and ".join([step.says for step in steps])
        self._know_new(after, said, may_be=any(step.makes_jobs for step in steps))
        faults = [self._faults(effect, after) for effect in effects]
        assert not all(faults), f"{said}: " + " | or ".join("; ".join(some[:5]) for some in faults)
        self.new.clear()
        self._check_ends(before, after, said)
        self._check_batches(batches, said)
        self.seen, self.seen_batches, self.fences, self.pauses = after, batches, read.fences, read.pauses
        for job, seen in after.items():
            if job in self.jobs:
                known = self.jobs[job]
                known.deadline_ms, known.not_before_ms = seen.deadline_ms, seen.not_before_ms
                known.batch, known.lane, known.rank = seen.batch, seen.lane, seen.rank
        if not any(step.moves_fence for step in steps):
            self._check_starts(before, after, said)
        self.steps += 1
        if self.steps % 10 == 0:
            await self.check_all()

    def _know_new(self, after: Mapping[UUID, Seen], said: str, *, may_be: bool) -> None:
        """Get to know the jobs that an instruction has made."""
        for job in after.keys() - self.jobs.keys():
            seen = after[job]
            assert may_be, f"{said}: made the job {job}, which nobody submitted"
            assert seen.standing in (Standing("waiting"), Standing("failed"), Standing("cancelled"))
            known = Known(len(self.jobs), seen.tenant, seen.model, seen.lane, seen.batch, seen.deadline_ms)
            self.jobs[job] = known
            self.new.add(job)

    def _faults(self, effect: Effect, after: Mapping[UUID, Seen]) -> list[str]:
        found = []
        for job in self.jobs.keys() - self.new:
            was, stands = self.standing(job), after[job].standing if job in after else ABSENT
            if stands not in (may := effect(job, was)):
                found.append(f"{self.name(job)} was {was}, is {stands}, and may be {_listed(may)}")
        return found

    def _check_ends(self, before: Mapping[UUID, Seen], after: Mapping[UUID, Seen], said: str) -> None:
        for job, seen in after.items():
            assert seen.places == 1, f"{said}: {self.name(job)} stands in {seen.places} places"
            was = before.get(job)
            if was is not None and not was.standing.is_open:
                assert (was.standing, was.answer) == (seen.standing, seen.answer), f"{said}: {self.name(job)} changed"

    def _check_batches(self, after: Mapping[UUID, SeenBatch], said: str) -> None:
        for batch, was in self.seen_batches.items():
            stands = after[batch]
            assert was.completed_ms in (None, stands.completed_ms), f"{said}: batch {batch} is complete no more"
            assert was.sealed in (None, stands.sealed), f"{said}: batch {batch} was sealed again"
            assert was.cancel_ms in (None, stands.cancel_ms), f"{said}: batch {batch} is cancelled no more"

    def _check_starts(self, before: Mapping[UUID, Seen], after: Mapping[UUID, Seen], said: str) -> None:
        """Nothing starts that is paused or cancelled."""
        for job, seen in after.items():
            was = before[job].standing if job in before else ABSENT
            if seen.standing.place == "running" and was != seen.standing and was.attempt < seen.standing.attempt:
                held = self.is_held(job)
                assert held is None, f"{said}: {self.name(job)} started, though held by {held}"

    async def check_all(self) -> None:
        """Compare the ledger with itself."""
        async with self.reader.connection.transaction(isolation="repeatable_read"):
            found = await disagreements(self.reader.connection)
            found += await broken_repeats(self.reader.connection)
        assert not found, "\n".join(found)
        changes = await self.reader.connection.fetchval("select count(*) from infermq.audit")
        assert changes >= self.changes, f"{self.changes} changes were made, and {changes} recorded"


def _listed(standings: Iterable[Standing]) -> str:
    return ", or ".join(sorted(repr(one) for one in standings))


@dataclass(slots=True)
class Clock:
    """Stands still until it is moved."""

    now: Ms

    def __call__(self) -> Ms:
        return self.now


@asynccontextmanager
async def a_world(template_url: str, clock: Clock, name: str) -> AsyncIterator[World]:
    """A ledger of its own, made from the template."""
    parts = urlsplit(template_url)
    url = urlunsplit(parts._replace(path=f"/{name}"))
    admin = await asyncpg.connect(urlunsplit(parts._replace(path="/postgres")))
    try:
        await admin.execute(f'create database "{name}" template "{parts.path.lstrip("/")}"')
        try:
            cut = Cut()
            small_pages = {
                InstructionKind.RETRY: partial(retry_page, page=2),
                InstructionKind.REQUEUE: partial(requeue_page, page=2),
                InstructionKind.CHANGE: partial(change_page, page=2),
            }
            async with open_ledger(
                url, clock=clock, connections=3, databases=interrupted(cut), steps={**STEPS, **small_pages}
            ) as ledger:
                await ledger.catalogs.apply(TOML, "a test", clock.now)
                connections = [await asyncpg.connect(url, server_settings={"application_name": "test"}) for _ in "rh"]
                try:
                    yield World(ledger, Reader(connections[0]), connections[1], cut=cut, clock=clock)
                finally:
                    for connection in connections:
                        await connection.close()
        finally:
            await admin.execute(f'drop database "{name}" with (force)')
    finally:
        await admin.close()
