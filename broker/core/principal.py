"""Describes who calls. Every door makes a principal out of what the caller shows; services take it as first argument."""

from collections.abc import Callable
from enum import StrEnum

import msgspec

from schemas.job import Lane


class Role(StrEnum):
    """What a key is for. `broker.core.authorise` says what each role may do."""

    PRODUCER = "producer"
    """Submits jobs and reads what became of them."""
    TENANT_ADMIN = "tenant admin"
    """A producer that also looks after its tenant's own keys, limits and bill."""
    WORKER = "worker"
    """Runs jobs; asks nothing of the services."""
    DEPLOYER = "deployer"
    """Says which deployments serve the models; sees no job."""
    OPERATOR = "operator"
    """Looks after the whole system."""


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """A caller. Whatever its role, it reaches only what belongs to its tenant or to all tenants."""

    tenant: str
    key: str
    """The id of the key that it showed."""
    role: Role
    models: frozenset[str] | None = None
    """The models that it may use. None: all of them."""
    lanes: frozenset[Lane] = frozenset(Lane)


Identify = Callable[[str, str], Principal]
"""Makes the principal of a caller out of its tenant and the id of its key."""


def open_principal(tenant: str, key: str) -> Principal:
    """Make the principal of a caller that shows no key.

    Until keys exist the doors are open: whoever reaches one may do everything there, for the tenant that it names. No
    other place grants this.
    """
    return Principal(tenant=tenant, key=key, role=Role.OPERATOR)
