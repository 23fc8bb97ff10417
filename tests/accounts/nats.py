"""A NATS server that asks brokers who may connect, and connections to it in every account."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from broker.core.accounts import Account
from broker.core.nats_config import nats_config
from broker.core.nats_keys import NatsKeys
from broker.local.servers import ANY_PORT, nats_server
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
async def a_guarded_nats(
    folder: Path, *, settings: str = "", with_spy: bool = False, port: int = ANY_PORT
) -> AsyncIterator[str]:
    """`with_spy`: `as_broker` may connect among the workers too, where no broker has business."""
    config = nats_config(KEYS)
    if with_spy:
        config = _with_user(config, Account.WORKERS)
    async with nats_server(folder, port=port, settings=config + settings) as url:
        yield url


def _with_user(config: str, account: Account) -> str:
    """Let a user of ours into an account that has none."""
    user = KEYS.public_user(account)
    for before, after in (
        (f"  {account} {{\n    users: [  ]", f'  {account} {{\n    users: [ {{ nkey: "{user}" }} ]'),
        ("auth_users: [ ", f'auth_users: [ "{user}", '),
    ):
        assert config.count(before) == 1
        config = config.replace(before, after)
    return config


@asynccontextmanager
async def as_broker(url: str, account: Account = Account.BROKERS) -> AsyncIterator["Noting"]:
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
async def _connected(url: str, **options: Any) -> AsyncIterator["Noting"]:
    nc = Noting()
    try:
        await nc.connect(url, allow_reconnect=False, error_cb=nc.note, **options)
        yield nc
    finally:
        await nc.close()
