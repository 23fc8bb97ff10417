"""A broker process of a simulated world: all its real roles, over a connection and a ledger in memory."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import count

from broker.config import BrokerConfig, BrokerRole
from broker.core.principal import Identify
from broker.core.webhooks import Answer
from broker.ports import Ledger
from broker.process import BrokerConnections, Outside, Pace, process_of
from broker.process import Process as BrokerProcess
from broker.roles.webhooks import Post
from broker.service import Services
from broker.simulate.api import plain_api
from broker.simulate.cast.hooks import Endpoint
from broker.simulate.cast.processes import Connect
from broker.simulate.cast.web import Web
from broker.simulate.world.world import Process
from schemas.jetstream import NatsConnection

VERSION = "0"
_NOWHERE = "memory://"
_PACE = Pace(refresh_s=5.0, later_s=2.0, reconcile_s=5.0, drop_s=4.0)


class SimulatedBroker:
    """One life of a broker."""

    def __init__(
        self,
        process: Process,
        connect: Connect,
        ledger: Ledger,
        *,
        endpoint: Endpoint,
        web: Web,
        lease_s: float,
    ) -> None:
        self.process = process
        self.parts: BrokerProcess | None = None
        self._connect = connect
        self._ledger = ledger
        self._endpoint = endpoint
        self._web = web
        self._lease_s = lease_s

    async def main(self) -> None:
        process = self.process
        config = BrokerConfig(
            nats_url=_NOWHERE,
            postgres_url=_NOWHERE,
            name=process.name,
            roles=frozenset(BrokerRole),
            lease_s=self._lease_s,
        )
        async with (
            self._connect(process, came_back=self._came_back) as nc,
            self._connect(process) as api,
        ):
            self.parts = process_of(
                config, self._ledger, BrokerConnections(nc, nc), self._outside(api), asks_keys=True, pace=_PACE
            )
            async with self._web.listening(process, self.parts.front):
                await self.parts.run(lambda: process.say("serves"))

    def _came_back(self) -> None:
        if self.parts is not None:
            self.parts.reconnected.set()

    def _outside(self, api: NatsConnection) -> Outside:
        process, numbers = self.process, count(1)

        def serving(services: Services, identify: Identify) -> AbstractAsyncContextManager[object]:
            return plain_api(api, services, identify, process.wall_ms)

        return Outside(
            clock=process.wall_ms,
            now_s=process.monotonic,
            entropy=lambda: process.random.getrandbits(80),
            unit=process.random.random,
            secret=process.random.randbytes,
            message_ids=lambda: f"{process.number}-{next(numbers)}",
            version=VERSION,
            api=serving,
            posting=self._posting,
        )

    @asynccontextmanager
    async def _posting(self) -> AsyncIterator[Post]:
        async def post(url: str, headers: Mapping[str, str], body: bytes) -> Answer:
            return await self._endpoint.take(url, headers, body)

        yield post
