"""Defines tenants and their API keys: what a key may do, and the requests and answers about both."""

from enum import StrEnum
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from schemas.api_keys import ID_LENGTH, LONGEST_TENANT
from schemas.endpoints import EndpointPath
from schemas.job import Lane
from schemas.units import NO_NUL, DurationMs, Instant, Ms, Name


class Role(StrEnum):
    """What a key is for. `broker.core.authorise` says what each role may do."""

    PRODUCER = "producer"
    """Submits jobs and reads what became of them."""
    TENANT_ADMIN = "tenant-admin"
    """A producer that also looks after its tenant's own keys, limits and bill."""
    WORKER = "worker"
    """Runs jobs; asks nothing of the services."""
    DEPLOYER = "deployer"
    """Says which deployments serve the models; sees no job."""
    OPERATOR = "operator"
    """Looks after the whole system."""


OVERLAP_MS = Ms(24 * 3_600_000)
"""How long a key lives on beside the one that replaces it, unless somebody says: a day to give it to all that use it."""
ALL = "*"
"""Among the deployments of a worker's key: all there are and will be."""

_END = r"(?![\s\S])"
"""The very end. (`$` also matches before a last line feed.)"""
TenantName = Annotated[str, Meta(pattern=rf"^[a-z0-9][a-z0-9-]{{0,{LONGEST_TENANT - 1}}}{_END}")]
"""Lower-case letters, digits and hyphens, 63 at most; it begins with none."""
KeyId = Annotated[str, Meta(pattern=rf"^[a-z0-9]{{{ID_LENGTH}}}{_END}")]
Label = Annotated[str, Meta(max_length=200, pattern=NO_NUL)]
_Names = Annotated[tuple[Name, ...], Meta(min_length=1, max_length=1000)]


class TenantCreate(msgspec.Struct, frozen=True, omit_defaults=True):
    """Create a tenant. Only operators may."""

    name: TenantName
    label: Label | None = None
    """For people."""


class TenantRef(msgspec.Struct, frozen=True):
    name: TenantName


class TenantDisable(msgspec.Struct, frozen=True, omit_defaults=True):
    """Let no key of the tenant in any more, until it is enabled. Jobs that it has in the ledger go on."""

    name: TenantName
    force: bool = False
    """Even if nobody is an operator then."""


class TenantList(msgspec.Struct, frozen=True, omit_defaults=True):
    """List tenants by name. `after` is the last name of the previous page."""

    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    after: TenantName | None = None


class Tenant(msgspec.Struct, frozen=True, kw_only=True):
    """Who pays and is isolated from others."""

    name: str
    created_ms: Ms
    made_by: str
    """The tenant and the key of whoever made it, with a slash between them."""
    label: str | None = None
    disabled_ms: Ms | None = None
    """Since when its keys are not let in. None: they are."""
    keys: int = 0
    """How many keys it has that are neither revoked nor expired."""


class Tenants(msgspec.Struct, frozen=True):
    tenants: tuple[Tenant, ...]


class TenantChanged(msgspec.Struct, frozen=True):
    tenant: Tenant
    """How it is now."""
    changed: bool
    """Whether this call changed it."""


class KeyCreate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Make a key that may do no more than the one that asks. What is not restricted here is as for that key."""

    role: Role
    tenant: TenantName | None = None
    """None: the caller's own. Only operators may name another."""
    label: Label | None = None
    models: _Names | None = None
    """The models that it may use; of a deployer, those whose entries it may change. None: all."""
    endpoints: Annotated[tuple[EndpointPath, ...], Meta(min_length=1, max_length=100)] | None = None
    lanes: Annotated[tuple[Lane, ...], Meta(min_length=1, max_length=10)] | None = None
    deployments: _Names | None = None
    """Those that a worker may serve, which must be said; `*` is all."""
    expires_ms: Instant | None = None
    expires_in_ms: DurationMs | None = None
    """The same, from now."""


class KeyRef(msgspec.Struct, frozen=True, omit_defaults=True):
    id: KeyId
    tenant: TenantName | None = None
    """None: the caller's own. Only operators may name another."""


class KeyRevoke(msgspec.Struct, frozen=True, omit_defaults=True):
    """Let a key in no more, from now on and for good."""

    id: KeyId
    tenant: TenantName | None = None
    force: bool = False
    """Even if nobody is an operator then."""


class KeyRotate(msgspec.Struct, frozen=True, omit_defaults=True):
    """Make a key with the rights of another, which expires after the overlap, or when it would have, if that is sooner."""

    id: KeyId
    tenant: TenantName | None = None
    overlap_ms: DurationMs = OVERLAP_MS


class KeyList(msgspec.Struct, frozen=True, omit_defaults=True):
    """List the keys of a tenant by id. `after` is the last id of the previous page."""

    tenant: TenantName | None = None
    ended: bool = False
    """Whether those that were revoked or have expired are listed too."""
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    after: KeyId | None = None


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """A key, without its secret, of which the system keeps only a hash."""

    id: str
    tenant: str
    role: Role
    label: str | None = None
    models: tuple[str, ...] | None = None
    """None: all. So with the three below."""
    endpoints: tuple[str, ...] | None = None
    lanes: tuple[Lane, ...] | None = None
    deployments: tuple[str, ...] | None = None
    created_ms: Ms
    made_by: str
    """The tenant and the key of whoever made it, with a slash between them."""
    expires_ms: Ms | None = None
    revoked_ms: Ms | None = None
    used_ms: Ms | None = None
    """When it was last used, to the minute. None: it never was, or not yet for a minute."""
    replaces: str | None = None
    """The id of the key that it was made for, by a rotation."""


class Keys(msgspec.Struct, frozen=True):
    keys: tuple[Key, ...]


class KeyChanged(msgspec.Struct, frozen=True):
    key: Key
    """How it is now."""
    changed: bool
    """Whether this call changed it."""


class KeyMade(msgspec.Struct, frozen=True):
    """A new key, with its text. This answer is the only one that has it."""

    key: Key
    text: str
    old: Key | None = None
    """The key that it replaces, as it is now."""

    def __repr__(self) -> str:
        return f"KeyMade({self.key!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("key", self.key)]
