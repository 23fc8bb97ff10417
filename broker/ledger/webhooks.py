"""Endpoints of webhooks, and what they are told. Each change is audited, without the secret.

What is told is written by triggers (migrations/0001_ledger.sql): one runs when a batch is complete, one when a result is
recorded of a job that is in no batch. So whatever ends a batch or a job tells of it, in its own transaction.
"""

from uuid import UUID

import msgspec
from msgspec.structs import replace

from broker.core.records import Audited
from broker.core.webhooks import Came, Due, event_id
from broker.ledger import audit
from broker.ledger.connection import Connection, Database
from broker.ledger.rows import Row, json_text
from broker.ledger.sql import query
from schemas.units import Ms
from schemas.webhooks import (
    MOST_ENDPOINTS,
    TEST,
    Deliveries,
    Delivery,
    DeliveryList,
    DeliveryResend,
    DeliveryStatus,
    Try,
    Webhook,
    WebhookChange,
)

_tries = msgspec.json.Decoder(tuple[Try, ...])


class PgWebhooks:
    """Implements `broker.ports.WebhookLedger`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, webhook: Webhook, secret: bytes, by: Audited) -> Webhook | None:
        async with self._database.connection() as connection, connection.transaction():
            row = await connection.fetchrow(
                query("create_webhook"),
                webhook.id,
                webhook.tenant,
                webhook.url,
                list(webhook.events),
                webhook.label,
                secret,
                webhook.created_ms,
                webhook.made_by,
                MOST_ENDPOINTS,
            )
            if row is None:
                return None
            made = _webhook_of(row)
            await _audit(connection, by, "webhook-create", made, after=made)
        return made

    async def find(self, webhook: UUID, tenant: str) -> Webhook | None:
        async with self._database.connection() as connection:
            row = await connection.fetchrow(query("webhook"), webhook, tenant)
        return None if row is None else _webhook_of(row)

    async def page(self, tenant: str) -> tuple[Webhook, ...]:
        async with self._database.connection() as connection:
            return tuple(map(_webhook_of, await connection.fetch(query("webhooks"), tenant)))

    async def change(self, ask: WebhookChange, tenant: str, by: Audited) -> Webhook | None:
        async with self._database.connection() as connection, connection.transaction():
            before = await _held(connection, ask.id, tenant)
            if before is None:
                return None
            after = _changed(before, ask, by.at_ms)
            await connection.execute(
                query("change_webhook"),
                after.id,
                after.url,
                list(after.events),
                after.label,
                after.disabled_ms,
                after.disabled_why,
            )
            if after.disabled_ms is not None:
                await connection.fetch(query("give_up_deliveries"), after.id)
            await _audit(connection, by, "webhook-change", before, before=before, after=after)
        return after

    async def rotate(self, webhook: UUID, tenant: str, secret: bytes, by: Audited, *, until: Ms) -> Webhook | None:
        async with self._database.connection() as connection, connection.transaction():
            before = await _held(connection, webhook, tenant)
            if before is None:
                return None
            await connection.execute(query("rotate_webhook"), webhook, secret, until)
            await _audit(connection, by, "webhook-rotate", before)
        return replace(before, old_until_ms=until)

    async def delete(self, webhook: UUID, tenant: str, by: Audited) -> int | None:
        async with self._database.connection() as connection, connection.transaction():
            before = await _held(connection, webhook, tenant)
            if before is None:
                return None
            await connection.execute(query("delete_webhook"), webhook)
            dropped = await connection.fetch(query("give_up_deliveries"), webhook)
            await _audit(connection, by, "webhook-delete", before, before=before)
        return len(dropped)

    async def test(self, webhook: Webhook, delivery: UUID, event: UUID, now: Ms) -> Delivery:
        data = json_text({"id": str(webhook.id)})
        async with self._database.connection() as connection:
            row = (delivery, webhook.tenant, webhook.id, event, TEST, data, now)
            await connection.execute(query("test_webhook"), *row)
            rows = await connection.fetch(query("deliveries"), webhook.tenant, None, None, delivery, None, 1)
        return _delivery_of(rows[0])

    async def deliveries(self, ask: DeliveryList, tenant: str) -> Deliveries:
        async with self._database.connection() as connection:
            rows = await connection.fetch(
                query("deliveries"), tenant, ask.before, ask.webhook, ask.id, ask.status, ask.limit
            )
        return Deliveries(tuple(map(_delivery_of, rows)))

    async def resend(self, ask: DeliveryResend, tenant: str, now: Ms) -> tuple[UUID, ...]:
        async with self._database.connection() as connection:
            rows = await connection.fetch(query("resend_deliveries"), tenant, list(ask.ids), ask.failed_of, now)
        return tuple(sorted(row["id"] for row in rows))


class PgDeliveries:
    """Implements `broker.ports.DeliveryLedger`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(self, busy: list[UUID], now: Ms, *, until: Ms, limit: int) -> list[Due]:
        async with self._database.connection() as connection:
            return [
                _due_of(row) for row in await connection.fetch(query("claim_deliveries"), now, until, busy, limit)
            ]

    async def record(self, due: Due, came: Came, now: Ms) -> None:
        delivered_ms = now if came.is_delivered else None
        async with self._database.connection() as connection, connection.transaction():
            await connection.execute(
                query("record_delivery"), due.id, due.attempt, json_text([came.tried]), delivered_ms, came.next_ms
            )
            if came.is_gone and await connection.fetchval(
                query("disable_webhook"), due.webhook, now, "it answered 410: it wants no more"
            ):
                await connection.fetch(query("give_up_deliveries"), due.webhook)


