"""Use-cases of the catalog, which all tenants share."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from broker.bus.catalogs import Catalogs
from broker.core.authorise import Action
from broker.core.limits import warnings
from broker.core.principal import Principal
from broker.core.revisions import NONE, beyond, changes
from broker.ports import CatalogLedger, Clock, StatusLedger
from broker.service.refusal import Refusal, authorise
from schemas.api import CatalogApply, CatalogShow, Problem
from schemas.catalog import Catalog, CatalogError, Revision, parse
from schemas.engine_options import engine_faults

_SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogService:
    """Each method raises Refusal or Unavailable; `apply` also Conflict and BadData."""

    ledger: CatalogLedger
    status: StatusLedger
    catalogs: Catalogs
    clock: Clock

    async def apply(self, principal: Principal, ask: CatalogApply) -> CatalogShow:
        """Make a new revision, which is active at once and stored for good with the tenant that applied it.

        Raises: Refusal, with every fault that was found.
        """
        authorise(principal, Action.APPLY_CATALOG)
        catalog = _checked(ask.toml)
        active = await self._active()
        before, text = (NONE, None) if active is None else active
        if principal.models is not None:
            _check_models(principal.models, before.catalog, catalog)
        said = (*warnings(catalog), *await self._left_behind(before.catalog, catalog))
        if ask.dry_run or text == ask.toml:
            revision, is_new = before, False
        else:
            after = None if active is None else before.number
            revision = await self.ledger.apply(ask.toml, principal.tenant, self.clock(), after=after)
            is_new = True
        if text == ask.toml or is_new:
            self.catalogs.use(revision)
            await self.catalogs.publish(revision)
        return CatalogShow(
            revision.number,
            revision.applied_ms,
            ask.toml,
            warnings=said,
            changes=changes(before.catalog, catalog),
            is_new=is_new,
        )

    async def _active(self) -> tuple[Revision, str] | None:
        """Read the newest revision. One that this broker cannot read is replaced like any other."""
        try:
            return await self.ledger.active()
        except CatalogError:
            return None

    async def _left_behind(self, before: Catalog, after: Catalog) -> Sequence[str]:
        """Warn of models that are removed while jobs wait for them."""
        removed = before.models.keys() - after.models.keys()
        if not removed:
            return ()
        waiting: Counter[str] = Counter()
        for lane in await self.status.backlog(self.clock()):
            waiting[lane.model] += lane.waiting
        return [
            f"{waiting[name]:,} jobs wait for the model {name}, which you remove: they expire unless it comes back"
            for name in sorted(removed)
            if waiting[name]
        ]

    async def show(self, principal: Principal) -> CatalogShow:
        """Return the ledger's newest revision as it was written, with what is unusual about the one in force here."""
        authorise(principal, Action.READ_CATALOG)
        active = await self.ledger.active()
        if active is None:
            raise Refusal(Problem("no_catalog", "no catalog was applied yet: infermq apply FILE"))
        revision, toml = active
        return CatalogShow(revision.number, revision.applied_ms, toml, note=self.catalogs.note)


def _check_models(models: frozenset[str], before: Catalog, after: Catalog) -> None:
    """Check that a change is of these models only. Raises: Refusal, which names what is not."""
    if foreign := beyond(before, after, models):
        names = ", ".join(foreign[:_SHOWN]) + (", …" if len(foreign) > _SHOWN else "")
        message = (
            f"this key may change the models {', '.join(sorted(models)[:_SHOWN])} and the deployments that only they use, "
            f"not {names}: start from the file that `infermq catalog` prints"
        )
        raise Refusal(Problem("forbidden", message, "toml"))


def _checked(toml: str) -> Catalog:
    """Parse a catalog that is to be applied, and check engines and options too. Raises: Refusal."""
    try:
        catalog = parse(toml)
    except CatalogError as error:
        raise Refusal(Problem("bad_catalog", str(error), "toml")) from error
    if faults := engine_faults(catalog):
        raise Refusal(Problem("bad_catalog", "\n".join(faults), "toml"))
    return catalog
