"""Use-cases of the catalog, which all tenants share."""

from dataclasses import dataclass

from broker.bus.catalogs import Catalogs
from broker.core.authorise import Action
from broker.core.limits import warnings
from broker.core.principal import Principal
from broker.ports import CatalogLedger, Clock
from broker.service.refusal import Refusal, authorise
from schemas.api import CatalogApply, CatalogShow, Problem
from schemas.catalog import CatalogError, parse


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogService:
    """Each method raises Refusal or Unavailable; `apply` also Conflict and BadData."""

    ledger: CatalogLedger
    catalogs: Catalogs
    clock: Clock

    async def apply(self, principal: Principal, ask: CatalogApply) -> CatalogShow:
        """Make a new revision, which is active at once and stored for good with the tenant that applied it."""
        authorise(principal, Action.APPLY_CATALOG)
        try:
            catalog = parse(ask.toml)
        except CatalogError as error:
            raise Refusal(Problem("bad_catalog", str(error), "toml")) from error
        revision = await self.ledger.apply(ask.toml, principal.tenant, self.clock())
        self.catalogs.use(revision)
        await self.catalogs.publish(revision)
        return CatalogShow(revision.number, revision.applied_ms, ask.toml, warnings(catalog))

    async def show(self, principal: Principal) -> CatalogShow:
        """Return the ledger's newest revision as it was written, with what is unusual about the one in force here."""
        authorise(principal, Action.READ_CATALOG)
        active = await self.ledger.active()
        if active is None:
            raise Refusal(Problem("no_catalog", "no catalog was applied yet: infermq apply FILE"))
        revision, toml = active
        return CatalogShow(revision.number, revision.applied_ms, toml, note=self.catalogs.note)
