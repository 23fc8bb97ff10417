"""Reads the active catalog from the ledger, in case its announcement reached nobody."""

import asyncio
import logging
from dataclasses import dataclass

from broker.bus.catalogs import Catalogs
from broker.ports import CatalogLedger
from broker.retrying import until_available
from schemas.catalog import CatalogError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogRefresh:
    """Announces the ledger's active revision when it is newer than the one in the bucket."""

    ledger: CatalogLedger
    catalogs: Catalogs
    every_s: float

    async def serve(self) -> None:
        """Refresh until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(self.every_s)

    async def refresh(self) -> None:
        """Wait for Postgres if it is away. Raises: Unavailable, if NATS is."""
        try:
            active = await until_available(self.ledger.active)
        except CatalogError as error:
            log.warning("the ledger's catalog cannot be read, perhaps a newer broker wrote it error=%s", error)
            return
        if active is not None and active[0].number > self.catalogs.active.number:
            await self.catalogs.publish(active[0])
