"""Tells whether this broker works, and what it can serve, for whoever restarts processes or sends them requests."""

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from broker.bus.catalogs import Catalogs
from broker.core.readiness import NEEDS, readiness
from broker.errors import Unavailable
from broker.ports import StatusLedger
from schemas.health import Liveness, Part, Readiness
from schemas.urls import public

_POSTGRES_S = 2.0
"""How long Postgres may take to answer. A guess: a query of the time takes less than a millisecond."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthService:
    """Anybody may ask: the answers show nothing of a tenant."""

    name: str
    """The broker that answers."""
    nats: Callable[[], Part]
    """How the connection to NATS is."""
    ledger: StatusLedger
    catalogs: Catalogs
    roles: Callable[[], Mapping[str, str]]
    """What each role does."""
    others: Mapping[str, Callable[[], Part]] = field(default_factory=dict)
    """How other parts are, by their names."""
    doors: Collection[str] = tuple(NEEDS)
    """Those of the doors that this broker has."""

    def live(self) -> Liveness:
        """Say whether the process works, whatever is away."""
        return Liveness.of(self.name, self.roles())

    async def ready(self) -> Readiness:
        """Say which doors can serve, and why the others cannot."""
        revision = self.catalogs.active.number
        parts = {
            "nats": self.nats(),
            "postgres": await self._postgres(),
            "catalog": Part(ok=True) if revision > 0 else Part(ok=False, why=self._why_no_catalog()),
        }
        parts |= {name: part() for name, part in self.others.items()}
        return readiness(self.name, parts, revision=revision, doors=self.doors)

    def _why_no_catalog(self) -> str:
        is_known = self.catalogs.is_known
        return "none is active: infermq apply FILE" if is_known else "not known yet: it is kept in Postgres"

    async def _postgres(self) -> Part:
        try:
            async with asyncio.timeout(_POSTGRES_S):
                await self.ledger.database_now()
        except Unavailable as error:
            return Part(ok=False, why=public(str(error)))
        except TimeoutError:
            return Part(ok=False, why=f"no answer within {_POSTGRES_S:.0f} s")
        return Part(ok=True)
