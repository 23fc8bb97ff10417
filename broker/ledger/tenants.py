"""The tenants. Each change is audited, and makes the directory that brokers know outdated."""

from broker.core.records import Audited
from broker.errors import LastOperator
from broker.ledger import audit
from broker.ledger.connection import Connection, Database
from broker.ledger.rows import Row
from broker.ledger.sql import query
from schemas.accounts import Tenant
from schemas.units import Ms


class PgTenants:
    """Implements `broker.ports.TenantLedger`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, name: str, label: str | None, by: Audited) -> Tenant | None:
        async with self._database.connection() as connection, connection.transaction():
            await connection.execute(query("hold_keys"))
            values = name, by.at_ms, f"{by.tenant}/{by.key}", label
            if await connection.fetchval(query("create_tenant"), *values) is None:
                return None
            made = await _tenant(connection, name, by.at_ms)
            await _changed(connection, by, "tenant-create", name, after={"label": label})
        return made

    async def find(self, name: str, now: Ms) -> Tenant | None:
        async with self._database.connection() as connection:
            return await _tenant(connection, name, now)

    async def page(self, after: str | None, *, now: Ms, limit: int) -> tuple[Tenant, ...]:
        async with self._database.connection() as connection:
            rows = await connection.fetch(query("tenants"), now, after, limit)
        return tuple(map(_tenant_of, rows))

    async def disable(self, name: str, by: Audited, *, force: bool) -> tuple[Tenant, bool] | None:
        async with self._database.connection() as connection, connection.transaction():
            await connection.execute(query("hold_keys"))
            before = await _tenant(connection, name, by.at_ms)
            if before is None or before.disabled_ms is not None:
                return None if before is None else (before, False)
            if not force:
                await keep_an_operator(connection, by.at_ms, without_tenant=name)
            return await self._set(connection, name, by.at_ms, by)

    async def enable(self, name: str, by: Audited) -> tuple[Tenant, bool] | None:
        async with self._database.connection() as connection, connection.transaction():
            await connection.execute(query("hold_keys"))
            before = await _tenant(connection, name, by.at_ms)
            if before is None or before.disabled_ms is None:
                return None if before is None else (before, False)
            return await self._set(connection, name, None, by)

    async def _set(
        self, connection: Connection, name: str, disabled_ms: Ms | None, by: Audited
    ) -> tuple[Tenant, bool] | None:
        await connection.execute(query("disable_tenant"), name, disabled_ms)
        await _changed(connection, by, "tenant-enable" if disabled_ms is None else "tenant-disable", name)
        after = await _tenant(connection, name, by.at_ms)
        return None if after is None else (after, True)


async def keep_an_operator(
    connection: Connection, now: Ms, *, without_key: str | None = None, without_tenant: str | None = None
) -> None:
    """Check, while no key can change, that an operator is left. None that there was can be lost.

    Raises: LastOperator.
    """
    left = await connection.fetchval(query("operators_left"), now, without_key, without_tenant)
    if not left and await connection.fetchval(query("operators_left"), now, None, None):
        raise LastOperator


async def _changed(
    connection: Connection, by: Audited, action: str, name: str, *, after: object | None = None
) -> None:
    await connection.execute(query("change_keys"))
    await audit.record(connection, by, action, {"tenant": name}, after=after)


async def _tenant(connection: Connection, name: str, now: Ms) -> Tenant | None:
    row = await connection.fetchrow(query("tenant"), name, now)
    return None if row is None else _tenant_of(row)


def _tenant_of(row: Row) -> Tenant:
    return Tenant(**{name: row[name] for name in Tenant.__struct_fields__})
