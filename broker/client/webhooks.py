"""The part of the client for webhooks: where a tenant is told what has ended."""

from collections.abc import Iterable
from uuid import UUID

from broker.client.session import Session
from schemas.subjects import Verb
from schemas.webhooks import (
    Deliveries,
    DeliveriesResent,
    Delivery,
    DeliveryList,
    DeliveryResend,
    Webhook,
    WebhookChange,
    WebhookCreate,
    WebhookDeleted,
    WebhookList,
    WebhookMade,
    WebhookRef,
    WebhookRotate,
    Webhooks,
)


class WebhookClient(Session):
    """Registers endpoints, and looks at what they were told. Raises: RequestRefused, NoBroker, Unavailable."""

    async def create_webhook(self, ask: WebhookCreate) -> WebhookMade:
        """Register an endpoint. Only this answer has its secret."""
        return await self._call(Verb.WEBHOOK_CREATE, ask, WebhookMade)

    async def webhooks(self, *, tenant: str | None = None) -> tuple[Webhook, ...]:
        return (await self._call(Verb.WEBHOOK_LIST, WebhookList(tenant), Webhooks)).webhooks

    async def webhook(self, webhook: UUID, *, tenant: str | None = None) -> Webhook:
        return await self._call(Verb.WEBHOOK_SHOW, WebhookRef(webhook, tenant), Webhook)

    async def change_webhook(self, ask: WebhookChange) -> Webhook:
        return await self._call(Verb.WEBHOOK_CHANGE, ask, Webhook)

    async def rotate_webhook(self, ask: WebhookRotate) -> WebhookMade:
        """Make another secret. Messages are signed with the old one too, for the overlap."""
        return await self._call(Verb.WEBHOOK_ROTATE, ask, WebhookMade)

    async def delete_webhook(self, webhook: UUID, *, tenant: str | None = None) -> WebhookDeleted:
        return await self._call(Verb.WEBHOOK_DELETE, WebhookRef(webhook, tenant), WebhookDeleted)

    async def test_webhook(self, webhook: UUID, *, tenant: str | None = None) -> Delivery:
        """Have an event sent that means nothing. `deliveries` says what came of it."""
        return await self._call(Verb.WEBHOOK_TEST, WebhookRef(webhook, tenant), Delivery)

    async def deliveries(self, ask: DeliveryList) -> tuple[Delivery, ...]:
        """List what was sent, or is to be sent, the newest first."""
        return (await self._call(Verb.WEBHOOK_DELIVERIES, ask, Deliveries)).deliveries

    async def resend(
        self, ids: Iterable[UUID] = (), *, failed_of: UUID | None = None, tenant: str | None = None
    ) -> tuple[UUID, ...]:
        """Have messages sent again, and those that failed of an endpoint. Return which."""
        ask = DeliveryResend(ids=tuple(ids), failed_of=failed_of, tenant=tenant)
        return (await self._call(Verb.WEBHOOK_RESEND, ask, DeliveriesResent)).ids
