"""The revisions of the catalog."""

from broker.errors import Conflict
from broker.simulate.ledger.stored import CatalogRow
from broker.simulate.ledger.transactions import Area, transaction
from schemas.catalog import Revision, parse
from schemas.units import Ms


class MemoryCatalogs(Area):
    """Implements `broker.ports.CatalogLedger`."""

    @transaction
    def apply(self, toml: str, by: str, now: Ms, *, after: int | None = None) -> Revision:
        catalog = parse(toml)
        newest = max((row.number for row in self._tables.catalog), default=0)
        if after is not None and after != newest:
            raise Conflict("another catalog was applied meanwhile: look at it, and apply yours again")
        self._tables.catalog.insert(CatalogRow(number=newest + 1, applied_ms=now, applied_by=by, toml=toml))
        return Revision(newest + 1, now, catalog)

    @transaction
    def active(self) -> tuple[Revision, str] | None:
        rows = self._tables.catalog
        if not len(rows):
            return None
        row = rows[max(row.number for row in rows)]
        return Revision(row.number, Ms(row.applied_ms), parse(row.toml)), row.toml
