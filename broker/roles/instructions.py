"""Carries out instructions, a page at a time, whichever broker they were given to. Each is safe to stop anywhere."""

import asyncio
import contextlib
from dataclasses import dataclass

from broker.bus.notices import announce_settled, announce_waiting
from broker.bus.results import announce_results
from broker.core.instructions import Carried
from broker.metrics import BrokerMetrics
from broker.ports import Clock, InstructionLedger
from broker.retrying import until_available
from schemas import subjects
from schemas.jetstream import Message, NatsConnection

EVERY_S = 2.0
"""Between two looks for what was given, in case its notice was lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instructions:
    nc: NatsConnection
    ledger: InstructionLedger
    metrics: BrokerMetrics
    clock: Clock
    every_s: float = EVERY_S

    async def serve(self) -> None:
        """Carry out what is due until cancelled."""
        news = asyncio.Event()

        async def on_notice(_: Message) -> None:
            news.set()

        feed = await self.nc.subscribe(subjects.CTL_INSTRUCTIONS, cb=on_notice)
        try:
            while True:
                news.clear()
                while (carried := await until_available(self._page)) is not None:
                    await self._announce(carried)
                await self._wait(news)
        finally:
            await feed.unsubscribe()

    async def _page(self) -> Carried | None:
        return await self.ledger.carry_on(self.clock())

    async def _announce(self, carried: Carried) -> None:
        """Tell who waits for it what a page did. Whoever misses it reads the ledger every few seconds."""
        self.metrics.instruction_pages.inc()
        await announce_waiting(self.nc, carried.waiting)
        await announce_settled(self.nc, carried.ended_attempts)
        await announce_results(self.nc, carried.ended)

    async def _wait(self, news: asyncio.Event) -> None:
        """Wait until a page is due, or an instruction is given. One that is due now is in another broker's hands."""
        next_ms = await until_available(self.ledger.next_ms)
        left_s = self.every_s if next_ms is None else (next_ms - self.clock()) / 1000
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.every_s if left_s <= 0 else min(left_s, self.every_s)):
                await news.wait()
