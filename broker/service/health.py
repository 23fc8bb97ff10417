"""Tells whether this broker works, for whoever restarts processes."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from broker.bus.catalogs import Catalogs
from broker.errors import Unavailable
from broker.ports import StatusLedger

_POSTGRES_S = 2.0
"""How long Postgres may take to answer. A guess: a query of the time takes less than a millisecond."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthService:
    """Anybody may ask: the answer shows nothing of a tenant."""

    name: str
    """The broker that answers."""
    nats_is_connected: Callable[[], bool]
    ledger: StatusLedger
    catalogs: Catalogs

    async def show(self) -> Mapping[str, str | bool | int]:
        """Say what works; a value that is `False` does not."""
        return {
            "name": self.name,
            "nats": self.nats_is_connected(),
            "postgres": await self._postgres_answers(),
            "revision": self.catalogs.active.number,
        }

    async def _postgres_answers(self) -> bool:
        try:
            async with asyncio.timeout(_POSTGRES_S):
                await self.ledger.database_now()
        except (Unavailable, TimeoutError):
            return False
        return True
