"""Describes who calls. Every door makes a principal out of what the caller shows; services take it as first argument."""

from collections.abc import Awaitable, Callable

import msgspec

from schemas.accounts import Role
from schemas.api import Problem
from schemas.job import Lane
from schemas.subjects import DEFAULT
from schemas.units import Ms


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """A caller. Whatever its role, it reaches only what belongs to its tenant or to all tenants."""

    tenant: str
    key: str
    """The id of the key that it showed."""
    role: Role
    models: frozenset[str] | None = None
    """The models that it may use; of a deployer, those whose entries it may change. None: all of them."""
    endpoints: frozenset[str] | None = None
    """The endpoints that it may use. None: all of them."""
    lanes: frozenset[Lane] = frozenset(Lane)
    deployments: frozenset[str] | None = None
    """The deployments that a worker may serve. None: all of them."""
    expires_ms: Ms | None = None
    """When the key ends by itself. No key that it makes lives longer."""


Identify = Callable[[str, str, Ms], Awaitable[Principal | Problem]]
"""Makes the principal of a caller out of its tenant and the id of its key, at an instant; or says why it is let in no more.

Raises: Unavailable, if the key is not known here and the ledger cannot be asked.
"""


def open_principal(tenant: str, key: str) -> Principal:
    """Make the principal of a caller that shows no key.

    Until keys exist the doors are open: whoever reaches one may do everything there, for the tenant that it names. No
    other place grants this.
    """
    return Principal(tenant=tenant, key=key, role=Role.OPERATOR)


def known_or_bare(caller: Principal | Problem, tenant: str, key: str) -> Principal:
    """Return the principal, or for a caller that is not let in one that stands for its names only."""
    return caller if isinstance(caller, Principal) else Principal(tenant=tenant, key=key, role=Role.PRODUCER)


async def open_door(tenant: str, key: str, _: Ms) -> Principal:
    """Let everybody in, as long as there are no keys: an `Identify`."""
    return open_principal(tenant, key)


async def let_in(_: str | None) -> Principal:
    """Let everybody in who calls over HTTP, as long as there are no keys, whatever is shown as one."""
    return open_principal(DEFAULT, DEFAULT)
