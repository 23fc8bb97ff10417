"""Makes the first key of a system, in the ledger itself: whoever may write there needs no key to ask."""

import secrets

from broker.core.grants import Grant
from broker.core.keys import key_id
from broker.core.records import Audited
from broker.ledger import open_ledger
from schemas.accounts import KeyMade, Role
from schemas.api_keys import SECRET_BYTES, ApiKey
from schemas.clock import wall_clock
from schemas.ids import uuid7

BY = "infermq"
"""Who made it, in place of a tenant's key."""


class OperatorThere(Exception):
    """There is an operator's key already."""

    def __init__(self) -> None:
        super().__init__("there is an operator's key already: make others with `infermq key create`, or use --force")


class NoSuchTenant(Exception):
    """The tenant that the key should belong to is not there."""


def new_key(tenant: str) -> ApiKey:
    return ApiKey(tenant, key_id(secrets.randbits(80)), secrets.token_bytes(SECRET_BYTES))


def change_by(tenant: str, key: str) -> Audited:
    """Begin the record of a change that is made now, by somebody with the database and no key."""
    now = wall_clock()
    return Audited(uuid7(now, secrets.randbits(80)), now, tenant, key)


async def first_key(postgres_url: str, *, tenant: str, force: bool = False) -> KeyMade:
    """Make an operator's key. Raises: OperatorThere, unless forced; NoSuchTenant; Unavailable."""
    by, key = change_by(BY, BY), new_key(tenant)
    record = Grant(role=Role.OPERATOR, label="the first key").record(key, by.at_ms)
    async with open_ledger(postgres_url, clock=wall_clock, connections=1) as ledger:
        if await ledger.tenants.find(tenant, by.at_ms) is None:
            raise NoSuchTenant(f"there is no tenant {tenant[:63]!r}")
        made = await ledger.api_keys.first(record, by, force=force)
    if made is None:
        raise OperatorThere
    return KeyMade(made, key.text())
