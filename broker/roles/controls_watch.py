"""Knows what people have paused or cancelled: reads it from the ledger when it is announced, and now and then."""

import asyncio
import contextlib
import logging
from collections.abc import Callable

from broker.core.controls import Controls
from broker.errors import Unavailable
from broker.ports import ControlLedger
from schemas import subjects
from schemas.jetstream import Message, NatsConnection, NatsError

log = logging.getLogger(__name__)
EVERY_S = 5.0
"""How long it takes to know of a change whose announcement was lost. A leader that does not know of one starts nothing."""


class ControlsWatch:
    def __init__(self, nc: NatsConnection, ledger: ControlLedger, *, every_s: float = EVERY_S) -> None:
        self._nc = nc
        self._ledger = ledger
        self._every_s = every_s
        self._heard = asyncio.Event()
        self.active = Controls()
        """The newest that is known. While the ledger is away, what was known before goes on."""
        self.changed: Callable[[], object] = lambda: None
        """Is called when others are in force."""

    async def serve(self) -> None:
        """Follow the ledger until cancelled."""
        heard = await self._nc.subscribe(subjects.CTL_CONTROLS, cb=self._on_notice)
        try:
            while True:
                with contextlib.suppress(Unavailable):
                    await self.refresh()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._every_s):
                        await self._heard.wait()
                self._heard.clear()
        finally:
            if not self._nc.is_closed:
                await heard.unsubscribe()

    async def refresh(self) -> None:
        """Read the controls. Raises: Unavailable."""
        read = await self._ledger.read()
        if read != self.active:
            self.active = read
            self.changed()

    async def announce(self) -> None:
        """Use the controls that were just changed, and let all other brokers read them. Raises: Unavailable."""
        await self.refresh()
        try:
            await self._nc.publish(subjects.CTL_CONTROLS, b"")
        except NatsError as error:
            log.warning("not announced subject=%s error=%s", subjects.CTL_CONTROLS, error)

    async def _on_notice(self, _: Message) -> None:
        self._heard.set()
