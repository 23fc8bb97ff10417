"""Producers of all kinds at once, and what they were told: accepted, answered, announced."""

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

import msgspec

from broker.client import BacklogFull, Client, Reply, RequestRefused, RequestTimedOut, Submission, new_id
from broker.errors import Unavailable
from schemas import subjects
from schemas.api import ResultNotice
from schemas.clock import wall_clock
from schemas.codec import bundled, packed
from schemas.ids import line_id
from schemas.jetstream import Message, NatsError
from schemas.job import Lane
from schemas.outcome import Report, Succeeded, Timings, Usage
from schemas.ruling import Expire
from schemas.units import Ms
from tests.chaos.control import Orders

T = TypeVar("T")
TENANTS = ("default", "other")
_PASSING = (Unavailable, BacklogFull, RequestTimedOut, NatsError, OSError, TimeoutError)
_PATIENCE_S = 120.0
_LARGE = 200 * 1024
_notices = msgspec.json.Decoder(list[ResultNotice])


class JobKind(NamedTuple):
    """A kind of job, and how it may end."""

    weight: float
    model: str
    words: str
    tokens: tuple[int, int]
    ends: frozenset[str]


DONE = frozenset({"succeeded"})
CANCELLED = frozenset({"cancelled"})
KINDS: tuple[JobKind, ...] = (
    JobKind(50, "quick", "quick", (2, 20), DONE),
    JobKind(12, "slow", "slow", (4, 30), DONE),
    JobKind(3, "slow", "long", (80, 130), DONE),
    JobKind(3, "slow", "expires", (20, 80), frozenset({"succeeded", "expired", "failed"})),
    JobKind(3, "quick", "large", (2, 8), DONE),
    JobKind(5, "flaky", "fine", (2, 20), DONE),
    JobKind(4, "flaky", "once", (2, 20), DONE),
    JobKind(2, "flaky", "throttled", (2, 20), DONE),
    JobKind(1, "flaky", "hangs", (2, 20), DONE),
    JobKind(2, "flaky", "filtered", (2, 20), frozenset({"failed", "succeeded"})),
    JobKind(2, "flaky", "broken", (2, 20), frozenset({"succeeded", "dead"})),  # dead: the spare was away
    JobKind(2, "flaky", "hopeless", (2, 20), frozenset({"dead"})),
    JobKind(1, "nobody", "refused", (2, 20), frozenset({"failed"})),
)
_ORDERS = {"jobs": 4, "batch": 2, "many": 1, "pause": 2, "change": 3, "retry": 3, "replay": 1, "requeue": 1}
"""What people do, and how often."""
FORGER = "forger"
"""The worker that forged reports name."""
CALM = KINDS[:3]
"""What ends with one execution if nothing goes wrong."""


@dataclass(slots=True)
class Accepted:
    """A job that some producer was told to be accepted."""

    submission: Submission
    tenant: str
    ends: frozenset[str]
    at_s: float
    """When its submission began: of several messages, the first may be acknowledged long before the producer is told."""


