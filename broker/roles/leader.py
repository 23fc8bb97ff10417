"""Lets one broker at a time dispatch: the one that holds a lease in the ledger, by the database's clock."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from broker.errors import Deposed, Unavailable
from broker.metrics import BrokerMetrics
from broker.ports import LeaderLedger
from broker.retrying import level_of
from schemas.units import Ms

log = logging.getLogger(__name__)
LEASE_MS = Ms(5000)
RENEW_S = 1.0
_GOODBYE_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Leader:
    ledger: LeaderLedger
    holder: str
    metrics: BrokerMetrics
    lease_ms: Ms = LEASE_MS
    renew_s: float = RENEW_S

    async def serve(self, work: Callable[[int], Awaitable[None]]) -> None:
        """Try to take the lease, and run `work(term)` while this broker holds it. Runs until cancelled."""
        others_lead = False
        while True:
            try:
                term = await self.ledger.lead(self.holder, lease_ms=self.lease_ms)
                others_lead = others_lead or term is None
            except Unavailable as error:
                log.log(level_of(error), "no leader lease error=%s", error)
                term = None
            if term is None:
                await asyncio.sleep(self.renew_s)
                continue
            if others_lead:
                log.warning("leading term=%d: the broker that led has stopped, or has lost its lease", term)
            else:
                log.info("leading term=%d", term)
            others_lead = False
            self.metrics.leading.set(1)
            try:
                await self._while_leading(work, term)
            finally:
                self.metrics.leading.set(0)
                await self._step_down(term)
            log.warning("deposed term=%d: another broker leads, or the lease could not be renewed", term)

    async def _while_leading(self, work: Callable[[int], Awaitable[None]], term: int) -> None:
        async with asyncio.TaskGroup() as group:
            working = group.create_task(self._until_deposed(work, term))
            renewing = group.create_task(self._renew(term))
            await asyncio.wait({working, renewing}, return_when=asyncio.FIRST_COMPLETED)
            working.cancel()
            renewing.cancel()

    async def _until_deposed(self, work: Callable[[int], Awaitable[None]], term: int) -> None:
        try:
            await work(term)
        except* Deposed:
            pass

    async def _renew(self, term: int) -> None:
        """Renew the lease until another broker holds it, or renewing has failed for as long as the lease lasts."""
        loop = asyncio.get_running_loop()
        good_until = loop.time() + self.lease_ms / 1000
        while loop.time() < good_until:
            await asyncio.sleep(self.renew_s)
            asked = loop.time()
            try:
                async with asyncio.timeout(self.lease_ms / 1000):
                    current = await self.ledger.lead(self.holder, lease_ms=self.lease_ms)
            except (Unavailable, TimeoutError):
                continue
            if current != term:
                return
            good_until = asked + self.lease_ms / 1000

    async def _step_down(self, term: int) -> None:
        with contextlib.suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(_GOODBYE_S):
                await self.ledger.step_down(self.holder, term)