async def _held(connection: Connection, webhook: UUID, tenant: str) -> Webhook | None:
    row = await connection.fetchrow(query("hold_webhook"), webhook, tenant)
    return None if row is None else _webhook_of(row)


def _changed(before: Webhook, ask: WebhookChange, now: Ms) -> Webhook:
    """Return how an endpoint is after a change. One that is disabled already stays so since when it was."""
    changes = {name: value for name in ("url", "events", "label") if (value := getattr(ask, name)) is not None}
    after = replace(before, **changes)
    if ask.disabled is None:
        return after
    if not ask.disabled:
        return replace(after, disabled_ms=None, disabled_why=None)
    return after if before.disabled_ms is not None else replace(after, disabled_ms=now)


async def _audit(
    connection: Connection,
    by: Audited,
    action: str,
    webhook: Webhook,
    *,
    before: Webhook | None = None,
    after: Webhook | None = None,
) -> None:
    target = {"tenant": webhook.tenant, "webhook": str(webhook.id)}
    await audit.record(connection, by, action, target, before=before, after=after)


def _webhook_of(row: Row) -> Webhook:
    names = ("id", "tenant", "url", "label", "created_ms", "made_by", "disabled_ms", "disabled_why", "old_until_ms")
    return Webhook(events=tuple(row["events"]), **{name: row[name] for name in names})


def _delivery_of(row: Row) -> Delivery:
    names = ("id", "webhook", "type", "made_ms", "next_ms", "delivered_ms")
    return Delivery(
        event=event_id(row["event"]),
        data=msgspec.Raw(row["data"].encode()),
        status=_status(row),
        tries=_tries.decode(row["tries"]),
        **{name: row[name] for name in names},
    )


def _status(row: Row) -> DeliveryStatus:
    if row["delivered_ms"] is not None:
        return DeliveryStatus.DELIVERED
    return DeliveryStatus.FAILED if row["next_ms"] is None else DeliveryStatus.PENDING


def _due_of(row: Row) -> Due:
    return Due(
        id=row["id"],
        webhook=row["webhook"],
        event=row["event"],
        type=row["type"],
        data=row["data"].encode(),
        made_ms=row["made_ms"],
        attempt=row["attempts"],
        url=row["url"],
        secrets=tuple(secret for secret in (row["secret"], row["old_secret"]) if secret is not None),
    )
