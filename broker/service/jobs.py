"""Use-cases of jobs. A principal reaches those of its tenant only."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from uuid import UUID

from broker.bus.catalogs import Catalogs
from broker.bus.submitted import SubmittedJobs
from broker.core.authorise import Action
from broker.core.controls import Controls
from broker.core.explain import with_holds
from broker.core.pools import Pool
from broker.core.principal import Principal
from broker.ports import BatchLedger, Clock, JobLedger
from broker.service.refusal import Refusal, authorise, found, tenant_of
from schemas.api import JobRef, JobShow, Problem, State
from schemas.listing import JobList, JobPage


@dataclass(frozen=True, slots=True, kw_only=True)
class JobService:
    """Each method raises Refusal or Unavailable."""

    ledger: JobLedger
    batches: BatchLedger
    submitted: SubmittedJobs
    catalogs: Catalogs
    pools: Callable[[], Mapping[str, Pool]]
    clock: Clock
    controls: Callable[[], Controls] = Controls

    async def show(self, principal: Principal, ask: JobRef) -> JobShow:
        """Return all that is recorded of a job except its prompt; and while it waits, what it waits for.

        One that is accepted and not in the ledger yet is found too.
        """
        authorise(principal, Action.READ_JOBS)
        job = await self.ledger.find(ask.id, principal.tenant)
        if job is None:
            job = await self._on_its_way(ask.id, principal.tenant)
        return with_holds(
            job,
            catalog=self.catalogs.active.catalog,
            pools=self.pools(),
            controls=self.controls(),
            tenant=principal.tenant,
            now=self.clock(),
        )

    async def list(self, principal: Principal, ask: JobList) -> JobPage:
        """Return a page of a tenant's jobs that match a filter, the newest first."""
        authorise(principal, Action.READ_JOBS)
        tenant, wanted = tenant_of(principal, ask.tenant), ask.filter
        if State.ACCEPTED in wanted.states:
            message = (
                "a job that is accepted is not in the ledger yet, so it is in no list: infermq job show finds it"
            )
            raise Refusal(Problem("bad_request", message, "filter.states"))
        if wanted.batch is not None:
            found(await self.batches.find(wanted.batch, tenant), f"batch {wanted.batch}")
        return await self.ledger.page(tenant, wanted, limit=ask.limit, before=ask.before)

    async def _on_its_way(self, job: UUID, tenant: str) -> JobShow:
        """Find a job that was accepted and is not in the ledger yet. Raises: Refusal, Unavailable."""
        looked = await self.submitted.find({job}, tenant, catalog=self.catalogs.active.catalog)
        if (on_its_way := looked.jobs.get(job)) is not None:
            return on_its_way
        recorded = await self.ledger.find(job, tenant)  # if it was taken in meanwhile
        if recorded is None and looked.unread > 0:
            what = f"{looked.unread} more messages of yours wait for intake, and it may be in them: ask again later"
            raise Refusal(Problem("unknown_job", f"the ledger has no job {job} yet; {what}", "id"))
        return found(recorded, f"job {job}")
