"""Keeps the streams, buckets and consumers as they should be, whoever deletes or changes them."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from broker.bus.catalogs import Catalogs
from broker.bus.desired import ack_pending
from broker.core.pools import Pool
from broker.core.records import Kept
from broker.errors import Unavailable
from broker.metrics import BrokerMetrics
from broker.ports import StreamAdmin
from schemas import subjects
from schemas.units import Ms

log = logging.getLogger(__name__)
EVERY_S = 5.0
"""How often to look although nothing is known to have changed: about a dozen requests to NATS."""
_LOOK_S = 1.0
"""How soon to look again when something could not be mended, and how often to see whether the pools have changed."""


@dataclass(slots=True, kw_only=True)
class Reconcile:
    """Any number of brokers may do this at once: whatever one has mended, the others find as it should be."""

    streams: StreamAdmin
    catalogs: Catalogs
    pools: Callable[[], Mapping[str, Pool]]
    lease_s: float
    metrics: BrokerMetrics
    reconnected: asyncio.Event
    """Set when NATS was away: what it kept in memory is gone then."""
    remade: asyncio.Event
    """To be set when a stream of attempts or outcomes was made anew, so that the ledger is compared with it soon."""
    every_s: float = EVERY_S
    declared: set[str] = field(default_factory=set)
    """The deployments whose workers were told that they can pull."""
    created: dict[str, str] = field(default_factory=dict)
    """When the streams of attempts and outcomes were made, as far as it was seen."""

    async def serve(self) -> None:
        """Look until cancelled: every few seconds, and at once after a reconnect or when the pools have changed."""
        loop = asyncio.get_running_loop()
        looked: Mapping[str, int] | None = None
        due_s = loop.time()
        while True:
            wanted = self._wanted()
            if self.reconnected.is_set() or wanted != looked or loop.time() >= due_s:
                self.reconnected.clear()
                await self.look()
                looked = wanted
                due_s = loop.time() + (
                    _LOOK_S if self.streams.kept.wrong or self.streams.kept.short else self.every_s
                )
            self.catalogs.changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self.catalogs.changed.wait()

    async def look(self) -> None:
        """Compare once, and mend."""
        last = self.streams.kept
        before = {**(last.wrong or {}), **last.short}
        kept = await self.streams.keep(self._slots(), lease_s=self.lease_s)
        wrong = {**(kept.wrong or {}), **kept.short}
        if kept.mended:
            log.warning("mended %s", "; ".join(kept.mended))
        for what, why in wrong.items():
            if before.get(what) != why:
                log.error("cannot mend %s error=%s", what, why)
        self.metrics.kept(mended=len(kept.mended), wrong=len(wrong))
        await self._declare_pools(kept)
        for stream in (subjects.RUN, subjects.OUTCOME):
            if (created := kept.created.get(stream)) is not None:
                if self.created.get(stream, created) != created:
                    self.remade.set()
                self.created[stream] = created

    async def _declare_pools(self, kept: Kept) -> None:
        """Tell workers of the consumers that are there; of all again if some were not."""
        if kept.wrong is None or kept.mended:
            self.declared.clear()
        names = self._slots().keys() - self.declared if not kept.wrong else ()
        if names:
            with contextlib.suppress(Unavailable):  # the next look does it
                await self.catalogs.declare_pools(sorted(names), lease_ms=Ms(int(self.lease_s * 1000)))
                self.declared.update(names)

    def _slots(self) -> dict[str, int]:
        """Return the slots of each deployment in the catalog."""
        pools = self.pools()
        return {name: pools[name].slots for name in self.catalogs.active.catalog.deployments}

    def _wanted(self) -> dict[str, int]:
        """Return what the consumers of the pools depend on."""
        return {name: ack_pending(slots) for name, slots in self._slots().items()}
