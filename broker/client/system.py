"""The catalog and the status of the system."""

from broker.client.session import Session
from schemas.api import CatalogApply, CatalogShow, Nothing, Status
from schemas.subjects import Verb


class SystemClient(Session):
    """For operators. Raises: RequestRefused, NoBroker, Unavailable."""

    async def apply_catalog(self, toml: str) -> CatalogShow:
        return await self._call(Verb.CATALOG_APPLY, CatalogApply(toml), CatalogShow)

    async def catalog(self) -> CatalogShow:
        return await self._call(Verb.CATALOG_SHOW, Nothing(), CatalogShow)

    async def status(self) -> Status:
        return await self._call(Verb.STATUS, Nothing(), Status)
