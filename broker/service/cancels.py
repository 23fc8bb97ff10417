"""Use-cases of cancelling. A principal reaches what belongs to its tenant only."""

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from uuid import UUID

from broker.bus.notices import announce_cancels
from broker.bus.request_cancels import cancel_requests
from broker.bus.results import announce_results
from broker.bus.submitted import SubmittedJobs
from broker.core.authorise import Action
from broker.core.principal import Principal
from broker.core.records import JobCancels, Settled
from broker.metrics import BrokerMetrics
from broker.ports import BatchLedger, CancelLedger, CancelOrderLedger, Clock, Entropy
from broker.service.controls import audited
from broker.service.refusal import Refusal, authorise, found, tenant_of
from schemas.api import Batch, BatchRef, CancelAnswer, JobCancel, JobCancelled, JobsCancelled, Problem, State
from schemas.cancel import CancelChoice, CancelCount, CancelMany
from schemas.catalog import Catalog
from schemas.ids import id_problem
from schemas.instructions import Instruction
from schemas.jetstream import NatsConnection

_OPEN = (State.QUEUED, State.RUNNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelService:
    """Each method raises Refusal or Unavailable."""

    nc: NatsConnection
    ledger: CancelLedger
    orders: CancelOrderLedger
    batches: BatchLedger
    submitted: SubmittedJobs
    catalog: Callable[[], Catalog]
    announce: Callable[[], Awaitable[None]]
    """Lets all brokers know that the controls have changed."""
    tell: Callable[[], Awaitable[None]]
    """Tells the brokers that an instruction was given."""
    metrics: BrokerMetrics
    clock: Clock
    entropy: Entropy

    async def cancel_jobs(self, principal: Principal, ask: JobCancel) -> JobsCancelled:
        """Cancel jobs, and say of each what it came to. One that has ended already stays as it is.

        One that is not in the ledger yet is cancelled when it comes there.
        """
        authorise(principal, Action.CONTROL_JOBS)
        cancels = await self._cancel(set(ask.ids), principal.tenant)
        answers = _answers(cancels)
        if left := {*ask.ids} - answers.keys():
            answers |= await self._on_their_way(left, principal.tenant)
        return JobsCancelled(tuple(answers[job] for job in ask.ids))

    async def cancel_batch(self, principal: Principal, ask: BatchRef) -> Batch:
        """Let nothing of a batch start any more, and return it. What waits of it is ended soon, what runs is told to stop.

        One that is complete or cancelled already stays as it is.
        """
        authorise(principal, Action.CONTROL_JOBS)
        change = audited(principal, self.clock, self.entropy)
        if await self.ledger.cancel_batch(ask.id, principal.tenant, change):
            await self.announce()
            await announce_cancels(self.nc, await self.ledger.mark_batch(ask.id, self.clock()))
        return found(await self.batches.find(ask.id, principal.tenant), f"batch {ask.id}")

    async def cancel_many(self, principal: Principal, ask: CancelMany) -> Instruction:
        """Cancel the jobs of a tenant that match. From now on none of them starts; they are ended by an instruction."""
        choice = self._checked(principal, ask)
        if wrong := id_problem(ask.id, self.clock()):
            raise Refusal(Problem("bad_id", f"the id {ask.id} {wrong}", "id"))
        given = await self.orders.give(ask.id, choice, audited(principal, self.clock, self.entropy))
        await self.announce()
        await self.tell()
        return given

    async def count(self, principal: Principal, ask: CancelChoice) -> CancelCount:
        """Count the jobs that such a cancel would take now."""
        return await self.orders.count(self._checked(principal, ask))

    def _checked(self, principal: Principal, ask: CancelChoice) -> CancelChoice:
        """Return what is chosen, with its tenant, and no job that is submitted from now on. Raises: Refusal."""
        authorise(principal, Action.CONTROL_JOBS)
        if wrong := [state for state in ask.states if state not in _OPEN]:
            raise Refusal(
                Problem("bad_state", f"only what is queued or running can be cancelled, not {wrong[0]}", "states")
            )
        now = self.clock()
        until = now if ask.until_ms is None else min(now, ask.until_ms)
        fields = {name: getattr(ask, name) for name in CancelChoice.__struct_fields__}
        return CancelChoice(**{**fields, "tenant": tenant_of(principal, ask.tenant), "until_ms": until})

    async def _cancel(self, jobs: Collection[UUID], tenant: str) -> JobCancels:
        cancels = await self.ledger.cancel_jobs(jobs, tenant, self.clock())
        await announce_cancels(self.nc, cancels.marked)
        await announce_results(self.nc, cancels.ended)
        self.metrics.settled(Settled(cancels.ended, ()))
        return cancels

    async def _on_their_way(self, jobs: Collection[UUID], tenant: str) -> dict[UUID, JobCancelled]:
        """Note the jobs that intake may still have to take, and cancel those that it took meanwhile."""
        looked = await self.submitted.find(jobs, tenant, catalog=self.catalog())
        if expected := jobs if looked.unread else looked.jobs.keys():
            await self.ledger.cancel_early(expected, tenant, self.clock())
        cancels = await self._cancel(jobs, tenant)
        answers = {job: JobCancelled(job, CancelAnswer.UNKNOWN) for job in jobs}
        answers |= {job: JobCancelled(job, CancelAnswer.ON_ARRIVAL) for job in expected}
        answers |= {job: JobCancelled(job, CancelAnswer.ON_ARRIVAL, State.ACCEPTED) for job in looked.jobs}
        answers |= _answers(cancels)
        if unknown := [job for job, one in answers.items() if one.answer is CancelAnswer.UNKNOWN]:
            ended = await cancel_requests(self.nc, unknown, tenant)
            answers |= {job: JobCancelled(job, CancelAnswer.CANCELLED, State.CANCELLED) for job in ended}
        return answers


def _answers(cancels: JobCancels) -> dict[UUID, JobCancelled]:
    """Say what a cancel came to for each job of the ledger."""
    answers = {
        job: JobCancelled(job, CancelAnswer.CANCELLING, State.RUNNING)
        if state is None
        else JobCancelled(job, CancelAnswer.ENDED, state)
        for job, state in cancels.states.items()
    }
    return answers | {one.job: JobCancelled(one.job, CancelAnswer.CANCELLED, one.state) for one in cancels.ended}
