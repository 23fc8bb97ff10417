"""API keys: all but their secrets, of which there is only a hash. Each change is audited, without it."""

import msgspec
from msgspec.structs import replace

from broker.core.keys import Directory, KeyRecord, TenantRecord
from broker.core.records import Audited
from broker.ledger import audit
from broker.ledger.connection import Connection, Database
from broker.ledger.rows import Row, columns
from broker.ledger.sql import query
from broker.ledger.tenants import keep_an_operator
from schemas.accounts import Key, Role
from schemas.job import Lane
from schemas.units import Ms

_tenants = msgspec.json.Decoder(tuple[TenantRecord, ...])
_keys = msgspec.json.Decoder(tuple[KeyRecord, ...])


class PgApiKeys:
    """Implements `broker.ports.KeyLedger`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def version(self) -> int:
        async with self._database.connection() as connection:
            number: int = await connection.fetchval(query("key_version"))
        return number

    async def directory(self, *, ended_since: Ms) -> Directory:
        async with self._database.connection() as connection:
            row = await connection.fetchrow(query("directory"), ended_since)
        assert row is not None  # noqa: S101 - the migration made the row
        return Directory.of(row["number"], _tenants.decode(row["tenants"] or "[]"), _keys.decode(row["keys"] or "[]"))

    async def create(self, record: KeyRecord, by: Audited) -> Key | None:
        async with self._database.connection() as connection, connection.transaction():
            await connection.execute(query("hold_keys"))
            made = await _insert(connection, record, by)
            if made is not None:
                await _changed(connection, by, "key-create", made, after=made)
        return made

    async def find(self, tenant: str, key: str) -> Key | None:
        async with self._database.connection() as connection:
            return await _key(connection, tenant, key)

    async def page(self, tenant: str, after: str | None, *, ended: bool, now: Ms, limit: int) -> tuple[Key, ...]:
        async with self._database.connection() as connection:
            rows = await connection.fetch(query("api_keys"), tenant, ended, now, after, limit)
        return tuple(map(_key_of, rows))

    async def revoke(self, tenant: str, key: str, by: Audited, *, force: bool) -> tuple[Key, bool] | None:
        async with self._database.connection() as connection, connection.transaction():
            await connection.execute(query("hold_keys"))
            before = await _key(connection, tenant, key)
            if before is None or before.revoked_ms is not None:
                return None if before is None else (before, False)
            if before.role is Role.OPERATOR and not force:
                await keep_an_operator(connection, by.at_ms, without_key=key)
            await connection.execute(query("revoke_key"), tenant, key, by.at_ms)
            await _changed(connection, by, "key-revoke", before)
            return replace(before, revoked_ms=by.at_ms), True

    async def rotate(self, old: str, record: KeyRecord, by: Audited, *, until: Ms) -> tuple[Key, Key] | None:
        async with self._database.connection() as connection, connection.transaction():
            await connection.execute(query("hold_keys"))
            before = await _key(connection, record.tenant, old)
            if before is None or before.revoked_ms is not None:
                return None
            made = await _insert(connection, record, by, replaces=old)
            if made is None:
                return None
            await connection.execute(query("expire_key"), record.tenant, old, until)
            after = await _key(connection, record.tenant, old)
            await _changed(connection, by, "key-rotate", before, before=before, after=made)
        return None if after is None else (made, after)

    async def first(self, record: KeyRecord, by: Audited, *, force: bool) -> Key | None:
        """Make an operator's key if there is none that is let in."""
        async with self._database.connection() as connection, connection.transaction():
            await connection.execute(query("hold_keys"))
            if not force and await connection.fetchval(query("operators_left"), by.at_ms, None, None):
                return None
            made = await _insert(connection, record, by)
            if made is not None:
                await _changed(connection, by, "key-create", made, after=made)
        return made

    async def used(self, uses: dict[str, Ms]) -> None:
        ids, instants = columns(sorted(uses.items()), 2)
        async with self._database.connection() as connection:
            await connection.execute(query("use_keys"), ids, instants)


async def _insert(
    connection: Connection, record: KeyRecord, by: Audited, *, replaces: str | None = None
) -> Key | None:
    """Record a key. None: there is no such tenant."""
    lists = (record.models, record.endpoints, record.lanes, record.deployments)
    made = await connection.fetchval(
        query("create_key"),
        record.id,
        record.tenant,
        record.role,
        record.hash,
        *(None if names is None else sorted(names) for names in lists),
        record.created_ms,
        f"{by.tenant}/{by.key}",
        record.expires_ms,
        record.label,
        replaces,
    )
    return None if made is None else await _key(connection, record.tenant, record.id)


async def _changed(
    connection: Connection, by: Audited, action: str, key: Key, *, before: Key | None = None, after: Key | None = None
) -> None:
    await connection.execute(query("change_keys"))
    await audit.record(connection, by, action, {"tenant": key.tenant, "key": key.id}, before=before, after=after)


async def _key(connection: Connection, tenant: str, key: str) -> Key | None:
    row = await connection.fetchrow(query("api_key"), tenant, key)
    return None if row is None else _key_of(row)


def _key_of(row: Row) -> Key:
    return Key(
        id=row["id"],
        tenant=row["tenant"],
        role=Role(row["role"]),
        label=row["label"],
        models=_names(row["models"]),
        endpoints=_names(row["endpoints"]),
        lanes=None if row["lanes"] is None else tuple(map(Lane, row["lanes"])),
        deployments=_names(row["deployments"]),
        created_ms=row["created_ms"],
        made_by=row["made_by"],
        expires_ms=row["expires_ms"],
        revoked_ms=row["revoked_ms"],
        used_ms=row["used_ms"],
        replaces=row["replaces"],
    )


def _names(names: list[str] | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(names)
