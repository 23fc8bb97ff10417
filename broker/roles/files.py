"""Drops the content of files that nobody will read again: deleted, expired, or cut off while they were uploaded."""

import asyncio
import logging
from dataclasses import dataclass

from broker.ports import Blobs, Clock, FileLedger
from broker.retrying import until_available

log = logging.getLogger(__name__)
EVERY_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDrop:
    """All brokers do this. Dropping twice is the same as once."""

    ledger: FileLedger
    blobs: Blobs
    clock: Clock
    every_s: float = EVERY_S

    async def serve(self) -> None:
        """Drop what is there to drop, again and again until cancelled."""
        while True:
            await until_available(self.drop)
            await asyncio.sleep(self.every_s)

    async def drop(self) -> None:
        """Drop all that can be dropped now. Raises: Unavailable."""
        while files := await self.ledger.to_drop(self.clock()):
            await self.blobs.drop(files)  # first: a file that is forgotten with content left would stay for ever
            await self.ledger.dropped(files)
            log.info("dropped files=%d", len(files))
