"""Use-cases that run jobs again: retries of what failed in a batch. A principal reaches those of its tenant only."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from broker.core.authorise import Action
from broker.core.principal import Principal
from broker.ports import Clock, Entropy, RetryLedger
from broker.service.controls import audited
from broker.service.refusal import Refusal, authorise, found
from schemas.api import Problem, State
from schemas.ids import id_problem
from schemas.repeats import BatchRetry, Given, RetryCheck, RetryChecked

FAILURES = (State.FAILED, State.EXPIRED, State.CANCELLED, State.DEAD)
_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class RepeatService:
    """Each method raises Refusal, Unavailable, Conflict or BadData."""

    retries: RetryLedger
    tell: Callable[[], Awaitable[None]]
    """Tells the brokers that an instruction was given."""
    clock: Clock
    entropy: Entropy

    async def check(self, principal: Principal, ask: RetryCheck) -> RetryChecked:
        """Say which of some custom ids a retry would not take."""
        authorise(principal, Action.READ_JOBS)
        return RetryChecked(found(await self.retries.not_retried(ask, principal.tenant), f"batch {ask.batch}"))

    async def retry(self, principal: Principal, ask: BatchRetry) -> Given:
        """Retry what failed in a batch. Every body that is sent must be of a job that is retried."""
        authorise(principal, Action.SUBMIT, model=ask.model)
        if wrong := id_problem(ask.id, self.clock()):
            raise Refusal(Problem("bad_id", f"the id {ask.id} {wrong}", "id"))
        if wrong_states := [state for state in ask.states if state not in FAILURES]:
            message = f"a retry is of jobs that have {', '.join(FAILURES)}, not {', '.join(wrong_states)}"
            raise Refusal(Problem("bad_state", message, "states"))
        if ask.bodies:
            await self._check_bodies(principal, ask)
        given = await self.retries.give(ask, principal.tenant, audited(principal, self.clock, self.entropy))
        begun = found(given, f"batch {ask.batch}")
        if begun.is_begun:
            await self.tell()
        return begun

    async def _check_bodies(self, principal: Principal, ask: BatchRetry) -> None:
        """Raises: Refusal."""
        names = tuple(one.custom_id for one in ask.bodies)
        check = RetryCheck(batch=ask.batch, states=ask.states, kinds=ask.kinds, custom_ids=names)
        if wrong := found(await self.retries.not_retried(check, principal.tenant), f"batch {ask.batch}"):
            shown = ", ".join(repr(name[:80]) for name in wrong[:_SHOWN]) + (", …" if len(wrong) > _SHOWN else "")
            message = (
                f"the retry takes no job with the custom_id {shown}: it did not fail so, or is none of the batch"
            )
            raise Refusal(Problem("not_retried", message, "bodies"))
