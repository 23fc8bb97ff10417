"""Drops the content of files that nobody will read again: deleted, expired, or cut off while they were uploaded."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from broker.core.file_stores import POSTGRES
from broker.errors import Unavailable
from broker.ports import BlobStores, Clock, FileLedger
from broker.retrying import until_available

log = logging.getLogger(__name__)
EVERY_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDrop:
    """All brokers do this. Dropping twice is the same as once.

    All is dropped again a day later: a broker that still took in an upload may have put a piece, and died.
    """

    ledger: FileLedger
    stores: BlobStores
    clock: Clock
    every_s: float = EVERY_S

    async def serve(self) -> None:
        """Drop what is there to drop, again and again until cancelled."""
        while True:
            await until_available(self.drop)
            await asyncio.sleep(self.every_s)

    async def drop(self) -> None:
        """Drop all that can be dropped now, but what is in stores that are away. Raises: Unavailable, for Postgres."""
        away: set[str] = set()
        while found := await self.ledger.to_drop(self.clock(), away=away):
            for store, files in found.items():
                if await self._is_dropped(store, files):
                    await self.ledger.dropped(files, self.clock())
                    await self._is_dropped(store, files)  # who still uploads one did not know yet that it is gone
                    log.info("dropped files=%d", len(files))
                else:
                    away.add(store)

    async def _is_dropped(self, store: str, files: Sequence[UUID]) -> bool:
        """Drop the content first: that of a file which is forgotten would stay for ever. False: its store is away."""
        try:
            await (await self.stores.of(store)).drop(files)
        except Unavailable:
            if store == POSTGRES:
                raise
            log.warning("files wait to be dropped until their store is back store=%s", store)
            return False
        return True
