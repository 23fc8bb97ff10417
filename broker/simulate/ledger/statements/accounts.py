"""Tenants, keys, and the audit."""

from collections.abc import Sequence
from uuid import UUID

import msgspec

from broker.simulate.ledger.statements.named import Rows, statement
from broker.simulate.ledger.statements.reading import Columns, columns_of, least
from broker.simulate.ledger.stored import ApiKeyRow, AuditRow, KeyUseRow, TenantRow
from broker.simulate.ledger.table import ALL
from broker.simulate.ledger.tables import Tables

_UNSAID = frozenset({"made_by", "replaces"})
"""The columns of a key that brokers need not know."""


@statement
def record_audit(
    t: Tables,
    entry: UUID,
    at_ms: int,
    tenant: str,
    key: str,
    action: str,
    target: str,
    before: str | None,
    after: str | None,
) -> Rows:
    row = AuditRow(
        id=entry, at_ms=at_ms, tenant=tenant, key=key, action=action, target=target, before=before, after=after
    )
    t.audit.insert(row)
    return [row]


@statement
def audit(t: Tables, tenant: str | None, before: UUID | None, limit: int) -> Rows:
    index, group = (t.audit_by_id, ALL) if tenant is None else (t.audit_by_tenant, tenant)
    ids = index.newest(group, limit=limit) if before is None else index.before(group, (before.int,), limit=limit)
    return [t.audit[id_] for id_ in ids]


@statement
def hold_keys(t: Tables) -> Rows:
    """Nothing else runs meanwhile in any case."""
    del t
    return []


@statement
def change_keys(t: Tables) -> Rows:
    t.key_version.set(t.key_version.now + 1)
    return []


@statement
def key_version(t: Tables) -> Rows:
    return [{"number": t.key_version.now}]


@statement
def directory(t: Tables, ended_since: int) -> Rows:
    tenants = [_said({"name": row.name, "disabled_ms": row.disabled_ms}) for row in t.tenants]
    keys = [
        _said({name: value for name, value in columns_of(row).items() if name not in _UNSAID})
        for row in t.api_keys
        if (end_ms := least(row.revoked_ms, row.expires_ms)) is None or end_ms >= ended_since
    ]
    return [{"number": t.key_version.now, "tenants": msgspec.json.encode(tenants), "keys": msgspec.json.encode(keys)}]


def _said(columns: Columns) -> Columns:
    return {name: value for name, value in columns.items() if value is not None}


@statement
def create_tenant(t: Tables, name: str, created_ms: int, made_by: str, label: str | None) -> Rows:
    row = TenantRow(name=name, created_ms=created_ms, made_by=made_by, label=label)
    return [row] if t.tenants.add(row) else []


@statement
def tenant(t: Tables, name: str, now: int) -> Rows:
    row = t.tenants.get(name)
    return [] if row is None else [_with_keys(t, row, now)]


@statement
def tenants(t: Tables, now: int, after: str | None, limit: int) -> Rows:
    names = sorted(row.name for row in t.tenants if after is None or row.name > after)
    return [_with_keys(t, t.tenants[name], now) for name in names[:limit]]


def _with_keys(t: Tables, row: TenantRow, now: int) -> Columns:
    """Return a tenant with how many keys it has that have not ended."""
    keys = [t.api_keys[key] for key in t.api_keys_by_tenant.keys(row.name)]
    return columns_of(row) | {"keys": sum(_is_let_in(key, now) for key in keys)}


def _is_let_in(key: ApiKeyRow, now: int) -> bool:
    return key.revoked_ms is None and (key.expires_ms is None or key.expires_ms > now)


@statement
def disable_tenant(t: Tables, name: str, disabled_ms: int | None) -> Rows:
    row = t.tenants.get(name)
    if row is None or (row.disabled_ms is None) is (disabled_ms is None):
        return []
    return [t.tenants.change(name, disabled_ms=disabled_ms)]


@statement
def operators_left(t: Tables, now: int, without_key: str | None, without_tenant: str | None) -> Rows:
    left = any(
        key.role == "operator"
        and _is_let_in(key, now)
        and t.tenants[key.tenant].disabled_ms is None
        and key.id != without_key
        and key.tenant != without_tenant
        for key in t.api_keys
    )
    return [{"exists": left}]


@statement
def create_key(
    t: Tables,
    key: str,
    tenant: str,
    role: str,
    hash_: bytes,
    models: Sequence[str] | None,
    endpoints: Sequence[str] | None,
    lanes: Sequence[str] | None,
    deployments: Sequence[str] | None,
    created_ms: int,
    made_by: str,
    expires_ms: int | None,
    label: str | None,
    replaces: str | None,
) -> Rows:
    if tenant not in t.tenants:
        return []
    row = ApiKeyRow(
        id=key,
        tenant=tenant,
        role=role,
        hash=hash_,
        models=None if models is None else tuple(models),
        endpoints=None if endpoints is None else tuple(endpoints),
        lanes=None if lanes is None else tuple(lanes),
        deployments=None if deployments is None else tuple(deployments),
        created_ms=created_ms,
        made_by=made_by,
        expires_ms=expires_ms,
        label=label,
        replaces=replaces,
    )
    t.api_keys.insert(row)
    return [row]


@statement
def api_key(t: Tables, tenant: str, key: str) -> Rows:
    row = t.api_keys.get(key)
    return [] if row is None or row.tenant != tenant else [_with_use(t, row)]


@statement
def api_keys(t: Tables, tenant: str, ended: bool, now: int, after: str | None, limit: int) -> Rows:
    found = [t.api_keys[key] for key in t.api_keys_by_tenant.keys(tenant) if after is None or key > after]
    return [_with_use(t, row) for row in found if ended or _is_let_in(row, now)][:limit]


def _with_use(t: Tables, row: ApiKeyRow) -> Columns:
    use = t.key_uses.get(row.id)
    return columns_of(row) | {"used_ms": use and use.used_ms}


@statement
def revoke_key(t: Tables, tenant: str, key: str, now: int) -> Rows:
    row = t.api_keys.get(key)
    if row is None or row.tenant != tenant or row.revoked_ms is not None:
        return []
    return [t.api_keys.change(key, revoked_ms=now)]


@statement
def expire_key(t: Tables, tenant: str, key: str, until: int) -> Rows:
    row = t.api_keys.get(key)
    if row is None or row.tenant != tenant:
        return []
    return [t.api_keys.change(key, expires_ms=least(row.expires_ms, until))]


@statement
def use_keys(t: Tables, keys: Sequence[str], instants: Sequence[int]) -> Rows:
    for key, at_ms in zip(keys, instants, strict=True):
        before = t.key_uses.get(key)
        t.key_uses.put(KeyUseRow(id=key, used_ms=at_ms if before is None else max(before.used_ms, at_ms)))
    return []
