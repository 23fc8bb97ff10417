"""Shows what a broker sees right now, of all tenants together."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from broker.bus.beats import Beats
from broker.bus.catalogs import Catalogs
from broker.core.authorise import Action
from broker.core.controls import Controls
from broker.core.explain import model_statuses, pool_status
from broker.core.pools import Pool
from broker.core.principal import Principal
from broker.core.revisions import NONE
from broker.ports import Clock, StatusLedger
from broker.service.refusal import authorise
from schemas.api import Status


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusService:
    name: str
    """The broker that answers."""
    version: str
    ledger: StatusLedger
    catalogs: Catalogs
    beats: Beats
    pools: Callable[[], Mapping[str, Pool]]
    clock: Clock
    controls: Callable[[], Controls] = Controls

    async def show(self, principal: Principal) -> Status:
        """Return the leader, the workers, the backlog and what holds the models. Raises: Refusal, Unavailable."""
        authorise(principal, Action.READ_STATUS)
        leadership = await self.ledger.leader()
        pools, backlog = self.pools(), await self.ledger.backlog(self.clock())
        return Status(
            name=self.name,
            version=self.version,
            now_ms=self.clock(),
            database_now_ms=await self.ledger.database_now(),
            leader=leadership.holder if leadership else None,
            term=leadership.term if leadership else 0,
            revision=self.catalogs.active.number if self.catalogs.active is not NONE else None,
            catalog_note=self.catalogs.note,
            workers=tuple(sorted(self.beats.alive(), key=lambda beat: (beat.deployment, beat.worker))),
            backlog=tuple(backlog),
            pools=tuple(pool_status(pools[name]) for name in sorted(pools)),
            models=model_statuses(self.catalogs.active.catalog, pools, backlog, self.controls()),
            pauses=self.controls().pauses,
        )
