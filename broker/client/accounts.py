"""The part of the client for tenants and their API keys."""

from broker.client.session import Session
from schemas.accounts import (
    Key,
    KeyChanged,
    KeyCreate,
    KeyList,
    KeyMade,
    KeyRef,
    KeyRevoke,
    KeyRotate,
    Keys,
    Tenant,
    TenantChanged,
    TenantCreate,
    TenantDisable,
    TenantList,
    TenantRef,
    Tenants,
)
from schemas.subjects import Verb


class AccountClient(Session):
    """Makes, lists, changes and ends tenants and keys. Raises: RequestRefused, NoBroker, Unavailable."""

    async def create_tenant(self, name: str, *, label: str | None = None) -> Tenant:
        """Make a tenant. Its first key is made with `create_key`."""
        return await self._call(Verb.TENANT_CREATE, TenantCreate(name, label), Tenant)

    async def tenants(self, *, limit: int = 100, after: str | None = None) -> tuple[Tenant, ...]:
        """List tenants by name; `after` is the last name of the page before."""
        return (await self._call(Verb.TENANT_LIST, TenantList(limit, after), Tenants)).tenants

    async def tenant(self, name: str) -> Tenant:
        """Return what is known of a tenant."""
        return await self._call(Verb.TENANT_SHOW, TenantRef(name), Tenant)

    async def disable_tenant(self, name: str, *, force: bool = False) -> TenantChanged:
        """Let none of its keys in any more. `force`: even if nobody is an operator then."""
        return await self._call(Verb.TENANT_DISABLE, TenantDisable(name, force), TenantChanged)

    async def enable_tenant(self, name: str) -> TenantChanged:
        """Let its keys in again."""
        return await self._call(Verb.TENANT_ENABLE, TenantRef(name), TenantChanged)

    async def create_key(self, ask: KeyCreate) -> KeyMade:
        """Make a key. Only this answer has its text."""
        return await self._call(Verb.KEY_CREATE, ask, KeyMade)

    async def keys(
        self, *, tenant: str | None = None, ended: bool = False, limit: int = 100, after: str | None = None
    ) -> tuple[Key, ...]:
        """List keys by id, those that have ended only if `ended`; `after` is the last id of the page before."""
        return (await self._call(Verb.KEY_LIST, KeyList(tenant, ended, limit, after), Keys)).keys

    async def key(self, key: str, *, tenant: str | None = None) -> Key:
        """Return what is known of a key."""
        return await self._call(Verb.KEY_SHOW, KeyRef(key, tenant), Key)

    async def revoke_key(self, key: str, *, tenant: str | None = None, force: bool = False) -> KeyChanged:
        """Let a key in no more, for good. `force`: even if nobody is an operator then."""
        return await self._call(Verb.KEY_REVOKE, KeyRevoke(key, tenant, force), KeyChanged)

    async def rotate_key(self, ask: KeyRotate) -> KeyMade:
        """Make a key with the rights of another, which lives on for the overlap. Only this answer has its text."""
        return await self._call(Verb.KEY_ROTATE, ask, KeyMade)
