"""Runs one broker process on this machine: its clock and chance, its connections to NATS and its pool to Postgres."""

import contextlib
import importlib.metadata
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import msgspec

from broker.blobs.stores import Stores
from broker.bus.connect import connected
from broker.config import BrokerConfig, BrokerRole
from broker.core.accounts import BROKERS_LIVE_IN, Account
from broker.core.nats_keys import NatsKeys
from broker.core.principal import Identify
from broker.doors.access_log import logged
from broker.doors.browsers import for_browsers
from broker.doors.health import App
from broker.doors.http.routes import UPLOADS
from broker.doors.nats_api import nats_api
from broker.doors.server import listening, shown_certificate
from broker.errors import CannotListen
from broker.ledger import open_ledger
from broker.ports import Entropy
from broker.posting import Posting
from broker.process import BrokerConnections, Outside, Pace, Process, process_of
from broker.roles.late_acks import LATER_S
from broker.roles.reconcile import EVERY_S
from broker.roles.webhooks import Post
from broker.service import Services
from schemas.clock import wall_clock
from schemas.ids import process_ids
from schemas.jetstream.client import NatsClient
from schemas.urls import is_loopback

_DRAWN_BYTES = 10
_DRAWN = 256
REFRESH_S = 5.0
"""Between two looks at what is announced and may have been missed, and at what costs a query to measure."""


def _random_bits() -> Iterator[int]:
    """Draw random numbers in blocks, since the system takes as long for one as for many."""
    while True:
        block = secrets.token_bytes(_DRAWN_BYTES * _DRAWN)
        for start in range(0, len(block), _DRAWN_BYTES):
            yield int.from_bytes(block[start : start + _DRAWN_BYTES])


entropy: Entropy = _random_bits().__next__
"""80 random bits. Of the event loop's thread only."""


def unit() -> float:
    return secrets.randbelow(1 << 53) / (1 << 53)


def version() -> str:
    return importlib.metadata.version("infermq")


class Addresses(msgspec.Struct, frozen=True):
    """Where a broker listens."""

    http: str
    """The URL of /metrics, /livez and /readyz."""
    api: str
    """The URL of the API over HTTP. Empty: it serves none."""


async def serve(
    config: BrokerConfig,
    *,
    ready: Callable[[Addresses], None],
    nats_keys: NatsKeys | None = None,
    refresh_s: float = REFRESH_S,
    later_s: float = LATER_S,
    reconcile_s: float = EVERY_S,
) -> None:
    """Run a broker until cancelled. `ready` is called with where it listens once it takes requests.

    It waits for NATS, and serves what it can while Postgres is away. `nats_keys`: those that the servers of NATS were
    configured with; without them whoever reaches NATS may do everything. Raises: Unavailable, CannotListen, Conflict.
    """
    if nats_keys is None and not is_loopback(config.api_host):
        raise CannotListen(
            f"--api-host {config.api_host}: without keys only this machine may call (infermq nats-config)"
        )
    clients = _clients(keyed=nats_keys is not None)
    connections = BrokerConnections(
        clients[Account.BROKERS], clients.get(Account.TENANTS, clients[Account.BROKERS]), clients.get(Account.SYSTEM)
    )
    opened = open_ledger(
        config.postgres_url,
        clock=wall_clock,
        connections=config.database_connections,
        stores=partial(Stores, url=config.files, new_mark=secrets.token_hex(8)),
    )
    async with opened as ledger:
        process = process_of(
            config,
            ledger,
            connections,
            _outside(config, nats_keys),
            nats_keys=nats_keys,
            pace=Pace(refresh_s, later_s, reconcile_s),
        )
        async with (
            listening(process.app(), option="http", host=config.http_host, port=config.http_port) as url,
            _listening_front(process) as api_url,
            _connected(config, nats_keys, clients, came_back=process.reconnected.set),
        ):
            await process.run(lambda: ready(Addresses(url, api_url)))


def _clients(*, keyed: bool) -> dict[Account, NatsClient]:
    """Make a client for each account. Without keys there is one account for all."""
    return {account: NatsClient() for account in (BROKERS_LIVE_IN if keyed else (Account.BROKERS,))}


def _outside(config: BrokerConfig, nats_keys: NatsKeys | None) -> Outside:
    """Return the clocks and the chance of this machine, and the libraries that reach callers from it."""
    seed = None if nats_keys is None else nats_keys.user_seed(Account.TENANTS)

    def api(services: Services, identify: Identify) -> AbstractAsyncContextManager[object]:
        return nats_api(
            config.nats_url,
            services,
            name=config.name,
            connection=NatsClient,
            identify=identify,
            clock=wall_clock,
            seed=seed,
            trust=config.trust,
        )

    @asynccontextmanager
    async def posting() -> AsyncIterator[Post]:
        async with Posting.opened(config.webhooks.targets(), agent=f"infermq/{version()}") as opened:
            yield opened.post

    return Outside(
        clock=wall_clock,
        now_s=time.monotonic,
        entropy=entropy,
        unit=unit,
        secret=secrets.token_bytes,
        message_ids=process_ids(os.getpid(), os.urandom(6)).__next__,
        version=version(),
        api=api,
        posting=posting,
    )


@asynccontextmanager
async def _connected(
    config: BrokerConfig,
    nats_keys: NatsKeys | None,
    clients: Mapping[Account, NatsClient],
    *,
    came_back: Callable[[], None],
) -> AsyncIterator[None]:
    """Connect in each account while the block runs."""
    async with contextlib.AsyncExitStack() as stack:
        for account, client in clients.items():
            seed = None if nats_keys is None else nats_keys.user_seed(account)
            name = f"infermq-broker-{config.name}" + ("" if account is Account.BROKERS else f" in {account}")
            back = came_back if account is Account.BROKERS else lambda: None
            connection = connected(
                config.nats_url, name=name, came_back=back, client=client, seed=seed, trust=config.trust
            )
            await stack.enter_async_context(connection)
        yield


def _listening_front(process: Process) -> AbstractAsyncContextManager[str]:
    """Serve the API over HTTP while the block runs, if that is among its roles; the value is the URL."""
    if BrokerRole.HTTP not in process.config.roles:
        return contextlib.nullcontext("")
    api = process.config.api
    app: App = process.front
    if api.cors_origins:
        app = for_browsers(app, api.cors_origins)
    if api.access_log:
        app = logged(app)
    return listening(
        app,
        option="api",
        host=process.config.api_host,
        port=process.config.api_port,
        uploads=UPLOADS,
        limits=api.limits,
        tls=None if api.certificate is None else shown_certificate(api.certificate, api.certificate_key),
        cut=process.metrics.http_cut,
    )
