"""Keeps the jobs of paused batches out of the backlog, so that the dispatch leader does not read past them again and again.

They wait among the delayed jobs for a time that never comes. When their batch is resumed, they go back.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from broker.bus.notices import announce_waiting
from broker.core.controls import Controls
from broker.errors import Unavailable
from broker.ports import Clock, ControlLedger
from broker.retrying import level_of
from schemas.jetstream import NatsConnection

log = logging.getLogger(__name__)
PAGE = 2000
LOOK_S = 0.5


@dataclass(slots=True, kw_only=True)
class Parking:
    """Does so during one term of the leader."""

    nc: NatsConnection
    ledger: ControlLedger
    controls: Callable[[], Controls]
    clock: Clock
    look_s: float = LOOK_S
    page: int = PAGE
    _may_be_parked: bool = True
    """Whether there may be jobs that are parked. If there are none, Postgres is not asked each time."""

    async def serve(self) -> None:
        """Park and unpark, a page at a time, until cancelled. What Postgres does not do now is done later."""
        while True:
            try:
                is_whole = await self.look()
            except Unavailable as error:
                log.log(level_of(error), "not parked yet error=%s", error)
                is_whole = True
            await asyncio.sleep(self.look_s if is_whole else 0)

    async def look(self) -> bool:
        """Park a page of each paused batch, and unpark a page. False: there is more."""
        is_whole, paused = True, self.controls().paused_batches
        for batch in paused:
            is_whole &= await self.ledger.park(batch, now=self.clock(), limit=self.page) < self.page
        if not paused and not self._may_be_parked:
            return True
        places = await self.ledger.unpark(limit=self.page)
        await announce_waiting(self.nc, places)
        self._may_be_parked = bool(paused or places)
        return is_whole and len(places) < self.page
