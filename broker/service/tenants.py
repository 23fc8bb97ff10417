"""Use-cases of tenants: an operator makes, disables and enables them; others see their own."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from broker.core.authorise import Action
from broker.core.principal import Principal
from broker.errors import LastOperator
from broker.ports import Clock, Entropy, TenantLedger
from broker.service.controls import audited
from broker.service.refusal import Refusal, authorise, tenant_of
from schemas.accounts import Tenant, TenantChanged, TenantCreate, TenantDisable, TenantList, TenantRef, Tenants
from schemas.api import Problem

LAST_OPERATOR = Problem(
    "last_operator", "nobody would be an operator of this system any more: make another key first, or use --force"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantService:
    """Each method raises Refusal or Unavailable."""

    ledger: TenantLedger
    announce: Callable[[], Awaitable[None]]
    """Lets all brokers know that tenants or keys have changed."""
    clock: Clock
    entropy: Entropy

    async def create(self, principal: Principal, ask: TenantCreate) -> Tenant:
        authorise(principal, Action.MANAGE_TENANTS)
        made = await self.ledger.create(ask.name, ask.label, audited(principal, self.clock, self.entropy))
        if made is None:
            raise Refusal(Problem("tenant_exists", f"there is a tenant {ask.name} already", "name"))
        await self.announce()
        return made

    async def list(self, principal: Principal, ask: TenantList) -> Tenants:
        authorise(principal, Action.MANAGE_TENANTS)
        return Tenants(await self.ledger.page(ask.after, now=self.clock(), limit=ask.limit))

    async def show(self, principal: Principal, ask: TenantRef) -> Tenant:
        authorise(principal, Action.READ_OWN)
        name = tenant_of(principal, ask.name)
        return _found(await self.ledger.find(name, self.clock()), name)

    async def disable(self, principal: Principal, ask: TenantDisable) -> TenantChanged:
        """Let no key of the tenant in any more. Jobs that are in the ledger go on: `pause` and `cancel` stop those."""
        authorise(principal, Action.MANAGE_TENANTS)
        by = audited(principal, self.clock, self.entropy)
        try:
            answer = await self.ledger.disable(ask.name, by, force=ask.force)
        except LastOperator as error:
            raise Refusal(LAST_OPERATOR) from error
        return await self._changed(answer, ask.name)

    async def enable(self, principal: Principal, ask: TenantRef) -> TenantChanged:
        authorise(principal, Action.MANAGE_TENANTS)
        answer = await self.ledger.enable(ask.name, audited(principal, self.clock, self.entropy))
        return await self._changed(answer, ask.name)

    async def _changed(self, answer: tuple[Tenant, bool] | None, name: str) -> TenantChanged:
        if answer is None:
            raise Refusal(_unknown(name))
        await self.announce()
        return TenantChanged(*answer)


def _found(tenant: Tenant | None, name: str) -> Tenant:
    if tenant is None:
        raise Refusal(_unknown(name))
    return tenant


def _unknown(name: str) -> Problem:
    return Problem("unknown_tenant", f"there is no tenant {name}: infermq tenant list", "name")
