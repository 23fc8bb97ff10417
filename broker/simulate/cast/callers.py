"""Those who use a simulated world over NATS: they submit, ask and order, at random."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import cast
from uuid import UUID

import msgspec

from broker.client import Client, Reply, RequestRefused
from broker.client.nats_door import NatsDoor
from broker.simulate.cast.acting import PASSING, Actor
from broker.simulate.cast.catalogs import ENDPOINT_URL
from broker.simulate.cast.meddling import Meddler
from broker.simulate.cast.processes import Connect
from broker.simulate.cast.producing import Producer
from broker.simulate.cast.told import Told, a_body, a_kind
from broker.simulate.world.world import Process
from schemas import subjects
from schemas.api import ResultNotice
from schemas.ids import uuid7
from schemas.jetstream import Message
from schemas.jetstream.client import NatsClient
from schemas.webhooks import EventType, WebhookCreate

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
        self._client: Client

    async def main(self) -> None:
        """Do all that there is to do, then listen on."""
        async with self._connect(self.process, inboxes=subjects.inbox_prefix(self.tenant, subjects.DEFAULT)) as nc:
            door = NatsDoor(cast(NatsClient, nc), tenant=self.tenant, key=subjects.DEFAULT, ack_s=2.0)
            self._client = Client(door, call_s=4.0, patience_s=6.0, ids=self._new_id)
            await nc.subscribe(f"infermq.result.{self.tenant}.*", cb=self._on_notice)
            await self._work(Actor(self.process, self._client, self.tenant, self.told))
            self.process.say("has done all it wanted")

    def _new_id(self) -> UUID:
        return uuid7(self.process.wall_ms(), self._chance.getrandbits(74))

    async def _work(self, actor: Actor) -> None:
        acts = (*Producer(actor).acts(), (5, self._whole), (4, self._stream), *Meddler(actor).acts())
        await actor.until_done(self._webhook)
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

    async def _on_notice(self, message: Message) -> None:
        for notice in _notices.decode(message.data):
            before = self.told.announced.setdefault(notice.job, str(notice.state))
            if before != str(notice.state):
                self.told.wrong.append(f"job {notice.job} was announced as {before}, then as {notice.state}")

    async def _webhook(self) -> None:
        await self._client.create_webhook(WebhookCreate(url=ENDPOINT_URL, events=tuple(EventType)))
        self.told.did["webhook-create"] += 1

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
