"""Keeps who changed what. A change is recorded in its own transaction, so that neither is there without the other."""

from uuid import UUID

import msgspec

from broker.core.records import Audited
from broker.ledger.connection import Connection, Database
from broker.ledger.rows import json_text
from broker.ledger.sql import query
from schemas.control import AuditEntry


async def record(
    connection: Connection,
    audited: Audited,
    action: str,
    target: object,
    *,
    before: object | None = None,
    after: object | None = None,
) -> None:
    """Record a change: `target` says of what, `before` and `after` how it was and is. All three become JSON."""
    values = [json_text(value) for value in (target, before, after)]
    await connection.execute(
        query("record_audit"), audited.id, audited.at_ms, audited.tenant, audited.key, action, *values
    )


class PgAudit:
    """Implements `broker.ports.AuditLedger`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(self, tenant: str | None, limit: int, before: UUID | None) -> tuple[AuditEntry, ...]:
        async with self._database.connection() as connection:
            rows = await connection.fetch(query("audit"), tenant, before, limit)
        return tuple(
            AuditEntry(
                id=row["id"],
                at_ms=row["at_ms"],
                tenant=row["tenant"],
                key=row["key"],
                action=row["action"],
                target=_raw(row["target"]),
                before=_raw(row["before"]),
                after=_raw(row["after"]),
            )
            for row in rows
        )


def _raw(text: str | None) -> msgspec.Raw:
    return msgspec.Raw(b"null" if text is None else text.encode())
