"""Shows what a broker sees right now, of all tenants together."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import assert_never

from msgspec.structs import replace

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
from schemas.accounts import Role
from schemas.api import Status
from schemas.control import Pause, PauseKind
from schemas.worker import WorkerBeat


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
            workers=tuple(sorted(map(_shown, self.beats.alive()), key=lambda beat: (beat.deployment, beat.worker))),
            backlog=tuple(backlog),
            pools=tuple(pool_status(pools[name]) for name in sorted(pools)),
            models=model_statuses(self.catalogs.active.catalog, pools, backlog, self.controls()),
            pauses=tuple([pause for pause in self.controls().pauses if _may_see(principal, pause)]),
        )


def _shown(beat: WorkerBeat) -> WorkerBeat:
    """Leave out which jobs a worker holds: they are of all tenants."""
    return replace(beat, held=b"")


def _may_see(principal: Principal, pause: Pause) -> bool:
    """Say whether what is paused is shared by all tenants or is the principal's own. Batches are in `pauses`."""
    match pause.kind:
        case PauseKind.MODEL | PauseKind.LANE | PauseKind.DEPLOYMENT:
            return True
        case PauseKind.TENANT | PauseKind.BATCH:
            is_own = pause.kind is PauseKind.TENANT and pause.name == principal.tenant
            return is_own or principal.role is Role.OPERATOR
        case _:
            assert_never(pause.kind)
