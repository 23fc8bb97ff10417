"""Use-cases of jobs. A principal reaches those of its tenant only."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from broker.bus.catalogs import Catalogs
from broker.core.authorise import Action
from broker.core.explain import with_holds
from broker.core.pools import Pool
from broker.core.principal import Principal
from broker.ports import Clock, JobLedger
from broker.service.refusal import authorise, found
from schemas.api import JobRef, JobShow


@dataclass(frozen=True, slots=True, kw_only=True)
class JobService:
    """Each method raises Refusal or Unavailable."""

    ledger: JobLedger
    catalogs: Catalogs
    pools: Callable[[], Mapping[str, Pool]]
    clock: Clock

    async def show(self, principal: Principal, ask: JobRef) -> JobShow:
        """Return all that is recorded of a job except its prompt; and while it waits, what it waits for."""
        authorise(principal, Action.READ_JOBS)
        job = found(await self.ledger.find(ask.id, principal.tenant), f"job {ask.id}")
        return with_holds(job, catalog=self.catalogs.active.catalog, pools=self.pools(), now=self.clock())