@dataclass(slots=True)
class Told:
    """What the producers were told."""

    accepted: dict[UUID, Accepted] = field(default_factory=dict)
    batches: dict[UUID, int] = field(default_factory=dict)
    """How many jobs each sealed batch has."""
    owners: dict[UUID, str] = field(default_factory=dict)
    """The tenant of each batch."""
    replies: dict[UUID, tuple[bytes, float]] = field(default_factory=dict)
    announced: dict[UUID, tuple[str, float]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    """What can be seen to be wrong without the ledger."""
    counts: Counter[str] = field(default_factory=Counter)


class Load:
    """Runs producers while it is open."""

    def __init__(
        self, clients: dict[str, Client], seed: int, *, forges: bool, orders: bool = False, size: int = 1
    ) -> None:
        """`size`: how large batches are."""
        self._size = size
        self.told = Told()
        self.longest_pause_s = 0.0
        self._clients = clients
        self._forges = forges
        self._chance = random.Random(seed)
        self._is_open = asyncio.Event()
        self._busy = 0
        self._last_s = time.monotonic()
        self._kinds: tuple[JobKind, ...] = KINDS
        self._orders = orders
        self.orders = Orders(clients, random.Random(seed + 1), self._until_done)

    def open(self, *, is_calm: bool = False) -> None:
        self._kinds = CALM if is_calm else KINDS
        self._last_s = time.monotonic()
        self._is_open.set()

    def close(self) -> None:
        """Nothing new is begun."""
        self._note_pause()
        self._is_open.clear()

    def client(self, tenant: str) -> Client:
        return self._clients[tenant]

    def is_idle(self) -> bool:
        return not self._busy

    async def run(self) -> None:
        """Until cancelled."""
        await self._listen()
        async with asyncio.TaskGroup() as group:
            for tenant in TENANTS:
                group.create_task(self._again_and_again(tenant, self._batch, 0.8))
                group.create_task(self._again_and_again(tenant, self._single, 0.1))
                group.create_task(self._again_and_again(tenant, self._whole, 0.15))
                group.create_task(self._again_and_again(tenant, self._stream, 0.3))
                if self._orders:
                    group.create_task(self._again_and_again(tenant, self._order, 0.5))
            if self._forges:
                group.create_task(self._again_and_again(TENANTS[0], self._forge, 0.2))

    async def submit_again(self, job: UUID) -> None:
        """A job that was lost with the store that had it, as its producer would."""
        one = self.told.accepted[job]
        one.at_s = time.monotonic()
        await self._until_done(lambda: self._clients[one.tenant].submit_many([one.submission]))

    async def _order(self, tenant: str) -> None:
        """Cancel or pause what is under way, or repeat what has ended; in calm times, nothing."""
        if self._kinds is CALM:
            return
        names, weights = zip(*_ORDERS.items(), strict=True)
        act = self._chance.choices(names, weights)[0]
        own = [job for job, one in self.told.accepted.items() if one.tenant == tenant]
        batches = [batch for batch in self.told.batches if self.told.owners[batch] == tenant][-3:]
        if act == "pause":
            await self.orders.pause(tenant, batches[-1] if batches else None)
        elif act == "requeue":
            await self.orders.requeue(tenant)
        elif act == "many":
            await self.orders.cancel_many(tenant, self._chance.choice(("quick", "slow", "flaky")))
        elif act == "jobs" and own:
            await self._cancel_jobs(tenant, self._chance.sample(own, min(len(own), self._chance.randint(1, 5))))
        elif act == "batch" and batches:
            await self._cancel_batch(tenant, self._chance.choice(batches))
        elif act == "change" and own:
            batch = self._chance.choice((None, *batches))
            await self.orders.change(tenant, self._chance.choice(own[-100:]), batch)
        elif act in ("retry", "replay") and (settled := await self._some_settled(tenant)) is not None:
            await (self.orders.retry(*settled) if act == "retry" else self.orders.replay(*settled))

    async def _some_settled(self, tenant: str) -> tuple[str, UUID] | None:
        """One that was complete when all was compared; else one that is complete now."""
        own = [batch for batch in self.told.batches if self.told.owners[batch] == tenant]
        if (settled := self.orders.some_settled()) is not None or not own:
            return settled
        shown = await self._until_done(lambda: self._clients[tenant].batch(own[len(own) // 3]))
        return None if shown.completed_ms is None else (tenant, shown.id)

    async def _cancel_jobs(self, tenant: str, jobs: list[UUID]) -> None:
        for job in jobs:
            self.told.accepted[job].ends |= CANCELLED
        await self.orders.cancel_jobs(tenant, jobs)

    async def _cancel_batch(self, tenant: str, batch: UUID) -> None:
        for one in self.told.accepted.values():
            if one.submission.job.batch == batch:
                one.ends |= CANCELLED
        await self.orders.cancel_batch(tenant, batch)

    async def _forge(self, tenant: str) -> None:
        """Say, as somebody who may publish and has no seal, that a job has succeeded or that its time is over."""
        if not self.told.accepted:
            return
        job = self._chance.choice(list(self.told.accepted))
        if self._chance.random() < 0.5:
            subject, forged = subjects.RULING, packed(Expire(job))
        else:
            subject = subjects.outcome(self._chance.choice(("fast", "steady", "flaky")))
            forged = packed(a_forged_report(job, subject.rpartition(".")[2], seal=self._chance.randbytes(16)))
        with contextlib.suppress(*_PASSING):
            await self._clients[tenant].nats.publish(subject, bundled([forged]))
            self.told.counts["forged"] += 1

    async def _listen(self) -> None:
        for tenant, client in self._clients.items():
            await client.nats.subscribe(f"infermq.result.{tenant}.*", cb=self._on_notice)

    async def _on_notice(self, message: Message) -> None:
        self._note_pause()
        for notice in _notices.decode(message.data):
            before = self.told.announced.setdefault(notice.job, (str(notice.state), time.monotonic()))
            if before[0] != str(notice.state):
                self.told.wrong.append(f"job {notice.job} was announced as {before[0]}, then as {notice.state}")

    def _note_pause(self) -> None:
        now = time.monotonic()
        if self._is_open.is_set():
            self.longest_pause_s = max(self.longest_pause_s, now - self._last_s)
        self._last_s = now

    async def _again_and_again(self, tenant: str, act: Callable[[str], Awaitable[None]], pause_s: float) -> None:
        while True:
            await self._is_open.wait()
            self._busy += 1
            try:
                await act(tenant)
            finally:
                self._busy -= 1
            await asyncio.sleep(self._chance.uniform(0, 2 * pause_s))

    async def _until_done(self, act: Callable[[], Awaitable[T]]) -> T:
        """Try again and again, as a producer does that was not told yes."""
        end = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return await act()
            except _PASSING as error:
                self.told.counts["refusals that pass"] += 1
                if time.monotonic() > end:
                    self.told.wrong.append(
                        f"a producer tried for {_PATIENCE_S:.0f} s: {type(error).__name__}: {error}"
                    )
                    raise
                await asyncio.sleep(0.3)

    def _kind(self) -> JobKind:
        return self._chance.choices(self._kinds, [kind.weight for kind in self._kinds])[0]

    def _submission(self, kind: JobKind, job: UUID, **more: Any) -> Submission:
        deadline = wall_clock() + self._chance.randrange(1500, 5000) if kind.words == "expires" else None
        return Submission.of(kind.model, self._body(kind), id=job, deadline_ms=deadline, custom_id=str(job), **more)

    def _body(self, kind: JobKind) -> bytes:
        words = f"{kind.words} {self._chance.getrandbits(64):x}" + "x" * (_LARGE if kind.words == "large" else 0)
        tokens = self._chance.randint(*kind.tokens)
        return json.dumps({"messages": [{"role": "user", "content": words}], "max_tokens": tokens}).encode()

    def _accept(self, tenant: str, submission: Submission, ends: frozenset[str], *, began_s: float) -> None:
        assert submission.job.id is not None
        self.told.accepted[submission.job.id] = Accepted(submission, tenant, ends, began_s)
        self.told.counts["jobs"] += 1

    async def _batch(self, tenant: str) -> None:
        client = self._clients[tenant]
        batch = (await self._until_done(client.create_batch)).id
        kinds = [self._kind() for _ in range(self._size * self._chance.choice((10, 30, 60)))]
        jobs = []
        for line, kind in enumerate(kinds, 1):
            one = self._submission(kind, line_id(batch, line))
            jobs.append(msgspec.structs.replace(one.job, batch=batch, line=line))
        submissions = [Submission(kind.model, job, Lane.BULK) for kind, job in zip(kinds, jobs, strict=True)]
        began_s = time.monotonic()
        await self._until_done(lambda: client.submit_many(submissions))
        for kind, one in zip(kinds, submissions, strict=True):
            self._accept(tenant, one, kind.ends, began_s=began_s)
        await self._until_done(lambda: client.seal(batch, jobs=len(jobs)))
        self.told.batches[batch] = len(jobs)
        self.told.owners[batch] = tenant

    async def _single(self, tenant: str) -> None:
        kind = self._kind()
        one = self._submission(kind, new_id(), lane=self._chance.choice((Lane.STANDARD, Lane.INTERACTIVE, Lane.BULK)))
        began_s = time.monotonic()
        await self._until_done(lambda: self._clients[tenant].submit_many([one]))
        self._accept(tenant, one, kind.ends, began_s=began_s)

    async def _whole(self, tenant: str) -> None:
        kind = self._kind()
        self.told.counts["requests"] += 1
        try:
            self._answered(await self._clients[tenant].infer(kind.model, self._body(kind), timeout_s=6.0))
        except (RequestRefused, *_PASSING):
            self.told.counts["requests without an answer"] += 1

    async def _stream(self, tenant: str) -> None:
        kind = self._kind()
        leaves = self._chance.random() < 0.2
        self.told.counts["requests"] += 1
        try:
            async with contextlib.aclosing(
                self._clients[tenant].infer_stream(kind.model, json.loads(self._body(kind)), timeout_s=6.0)
            ) as steps:
                async for step in steps:
                    if isinstance(step, Reply):
                        self._answered(step)
                    elif leaves:
                        return
        except (RequestRefused, *_PASSING):
            self.told.counts["requests without an answer"] += 1

    def _answered(self, reply: Reply) -> None:
        self.told.counts["replies"] += 1
        if reply.job is not None:
            self.told.replies[reply.job] = (reply.body, time.monotonic())


def a_forged_report(job: UUID, deployment: str, *, seal: bytes) -> Report:
    return Report(
        job=job,
        attempt=1,
        delivery=1,
        execution=new_id(),
        deployment=deployment,
        worker=FORGER,
        outcome=Succeeded(body=b'"forged"', usage=Usage(1, 1)),
        timings=Timings(started_ms=wall_clock(), queue_ms=Ms(1), run_ms=Ms(1)),
        seal=seal,
    )


@asynccontextmanager
async def a_load(
    nats_url: str, seed: int, *, forges: bool, orders: bool = False, size: int = 1
) -> AsyncIterator[Load]:
    """Running, and closed at first."""
    async with AsyncExitStack() as stack:
        clients = {
            tenant: await stack.enter_async_context(Client.connect(nats_url, tenant=tenant)) for tenant in TENANTS
        }
        load = Load(clients, seed, forges=forges, orders=orders, size=size)
        running = asyncio.create_task(load.run())
        try:
            yield load
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
