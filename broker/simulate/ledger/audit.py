"""Keeps who changed what, in the transaction of the change."""

from broker.core.records import Audited
from broker.ledger.rows import json_text
from broker.simulate.ledger.stored import AuditRow
from broker.simulate.ledger.tables import Tables


def record(
    tables: Tables,
    audited: Audited,
    action: str,
    target: object,
    *,
    before: object | None = None,
    after: object | None = None,
) -> None:
    """Record a change: `target` says of what, `before` and `after` how it was and is. All three become JSON."""
    tables.audit.insert(
        AuditRow(
            id=audited.id,
            at_ms=audited.at_ms,
            tenant=audited.tenant,
            key=audited.key,
            action=action,
            target=json_text(target) or "null",
            before=json_text(before),
            after=json_text(after),
        )
    )
