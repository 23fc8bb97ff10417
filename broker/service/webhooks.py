"""Use-cases of webhooks. A tenant's admin reaches those of its tenant; an operator, all."""

from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from broker.core.authorise import Action
from broker.core.principal import Principal
from broker.core.targets import Targets
from broker.core.webhooks import secret_text
from broker.ports import Clock, Entropy, WebhookLedger
from broker.service.controls import audited
from broker.service.refusal import Refusal, authorise, found, tenant_of
from schemas.api import Problem
from schemas.ids import uuid7
from schemas.units import Ms
from schemas.webhooks import (
    MOST_ENDPOINTS,
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


async def check_webhook(ledger: WebhookLedger, webhook: UUID | None, tenant: str) -> None:
    """Check that a batch may name an endpoint: one of its tenant. Raises: Refusal."""
    if webhook is not None and await ledger.find(webhook, tenant) is None:
        raise Refusal(Problem("unknown_webhook", f"there is no webhook {webhook}", "webhook"))


LONGEST_OVERLAP_MS = Ms(90 * 24 * 3_600_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookService:
    """Each method raises Refusal or Unavailable."""

    ledger: WebhookLedger
    targets: Targets
    clock: Clock
    entropy: Entropy
    secret: Callable[[], bytes]
    """Makes the secret of an endpoint: 32 random bytes."""

    async def create(self, principal: Principal, ask: WebhookCreate) -> WebhookMade:
        """Register an endpoint. Only this answer has its secret."""
        tenant = self._tenant(principal, ask.tenant)
        self._check(ask.url)
        by, secret = audited(principal, self.clock, self.entropy), self.secret()
        webhook = Webhook(
            id=uuid7(by.at_ms, self.entropy()),
            tenant=tenant,
            url=ask.url,
            events=tuple(dict.fromkeys(ask.events)),
            label=ask.label,
            created_ms=by.at_ms,
            made_by=f"{by.tenant}/{by.key}",
        )
        made = await self.ledger.create(webhook, secret, by)
        if made is None:
            message = f"the tenant {tenant} has {MOST_ENDPOINTS} webhooks, or is not there: delete one"
            raise Refusal(Problem("too_many_webhooks", message, limit=MOST_ENDPOINTS))
        return WebhookMade(made, secret_text(secret))

    async def list(self, principal: Principal, ask: WebhookList) -> Webhooks:
        return Webhooks(await self.ledger.page(self._tenant(principal, ask.tenant)))

    async def show(self, principal: Principal, ask: WebhookRef) -> Webhook:
        return await self._found(ask.id, self._tenant(principal, ask.tenant))

    async def change(self, principal: Principal, ask: WebhookChange) -> Webhook:
        tenant = self._tenant(principal, ask.tenant)
        if ask.url is not None:
            self._check(ask.url)
        by = audited(principal, self.clock, self.entropy)
        return found(await self.ledger.change(ask, tenant, by), f"webhook {ask.id}")

    async def rotate(self, principal: Principal, ask: WebhookRotate) -> WebhookMade:
        """Make another secret. Messages are signed with the old one too, for the overlap."""
        tenant, secret = self._tenant(principal, ask.tenant), self.secret()
        if ask.overlap_ms > LONGEST_OVERLAP_MS:
            raise Refusal(Problem("bad_request", "an overlap is at most 90 days", "overlap_ms", LONGEST_OVERLAP_MS))
        by = audited(principal, self.clock, self.entropy)
        until = Ms(by.at_ms + ask.overlap_ms)
        rotated = await self.ledger.rotate(ask.id, tenant, secret, by, until=until)
        return WebhookMade(found(rotated, f"webhook {ask.id}"), secret_text(secret))

    async def delete(self, principal: Principal, ask: WebhookRef) -> WebhookDeleted:
        """Forget an endpoint. What it was told stays in the list of deliveries for its days."""
        tenant = self._tenant(principal, ask.tenant)
        by = audited(principal, self.clock, self.entropy)
        return WebhookDeleted(ask.id, found(await self.ledger.delete(ask.id, tenant, by), f"webhook {ask.id}"))

    async def test(self, principal: Principal, ask: WebhookRef) -> Delivery:
        """Send an event that means nothing. What came of it is found among the deliveries, by the id that is returned."""
        webhook = await self._found(ask.id, self._tenant(principal, ask.tenant))
        if webhook.disabled_ms is not None:
            raise Refusal(Problem("webhook_disabled", f"the webhook {ask.id} is disabled: enable it first", "id"))
        now = self.clock()
        return await self.ledger.test(webhook, uuid7(now, self.entropy()), uuid7(now, self.entropy()), now)

    async def deliveries(self, principal: Principal, ask: DeliveryList) -> Deliveries:
        return await self.ledger.deliveries(ask, self._tenant(principal, ask.tenant))

    async def resend(self, principal: Principal, ask: DeliveryResend) -> DeliveriesResent:
        """Send messages again, from the first attempt on."""
        tenant = self._tenant(principal, ask.tenant)
        return DeliveriesResent(await self.ledger.resend(ask, tenant, self.clock()))

    def _tenant(self, principal: Principal, named: str | None) -> str:
        authorise(principal, Action.MANAGE_WEBHOOKS)
        return tenant_of(principal, named)

    async def _found(self, webhook: UUID, tenant: str) -> Webhook:
        return found(await self.ledger.find(webhook, tenant), f"webhook {webhook}")

    def _check(self, url: str) -> None:
        """Refuse what nothing can be sent to. Where its host leads is checked each time that something is sent."""
        if (why := self.targets.why_not(url)) is not None:
            message = (
                f"nothing is sent to this URL: {why} (an operator may allow more: infermq serve --webhook-allow)"
            )
            raise Refusal(Problem("bad_target", message, "url"))
