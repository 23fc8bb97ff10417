"""The part of the client for operators: the catalog and the status of the system."""

from broker.client.session import Session
from schemas.api import CatalogApply, CatalogShow, Nothing, Status
from schemas.subjects import Verb


class SystemClient(Session):
    """Reads and applies catalogs, and reads the status. Raises: RequestRefused, NoBroker, Unavailable."""

    async def apply_catalog(self, toml: str) -> CatalogShow:
        """Make a catalog the active one."""
        return await self._call(Verb.CATALOG_APPLY, CatalogApply(toml), CatalogShow)

    async def catalog(self) -> CatalogShow:
        """Return the active catalog."""
        return await self._call(Verb.CATALOG_SHOW, Nothing(), CatalogShow)

    async def status(self) -> Status:
        """Return what one broker sees of workers and backlog."""
        return await self._call(Verb.STATUS, Nothing(), Status)
