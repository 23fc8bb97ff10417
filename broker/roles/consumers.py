"""Declares the consumers of every deployment in the catalog, as large as its workers need them."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from broker.bus.catalogs import Catalogs
from broker.bus.streams import ack_pending
from broker.core.pools import Pool
from broker.ports import StreamAdmin

_EVERY_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolConsumers:
    """Keeps the consumers of the pools in step with the catalog and with the slots of the workers."""

    streams: StreamAdmin
    catalogs: Catalogs
    pools: Callable[[], Mapping[str, Pool]]
    lease_s: float
    reconnected: asyncio.Event
    """Set when NATS was away: streams and consumers that it kept in memory are gone and must be declared again."""

    async def serve(self) -> None:
        """Declare what has changed, once a second and whenever the catalog changes."""
        declared: dict[str, int] = {}
        while True:
            if self.reconnected.is_set():
                self.reconnected.clear()
                await self.streams.declare()
                declared.clear()
            pools = self.pools()
            for deployment in self.catalogs.active.catalog.deployments:
                slots = pools[deployment].slots
                if declared.get(deployment) != (wanted := ack_pending(slots)):
                    await self.streams.declare_pool(deployment, slots=slots, lease_s=self.lease_s)
                    declared[deployment] = wanted
            self.catalogs.changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_EVERY_S):
                    await self.catalogs.changed.wait()
