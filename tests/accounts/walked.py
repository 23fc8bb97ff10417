"""A guarded system with two tenants, two deployments, and a key of each role, in which everything may be tried."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from broker.config import BrokerConfig
from broker.core.keys import KeyRecord, hash_of
from broker.core.records import Audited
from broker.ledger import migrate, open_ledger
from broker.ledger.connection import Connection
from broker.local.servers import postgres_server
from broker.ports import Ledger
from broker.serve import Addresses, serve
from schemas.accounts import Role
from schemas.api_keys import ApiKey
from schemas.job import Lane
from tests.accounts.nats import KEYS, Noting, a_guarded_nats, as_broker, as_holder
from tests.builders import an_id, now
from tests.sums import check_sums

CATALOG = """
[models.m]
[[models.m.route]]
deployment = "d"
[deployments.d]
engine = "simulated"
max_concurrency = 4
[deployments.d.price]
input = 1.0
output = 2.0

[models.n]
[[models.n.route]]
deployment = "e"
[deployments.e]
engine = "simulated"
max_concurrency = 4
[deployments.e.price]
input = 1.0
output = 2.0
"""


@dataclass(frozen=True, slots=True)
class Actor:
    """Somebody with a key."""

    name: str
    key: ApiKey
    role: Role
    deployment: str | None = None
    """Of a worker."""
    models: frozenset[str] | None = None
    """Those that it may use. None: all."""
    lanes: frozenset[Lane] | None = None

    @property
    def tenant(self) -> str:
        return self.key.tenant

    @property
    def inbox(self) -> str:
        return f"_INBOX_{self.key.id}"

    def record(self) -> KeyRecord:
        return KeyRecord(
            id=self.key.id,
            tenant=self.key.tenant,
            role=self.role,
            hash=hash_of(self.key.secret),
            deployments=None if self.deployment is None else frozenset({self.deployment}),
            models=self.models,
            lanes=self.lanes,
            created_ms=now(),
        )


def _actor(name: str, tenant: str, role: Role, **may: Any) -> Actor:
    short = name.replace(" ", "")
    return Actor(name, ApiKey(tenant, f"{short[:11]:0<12}", short.encode().ljust(32, b"0")), role, **may)


ANN = _actor("ann", "acme", Role.PRODUCER)
ADA = _actor("ada", "acme", Role.TENANT_ADMIN)
LEE = _actor("lee", "acme", Role.PRODUCER, models=frozenset({"m"}), lanes=frozenset({Lane.BULK}))
"""May use one model and one lane only."""
BOB = _actor("bob", "bobs", Role.PRODUCER)
BEA = _actor("bea", "bobs", Role.TENANT_ADMIN)
DEE = _actor("dee", "acme", Role.DEPLOYER)
OPS = _actor("ops", "default", Role.OPERATOR)
WORKER_D = _actor("worker d", "default", Role.WORKER, deployment="d")
WORKER_E = _actor("worker e", "default", Role.WORKER, deployment="e")
ACTORS = (ANN, ADA, LEE, BOB, BEA, DEE, OPS, WORKER_D, WORKER_E)
TENANTS = ("acme", "bobs")


class Walked:
    """What runs, and ways to look at it."""

    def __init__(self, url: str, api: str, database: Connection, ledger: Ledger, stack: AsyncExitStack) -> None:
        self.url = url
        self.api = api
        """The URL of the API over HTTP."""
        self.database = database
        self.ledger = ledger
        self._stack = stack

    async def as_(self, actor: Actor) -> Noting:
        return await self._stack.enter_async_context(as_holder(self.url, actor.key))

    async def as_broker(self, *account: object) -> Noting:
        return await self._stack.enter_async_context(as_broker(self.url, *account))  # type: ignore[arg-type]


@asynccontextmanager
async def a_walked_system(folder: Path) -> AsyncIterator[Walked]:
    """With a real broker. Connections that it makes end with it. Its sums must agree in the end."""
    preloaded = {"shared_preload_libraries": "pg_stat_statements"}
    async with (
        a_guarded_nats(folder / "nats", with_spy=True) as nats_url,
        postgres_server(folder / "pg", durable=False, settings=preloaded) as postgres_url,
    ):
        await migrate(postgres_url)
        async with AsyncExitStack() as stack:
            database = await asyncpg.connect(postgres_url)
            stack.push_async_callback(database.close)
            await database.execute("create extension pg_stat_statements")
            ledger = await stack.enter_async_context(open_ledger(postgres_url, clock=now, connections=4))
            await _make_accounts(ledger)
            api = await stack.enter_async_context(_a_broker(nats_url, postgres_url))
            yield Walked(nats_url, api, database, ledger, stack)
        await check_sums(postgres_url)


async def _make_accounts(ledger: Ledger) -> None:
    for tenant in TENANTS:
        await ledger.tenants.create(tenant, None, _by())
    for actor in ACTORS:
        assert await ledger.api_keys.create(actor.record(), _by()) is not None


def _by() -> Audited:
    return Audited(an_id(), now(), "default", "ops")


@asynccontextmanager
async def _a_broker(nats_url: str, postgres_url: str) -> AsyncIterator[str]:
    ready: asyncio.Future[Addresses] = asyncio.get_running_loop().create_future()
    config = BrokerConfig(nats_url=nats_url, postgres_url=postgres_url, name=f"b-{an_id()}")
    serving = asyncio.create_task(serve(config, ready=ready.set_result, nats_keys=KEYS))
    serving.add_done_callback(lambda _: ready.done() or ready.cancel())
    listens = await ready
    try:
        yield listens.api
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
