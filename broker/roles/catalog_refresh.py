"""Keeps the ledger's newest catalog in force, and the copy of it in NATS right."""

import asyncio
import contextlib
import logging
from dataclasses import dataclass

from broker.bus.catalogs import Catalogs
from broker.core.revisions import NONE, Compared, compare, unread
from broker.errors import Conflict, Unavailable
from broker.metrics import BrokerMetrics
from broker.ports import CatalogLedger
from schemas.catalog import CatalogError, Revision
from schemas.jetstream import NatsError

log = logging.getLogger(__name__)
_LEDGER_S = 2.0
"""How long the ledger may take to answer. A guess: it takes milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogRefresh:
    """Compares the ledger with NATS, now and then and whenever a catalog was announced."""

    ledger: CatalogLedger
    catalogs: Catalogs
    metrics: BrokerMetrics
    every_s: float

    async def serve(self) -> None:
        """Refresh until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.every_s):
                    await self.catalogs.heard.wait()
            self.catalogs.heard.clear()
            await self.refresh()

    async def refresh(self) -> None:
        """Compare once. What a catalog that is applied meanwhile changes is left to the next time. Raises: Unavailable."""
        before = self.catalogs.active
        try:
            copy, sequence = await self.catalogs.copy()  # first: the ledger's is as new as what it has announced
        except NatsError as error:
            raise Unavailable("NATS", str(error) or type(error).__name__) from error
        compared = await self._compared(copy)
        if self.catalogs.active is not before:
            return
        if not compared.is_known:
            self._note(compared)
            return
        self.catalogs.use(compared.in_force)
        if not compared.copy_is_wrong and await self._is_told(compared.in_force):
            self._note(compared)
            return
        try:
            await self.catalogs.publish(compared.in_force, instead_of=sequence)
        except Conflict:  # one is written just now: then it is looked at
            self.catalogs.heard.set()
            return
        except Unavailable:
            self._note(compared)
            raise
        what = compared.note if compared.copy_is_wrong else "workers did not read what is in force"
        log.warning("catalog: %s, and it is put right", what)
        self.metrics.catalogs_put_right.inc()
        self.catalogs.note = None

    async def _is_told(self, revision: Revision) -> bool:
        try:
            return revision == NONE or await self.catalogs.is_told(revision)
        except NatsError as error:
            raise Unavailable("NATS", str(error) or type(error).__name__) from error

    async def _compared(self, copy: Revision | None) -> Compared:
        try:
            async with asyncio.timeout(_LEDGER_S):
                active = await self.ledger.active()
        except (Unavailable, TimeoutError) as error:
            return unread(self.catalogs.active, copy, str(error) or "Postgres does not answer")
        except CatalogError as error:
            why = f"the ledger's cannot be read, perhaps a newer broker wrote it: {error}"
            return unread(self.catalogs.active, copy, why)
        return compare(None if active is None else active[0], copy)

    def _note(self, compared: Compared) -> None:
        if compared.note is not None and compared.note != self.catalogs.note:
            log.warning("catalog: %s", compared.note)
        self.catalogs.note = compared.note
