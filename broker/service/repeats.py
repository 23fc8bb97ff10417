"""Use-cases that run jobs again: retries of what failed in a batch, and replays of any settled jobs.

A principal reaches those of its tenant only.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from msgspec.structs import replace

from broker.bus.catalogs import Catalogs
from broker.core.authorise import Action
from broker.core.principal import Principal
from broker.core.repeat import patch_problem
from broker.core.replay import chosen, estimate, problem
from broker.ports import Clock, Entropy, ReplayLedger, RetryLedger
from broker.service.controls import audited
from broker.service.refusal import Refusal, authorise, found
from schemas.api import Problem, State
from schemas.ids import id_problem
from schemas.repeats import (
    BatchRetry,
    Given,
    Replay,
    ReplayChoice,
    ReplayDiff,
    ReplayDiffPage,
    ReplayEstimate,
    ReplayEstimateAsk,
    RetryCheck,
    RetryChecked,
)
from schemas.units import Ms

FAILURES = (State.FAILED, State.EXPIRED, State.CANCELLED, State.DEAD)
_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class RepeatService:
    """Each method raises Refusal, Unavailable, Conflict or BadData."""

    retries: RetryLedger
    replays: ReplayLedger
    catalogs: Catalogs
    tell: Callable[[], Awaitable[None]]
    """Tells the brokers that an instruction was given."""
    clock: Clock
    entropy: Entropy

    async def check(self, principal: Principal, ask: RetryCheck) -> RetryChecked:
        """Say which of some custom ids a retry would not take."""
        authorise(principal, Action.READ_JOBS)
        return RetryChecked(found(await self.retries.not_retried(ask, principal.tenant), f"batch {ask.batch}"))

    async def retry(self, principal: Principal, ask: BatchRetry, window: str | None = None) -> Given:
        """Retry what failed in a batch. Every body that is sent must be of a job that is retried.

        `window`: how long was asked for, as it is shown of a batch of a file.
        """
        authorise(principal, Action.CONTROL_JOBS, model=ask.model)
        if wrong := id_problem(ask.id, self.clock()):
            raise Refusal(Problem("bad_id", f"the id {ask.id} {wrong}", "id"))
        if wrong_states := [state for state in ask.states if state not in FAILURES]:
            message = f"a retry is of jobs that have {', '.join(FAILURES)}, not {', '.join(wrong_states)}"
            raise Refusal(Problem("bad_state", message, "states"))
        if ask.bodies:
            await self._check_bodies(principal, ask)
        by = audited(principal, self.clock, self.entropy)
        given = await self.retries.give(ask, principal.tenant, by, window=window)
        begun = found(given, f"batch {ask.batch}")
        if begun.is_begun:
            await self.tell()
        return begun

    async def replay(self, principal: Principal, ask: Replay) -> Given:
        """Run settled jobs again, as the jobs of a new batch."""
        self._check_replay(principal, ask)
        authorise(principal, Action.CONTROL_JOBS, lane=ask.lane)
        if wrong := id_problem(ask.id, self.clock()):
            raise Refusal(Problem("bad_id", f"the id {ask.id} {wrong}", "id"))
        given = await self.replays.give(ask, principal.tenant, audited(principal, self.clock, self.entropy))
        await self.tell()
        return given

    async def estimate(self, principal: Principal, ask: ReplayEstimateAsk) -> ReplayEstimate:
        """Say how many jobs a replay would make, and what they would cost. It looks at a part of them in one call."""
        self._check_replay(principal, ask)
        wanted = chosen(ask, Ms(self.clock() if ask.before_ms is None else ask.before_ms))
        page = await self.replays.select(wanted, ask.jobs, principal.tenant, ask.after)
        estimated = estimate(page.jobs, ask, self.catalogs.catalog)
        return replace(estimated, next=page.next)

    async def differences(self, principal: Principal, ask: ReplayDiff) -> ReplayDiffPage:
        """Put the settled jobs of a replay or a retry beside those that they repeat."""
        authorise(principal, Action.READ_JOBS)
        try:
            page = await self.replays.differences(ask, principal.tenant)
        except ValueError as error:
            raise Refusal(Problem("bad_cursor", str(error), "cursor")) from error
        return found(page, f"batch {ask.batch}")

    def _check_replay(self, principal: Principal, ask: ReplayChoice) -> None:
        """Raises: Refusal."""
        authorise(principal, Action.CONTROL_JOBS, model=ask.model)
        if ask.deployment is not None:
            authorise(principal, Action.PIN)
        wrong = problem(ask, self.catalogs.catalog) or patch_problem(ask.patch)
        if wrong is not None:
            raise Refusal(wrong)

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
