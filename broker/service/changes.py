"""Use-cases of changing jobs that wait. A principal reaches those of its tenant only."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from msgspec.structs import replace

from broker.bus.notices import announce_waiting
from broker.core.authorise import Action
from broker.core.change import problem, resolved
from broker.core.principal import Principal
from broker.ports import BatchLedger, ChangeLedger, Clock, Entropy
from broker.service.controls import audited
from broker.service.refusal import Refusal, authorise, found
from schemas.api import Problem, State
from schemas.changes import BatchChange, Change, JobChange, JobChanged
from schemas.ids import id_problem
from schemas.instructions import Instruction
from schemas.jetstream import NatsConnection


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeService:
    """Each method raises Refusal, Unavailable or Conflict."""

    nc: NatsConnection
    ledger: ChangeLedger
    batches: BatchLedger
    tell: Callable[[], Awaitable[None]]
    """Lets brokers know that an instruction was given."""
    clock: Clock
    entropy: Entropy

    async def change_job(self, principal: Principal, ask: JobChange) -> JobChanged:
        """Change a job while it waits. One that runs keeps what it has, and is refused, as is one that has ended."""
        change = self._checked(principal, ask.change)
        answer = await self.ledger.change_job(
            ask.id, principal.tenant, change, audited(principal, self.clock, self.entropy)
        )
        if answer is None:
            message = f"there is no job {ask.id} in the ledger; one that was submitted a moment ago is there soon"
            raise Refusal(Problem("unknown_job", message, "id"))
        if isinstance(answer, State):
            raise Refusal(_not_changed(ask, answer))
        changed, places = answer
        await announce_waiting(self.nc, places)
        return changed

    async def change_batch(self, principal: Principal, ask: BatchChange) -> Instruction:
        """Change the jobs of a batch that wait, page by page, and those that come later."""
        change = self._checked(principal, ask.change)
        if wrong := id_problem(ask.id, self.clock()):
            raise Refusal(Problem("bad_id", f"the id {ask.id} {wrong}", "id"))
        batch = found(await self.batches.find(ask.batch, principal.tenant), f"batch {ask.batch}")
        if batch.completed_ms is not None:
            raise Refusal(
                Problem("batch_completed", f"the batch {ask.batch} has ended: none of its jobs waits", "batch")
            )
        given = await self.ledger.give(
            replace(ask, change=change), principal.tenant, audited(principal, self.clock, self.entropy)
        )
        await self.tell()
        return found(given, f"batch {ask.batch}")

    def _checked(self, principal: Principal, change: Change) -> Change:
        """Check a change, and return it with its deadline as an instant. Raises: Refusal."""
        authorise(principal, Action.CONTROL_JOBS, lane=change.lane)
        now = self.clock()
        if (wrong := problem(change, now)) is not None:
            raise Refusal(wrong)
        return resolved(change, now)


def _not_changed(ask: JobChange, state: State) -> Problem:
    if state is State.QUEUED:
        message = f"the job {ask.id} was submitted so long ago that this deadline is more than 7 days after that"
        return Problem("deadline_too_far", message, "change.deadline_ms")
    if state is State.RUNNING:
        return Problem("not_waiting", f"the job {ask.id} runs: it can be changed only while it waits", "id")
    return Problem("not_waiting", f"the job {ask.id} has ended ({state})", "id")
