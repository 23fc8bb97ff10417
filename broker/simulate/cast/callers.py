"""Producers, callers and operators of a simulated world, and what they were told."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Iterator
from itertools import count
from typing import Any, TypeVar, cast
from uuid import UUID

import msgspec

from broker.client import BacklogFull, Client, Reply, RequestRefused, RequestTimedOut, Submission
from broker.client.nats_door import NatsDoor
from broker.errors import Unavailable
from broker.simulate.cast.catalogs import ENDPOINT_URL, catalog_of
from broker.simulate.cast.processes import Connect
from broker.simulate.cast.told import JobKind, Told, a_body, a_kind
from broker.simulate.world.world import Process
from schemas import subjects
from schemas.api import ResultNotice
from schemas.cancel import CancelChoice
from schemas.changes import Change
from schemas.control import PauseKind
from schemas.dead import DeadFilter, DeadRequeue
from schemas.ids import line_id, uuid7
from schemas.jetstream import Message, NatsError
from schemas.jetstream.client import NatsClient
from schemas.job import Lane
from schemas.listing import JobFilter
from schemas.repeats import ReplayChoice
from schemas.webhooks import EventType, WebhookCreate

T = TypeVar("T")
PASSING = (Unavailable, BacklogFull, RequestTimedOut, NatsError, OSError, TimeoutError)
_notices = msgspec.json.Decoder(list[ResultNotice])


class Caller:
    """A process of one tenant that does one thing after another, at random."""

    def __init__(self, process: Process, tenant: str, connect: Connect, told: Told, *, acts: int) -> None:
        self.process = process
        self.tenant = tenant
        self.told = told
        self._connect = connect
        self._acts = acts
        self._chance = process.random
        self._numbers = count(1)
        self._client: Client
        self._under_way = 0

    def new_id(self) -> UUID:
        return uuid7(self.process.wall_ms(), self._chance.getrandbits(74))

    async def main(self) -> None:
        """Do all that there is to do, then listen on."""
        async with self._connect(self.process, inboxes=subjects.inbox_prefix(self.tenant, subjects.DEFAULT)) as nc:
            door = NatsDoor(cast(NatsClient, nc), tenant=self.tenant, key=subjects.DEFAULT, ack_s=2.0)
            self._client = Client(door, call_s=4.0, patience_s=6.0, ids=self.new_id)
            await nc.subscribe(f"infermq.result.{self.tenant}.*", cb=self._on_notice)
            await self._work()
            self.process.say("has done all it wanted")

    async def _work(self) -> None:
        acts: tuple[tuple[float, Callable[[], Awaitable[None]]], ...] = (
            (4, self._batch), (4, self._single), (5, self._whole), (4, self._stream), (2, self._cancel_jobs),
            (1, self._cancel_batch), (1, self._cancel_many), (1, self._pause), (1, self._change), (1, self._retry),
            (1, self._replay), (1, self._requeue), (0.5, self._catalog),
        )  # fmt: skip
        await self._until_done(self._webhook)
        async with asyncio.TaskGroup() as group:
            for _ in range(self._acts):
                act = self._chance.choices([act for _, act in acts], [weight for weight, _ in acts])[0]
                group.create_task(self._tried(act))
                await asyncio.sleep(self._chance.expovariate(1.0))

    async def _tried(self, act: Callable[[], Awaitable[None]]) -> None:
        self.told.counted(act.__name__.strip("_"))
        try:
            await act()
        except RequestRefused as error:
            self.process.say(f"{act.__name__.strip('_')} refused: {error.problem.code}")

    async def _until_done(self, act: Callable[[], Awaitable[T]]) -> T:
        """Try again and again, as somebody does who was not told yes."""
        while True:
            try:
                return await act()
            except PASSING as error:
                self.process.say(f"tries again: {str(error) or type(error).__name__}")
                await asyncio.sleep(0.3 + self._chance.random())

    async def _on_notice(self, message: Message) -> None:
        for notice in _notices.decode(message.data):
            before = self.told.announced.setdefault(notice.job, str(notice.state))
            if before != str(notice.state):
                self.told.wrong.append(f"job {notice.job} was announced as {before}, then as {notice.state}")

    def _submission(self, kind: JobKind, job: UUID, lane: Lane) -> Submission:
        deadline = None
        if kind.words == "expires":
            deadline = self.process.wall_ms() + self._chance.randrange(500, 4000)
        body = json.dumps(a_body(self._chance, kind)).encode()
        return Submission.of(kind.model, body, id=job, lane=lane, deadline_ms=deadline, custom_id=str(job))

    def _accept(self, job: UUID, kind: JobKind, body: bytes, batch: UUID | None = None) -> None:
        self.told.accepted[job] = kind.ends
        self.told.bodies[job] = body
        self.told.tenant[job] = self.tenant
        if batch is not None:
            self.told.batch_of[job] = batch

    async def _webhook(self) -> None:
        await self._client.create_webhook(WebhookCreate(url=ENDPOINT_URL, events=tuple(EventType)))
        self.told.did["webhook-create"] += 1

    async def _batch(self) -> None:
        client = self._client
        batch = (await self._until_done(client.create_batch)).id
        kinds = [a_kind(self._chance) for _ in range(self._chance.choice((1, 4, 12, 30)))]
        jobs = [line_id(batch, line) for line in range(1, len(kinds) + 1)]
        ones = [self._submission(kind, job, Lane.BULK) for kind, job in zip(kinds, jobs, strict=True)]
        await self._until_done(lambda: client.submit_many(ones, batch_id=batch))
        for job, kind, one in zip(jobs, kinds, ones, strict=True):
            self._accept(job, kind, one.job.body, batch)
        self.told.tenant[batch] = self.tenant
        await self._until_done(lambda: client.seal(batch, jobs=len(jobs)))
        self.told.batches[batch] = len(jobs)

    async def _single(self) -> None:
        kind, job = a_kind(self._chance), self.new_id()
        one = self._submission(kind, job, self._chance.choice(tuple(Lane)))
        await self._until_done(lambda: self._client.submit_many([one]))
        self._accept(job, kind, one.job.body)

    async def _whole(self) -> None:
        kind = a_kind(self._chance)
        with self._passing(f"request {kind.words}"):
            self._answered(await self._client.infer(kind.model, a_body(self._chance, kind), timeout_s=6.0))

    async def _stream(self) -> None:
        kind, leaves = a_kind(self._chance), self._chance.random() < 0.3
        steps = self._client.infer_stream(kind.model, a_body(self._chance, kind), timeout_s=6.0)
        with self._passing(f"stream {kind.words}"):
            async with contextlib.aclosing(steps):
                async for step in steps:
                    if isinstance(step, Reply):
                        self._answered(step)
                    elif leaves:
                        return

    @contextlib.contextmanager
    def _passing(self, what: str) -> Iterator[None]:
        """Give up what does not come about because something is away."""
        try:
            yield
        except PASSING as error:
            self.process.say(f"gives up: {what}: {str(error) or type(error).__name__}")

    def _answered(self, reply: Reply) -> None:
        self.told.counted("replies")
        if reply.job is not None:
            self.told.replies[reply.job] = reply.body

    def _own(self, what: dict[UUID, Any]) -> list[UUID]:
        return [one for one in what if self.told.tenant.get(one) == self.tenant]

    async def _cancel_jobs(self) -> None:
        own = self._own(self.told.accepted)
        jobs = self._chance.sample(own, min(len(own), self._chance.randint(1, 5)))
        if jobs:
            self.told.meddled.update(jobs)
            await self._until_done(lambda: self._client.cancel_jobs(*jobs))

    async def _cancel_batch(self) -> None:
        if own := self._own(self.told.batches):
            batch = self._chance.choice(own)
            self.told.meddled.add(batch)
            await self._until_done(lambda: self._client.cancel_batch(batch))

    async def _cancel_many(self) -> None:
        self.told.all_meddled = True
        choice = CancelChoice(model=self._chance.choice(("quick", "flaky")), tenant=self.tenant)
        with contextlib.suppress(*PASSING):
            self._ordered((await self._client.cancel_many(choice)).id)
            self.told.did["cancel"] += 1

    async def _pause(self) -> None:
        """Pause something, and let it go on later, whatever happens meanwhile."""
        things = [
            (PauseKind.MODEL, "flaky"),
            (PauseKind.LANE, "bulk"),
            (PauseKind.DEPLOYMENT, "swift"),
            (PauseKind.TENANT, self.tenant),
            *((PauseKind.BATCH, str(batch)) for batch in self._own(self.told.batches)[-1:]),
        ]
        kind, name = self._chance.choice(things)
        with contextlib.suppress(*PASSING):
            await self._client.pause(kind, name)
        await asyncio.sleep(self._chance.random() * 5)
        await self._until_done(lambda: self._client.resume(kind, name))

    async def _change(self) -> None:
        change = Change(priority=self._chance.randrange(-5, 6))
        own = self._own(self.told.batches)
        with contextlib.suppress(*PASSING):
            if own and self._chance.random() < 0.5:
                self._ordered((await self._client.change_batch(self._chance.choice(own), change)).id)
            elif jobs := self._own(self.told.accepted):
                await self._client.change_job(self._chance.choice(jobs), change)

    async def _retry(self) -> None:
        if own := self._own(self.told.batches):
            with contextlib.suppress(*PASSING):
                self._ordered((await self._client.retry(self._chance.choice(own))).id)
                self.told.did["retry"] += 1

    async def _replay(self) -> None:
        if own := self._own(self.told.batches):
            with contextlib.suppress(*PASSING):
                choice = ReplayChoice(filter=JobFilter(batch=self._chance.choice(own)))
                self._ordered((await self._client.replay(choice)).id)
                self.told.did["replay"] += 1

    async def _requeue(self) -> None:
        with contextlib.suppress(*PASSING):
            await self._client.requeue(DeadRequeue(filter=DeadFilter(), limit=20))

    async def _catalog(self) -> None:
        text = catalog_of(swift_weight=self._chance.choice((1, 1, 3)))
        with contextlib.suppress(*PASSING):
            await self._client.apply_catalog(text)

    def _ordered(self, instruction: UUID) -> None:
        self.told.orders[instruction] = self.tenant
