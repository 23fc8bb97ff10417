"""Endpoints of webhooks, and what they are told."""

from collections.abc import Sequence
from uuid import UUID

import msgspec

from broker.simulate.ledger.statements.named import Rows, statement
from broker.simulate.ledger.statements.reading import Columns, columns_of
from broker.simulate.ledger.stored import DeliveryRow, WebhookRow
from broker.simulate.ledger.tables import Tables

_TRIES_KEPT = 30
_RESENT = 1000
_tries = msgspec.json.Decoder(list[msgspec.Raw])


@statement
def create_webhook(
    t: Tables,
    webhook: UUID,
    tenant: str,
    url: str,
    events: Sequence[str],
    label: str | None,
    secret: bytes,
    created_ms: int,
    made_by: str,
    most: int,
) -> Rows:
    if tenant not in t.tenants or t.webhooks_by_tenant.count(tenant) >= most:
        return []
    row = WebhookRow(
        id=webhook,
        tenant=tenant,
        url=url,
        events=tuple(events),
        label=label,
        secret=secret,
        created_ms=created_ms,
        made_by=made_by,
    )
    t.webhooks.insert(row)
    return [row]


@statement
def webhook(t: Tables, webhook: UUID, tenant: str) -> Rows:
    row = t.webhooks.get(webhook)
    return [] if row is None or row.tenant != tenant else [row]


@statement
def hold_webhook(t: Tables, held: UUID, tenant: str) -> Rows:
    return webhook(t, held, tenant)


@statement
def webhooks(t: Tables, tenant: str) -> Rows:
    return [t.webhooks[id_] for id_ in t.webhooks_by_tenant.keys(tenant)]


@statement
def change_webhook(
    t: Tables,
    webhook: UUID,
    url: str,
    events: Sequence[str],
    label: str | None,
    disabled_ms: int | None,
    disabled_why: str | None,
) -> Rows:
    if webhook not in t.webhooks:
        return []
    return [
        t.webhooks.change(
            webhook,
            url=url,
            events=tuple(events),
            label=label,
            disabled_ms=disabled_ms,
            disabled_why=disabled_why,
        )
    ]


@statement
def rotate_webhook(t: Tables, webhook: UUID, secret: bytes, until: int) -> Rows:
    row = t.webhooks.get(webhook)
    if row is None:
        return []
    return [t.webhooks.change(webhook, old_secret=row.secret, old_until_ms=until, secret=secret)]


@statement
def disable_webhook(t: Tables, webhook: UUID, now: int, why: str) -> Rows:
    row = t.webhooks.get(webhook)
    if row is None or row.disabled_ms is not None:
        return []
    return [t.webhooks.change(webhook, disabled_ms=now, disabled_why=why)]


@statement
def delete_webhook(t: Tables, webhook: UUID) -> Rows:
    return [t.webhooks.remove(webhook)] if webhook in t.webhooks else []


@statement
def give_up_deliveries(t: Tables, webhook: UUID) -> Rows:
    return [t.deliveries.change(id_, next_ms=None) for id_ in t.deliveries_due.keys(webhook)]


@statement
def test_webhook(
    t: Tables, delivery: UUID, tenant: str, webhook: UUID, event: UUID, what: str, data: str, now: int
) -> Rows:
    row = DeliveryRow(
        id=delivery, tenant=tenant, webhook=webhook, event=event, type=what, data=data, made_ms=now, next_ms=now
    )
    t.deliveries.insert(row)
    return [row]


@statement
def deliveries(
    t: Tables,
    tenant: str,
    before: UUID | None,
    webhook: UUID | None,
    delivery: UUID | None,
    status: str | None,
    limit: int,
) -> Rows:
    index = t.deliveries_by_tenant
    ids = index.newest(tenant) if before is None else index.before(tenant, (before.int,))
    found = [
        row
        for row in map(t.deliveries.__getitem__, ids)
        if (webhook is None or row.webhook == webhook)
        and (delivery is None or row.id == delivery)
        and (status is None or status == _status(row))
    ]
    return found[:limit]


def _status(row: DeliveryRow) -> str:
    if row.delivered_ms is not None:
        return "delivered"
    return "failed" if row.next_ms is None else "pending"


@statement
def resend_deliveries(t: Tables, tenant: str, ids: Sequence[UUID], failed_of: UUID | None, now: int) -> Rows:
    named = set(ids)
    found = [
        id_
        for id_ in t.deliveries_by_tenant.keys(tenant)
        if (id_ in named or _has_failed(t.deliveries[id_], failed_of)) and _is_sent(t, t.deliveries[id_], tenant)
    ]
    return [t.deliveries.change(id_, next_ms=now, attempts=0, delivered_ms=None) for id_ in found[:_RESENT]]


def _has_failed(row: DeliveryRow, webhook: UUID | None) -> bool:
    return row.webhook == webhook and row.next_ms is None and row.delivered_ms is None


def _is_sent(t: Tables, row: DeliveryRow, tenant: str) -> bool:
    """Tell whether its endpoint is told anything."""
    webhook = t.webhooks.get(row.webhook)
    return webhook is not None and webhook.tenant == tenant and webhook.disabled_ms is None


@statement
def claim_deliveries(t: Tables, now: int, until: int, busy: Sequence[UUID], limit: int) -> Rows:
    due: list[tuple[int, UUID, WebhookRow]] = []
    for webhook in t.webhooks:
        first = t.deliveries_due.first(webhook.id)
        if first is None or webhook.disabled_ms is not None or webhook.id in busy:
            continue
        (next_ms, _), id_ = first
        if next_ms <= now:
            due.append((next_ms, id_, webhook))
    due.sort(key=lambda one: (one[0], one[1].int))
    return [_claimed(t, id_, webhook, now, until) for _, id_, webhook in due[:limit]]


def _claimed(t: Tables, delivery: UUID, webhook: WebhookRow, now: int, until: int) -> Columns:
    row = t.deliveries.change(delivery, next_ms=until, attempts=t.deliveries[delivery].attempts + 1)
    holds = webhook.old_until_ms is not None and webhook.old_until_ms > now
    old_secret = webhook.old_secret if holds else None
    return columns_of(row) | {"url": webhook.url, "secret": webhook.secret, "old_secret": old_secret}


@statement
def record_delivery(
    t: Tables, delivery: UUID, attempt: int, tried: str, delivered_ms: int | None, next_ms: int | None
) -> Rows:
    row = t.deliveries.get(delivery)
    if row is None:
        return []
    tries = _tries.decode(row.tries)
    tries = (tries if len(tries) < _TRIES_KEPT else tries[1:]) + _tries.decode(tried)
    is_last = row.attempts == attempt or (delivered_ms is not None and row.attempts > attempt)
    return [
        t.deliveries.change(
            delivery,
            tries=msgspec.json.encode(tries).decode(),
            delivered_ms=delivered_ms if row.delivered_ms is None else row.delivered_ms,
            next_ms=next_ms if is_last else row.next_ms,
        )
    ]
