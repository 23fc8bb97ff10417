"""A NATS server that asks brokers who may connect, and connections to it in every account."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from broker.core.accounts import Account
from broker.core.nats_config import nats_config
from broker.core.nats_keys import NatsKeys
from broker.local.servers import nats_server
from schemas.api_keys import ApiKey
from schemas.jetstream.client import NatsClient
from schemas.subjects import inbox_prefix

KEYS = NatsKeys(b"the secret of the brokers, of it")


class Noting(NatsClient):
    """Keeps what the server says against it."""

    def __init__(self) -> None:
        super().__init__()
        self.denied: list[str] = []

    async def note(self, error: Exception) -> None:
        self.denied.append(str(error))


@asynccontextmanager
async def a_guarded_nats(folder: Path, *, settings: str = "") -> AsyncIterator[str]:
    async with nats_server(folder, settings=nats_config(KEYS) + settings) as url:
        yield url


@asynccontextmanager
async def as_broker(url: str, account: Account = Account.BROKERS) -> AsyncIterator[NatsClient]:
    """Connect as a broker does, in one of its accounts."""
    async with _connected(url, nkeys_seed_str=KEYS.user_seed(account)) as nc:
        yield nc


@asynccontextmanager
async def as_holder(url: str, key: ApiKey) -> AsyncIterator["Noting"]:
    """Connect with a key. Raises: nats-py's error, if it is refused."""
    prefix = inbox_prefix(key.tenant, key.id)
    async with _connected(url, token=key.text(), inbox_prefix=prefix) as connected:
        yield connected


@asynccontextmanager
async def _connected(url: str, **options: object) -> AsyncIterator["Noting"]:
    nc = Noting()
    try:
        await nc.connect(url, allow_reconnect=False, error_cb=nc.note, **options)
        yield nc
    finally:
        await nc.close()
