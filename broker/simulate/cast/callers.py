"""Those who use a simulated world over NATS: they submit, ask and order, at random."""

from collections.abc import Awaitable, Callable
from typing import cast

import msgspec

from broker.client import Client, RequestRefused
from broker.client.nats_door import NatsDoor
from broker.simulate.cast.acting import Actor, act_at_random
from broker.simulate.cast.asking import Asking
from broker.simulate.cast.catalogs import ENDPOINT_URL
from broker.simulate.cast.key_makers import KeyMaker
from broker.simulate.cast.keys import Keyring
from broker.simulate.cast.meddling import Meddler
from broker.simulate.cast.processes import Connect
from broker.simulate.cast.producing import Producer
from broker.simulate.cast.reading import Reader
from broker.simulate.cast.told import Told
from broker.simulate.world.world import Process
from schemas import subjects
from schemas.api import ResultNotice
from schemas.jetstream import Message
from schemas.jetstream.client import NatsClient
from schemas.webhooks import EventType, WebhookCreate

_notices = msgspec.json.Decoder(list[ResultNotice])


class Caller:
    """A process of one tenant that does one thing after another, at random."""

    def __init__(
        self, process: Process, tenant: str, connect: Connect, told: Told, keys: Keyring, *, acts: int
    ) -> None:
        self.process = process
        self.tenant = tenant
        self.told = told
        self._connect = connect
        self._keys = keys
        self._acts = acts
        self._chance = process.random
        self._client: Client
        self._asking: Asking

    async def main(self) -> None:
        """Do all that there is to do, then listen on."""
        async with self._connect(
            self.process, inboxes=subjects.inbox_prefix(self.tenant, self._keys.lasting[self.tenant].id)
        ) as nc:
            door = NatsDoor(
                cast(NatsClient, nc), tenant=self.tenant, key=self._keys.lasting[self.tenant].id, ack_s=2.0
            )
            self._asking = Asking(self.process, self.tenant, self.told, door)
            self._client = Client(door, call_s=4.0, patience_s=6.0, ids=self.process.new_id)
            await nc.subscribe(f"infermq.result.{self.tenant}.*", cb=self._on_notice)
            await self._work(Actor(self.process, self._client, self.tenant, self.told))
            self.process.say("has done all it wanted")

    async def _work(self, actor: Actor) -> None:
        acts = (
            *Producer(actor).acts(),
            (5, self._asking.whole),
            (4, self._asking.stream),
            *Meddler(actor).acts(),
            *Reader(actor).acts(),
            *KeyMaker(actor, self._keys).acts(),
        )
        await actor.until_done(self._webhook)
        await act_at_random(self._chance, acts, self._acts, do=self._tried, every_s=1.0)

    async def _tried(self, act: Callable[[], Awaitable[None]]) -> None:
        self.told.counted(act.__name__.strip("_"))
        try:
            await act()
        except RequestRefused as error:
            self.process.say(f"{act.__name__.strip('_')} refused: {error.problem.code}")

    async def _on_notice(self, message: Message) -> None:
        for notice in _notices.decode(message.data):
            self.told.hear_end(notice.job, str(notice.state))

    async def _webhook(self) -> None:
        await self._client.create_webhook(WebhookCreate(url=ENDPOINT_URL, events=tuple(EventType)))
        self.told.did["webhook-create"] += 1
