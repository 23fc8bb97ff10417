"""Use-cases of dead letters. A principal reaches those of its tenant; an operator, all."""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from msgspec.structs import replace

from broker.core.authorise import Action, forbidden
from broker.core.dead_letters import CannotRequeue, advice, again, grouped, newest
from broker.core.principal import Principal
from broker.core.records import Audited, DeadLetter, RequeuedJobs
from broker.core.repeat import Edit, patch_problem
from broker.ports import Clock, DeadLetterLedger, Entropy
from broker.service.controls import audited
from broker.service.refusal import Refusal, authorise, tenant_of
from schemas.accounts import Role
from schemas.api import Problem
from schemas.dead import (
    DeadDone,
    DeadDrop,
    DeadEach,
    DeadFilter,
    DeadGroups,
    DeadLine,
    DeadList,
    DeadPage,
    DeadRef,
    DeadRequeue,
    DeadShow,
    DeadSkipped,
    DeadWhat,
)
from schemas.ids import uuid7

PIECE = 256 * 1024
"""How many bytes of a dead letter one answer holds."""
_SHOWN = 20
_TOGETHER = 250
"""How many messages are published again in one transaction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterService:
    """Each method raises Refusal, Unavailable or BadData."""

    ledger: DeadLetterLedger
    publish: Callable[[Sequence[DeadLetter]], Awaitable[list[DeadLetter]]]
    """Stores messages in their streams again, and returns those that are."""
    tell: Callable[[], Awaitable[None]]
    """Tells the brokers that an instruction was given."""
    clock: Clock
    entropy: Entropy

    async def groups(self, principal: Principal, ask: DeadList) -> DeadGroups:
        """Count dead letters by cause, with an example of each and what to do."""
        authorise(principal, Action.READ_JOBS)
        wanted = _reached(principal, ask.filter)
        counted = await self.ledger.count(wanted)
        examples = list(newest(counted).values())
        letters = await self.ledger.page(DeadFilter(), limit=len(examples), ids=examples) if examples else []
        return DeadGroups(grouped(counted, {letter.id: letter.reason for letter in letters}))

    async def each(self, principal: Principal, ask: DeadEach) -> DeadPage:
        """List single dead letters, the newest first."""
        authorise(principal, Action.READ_JOBS)
        wanted = _reached(principal, ask.filter)
        return DeadPage(tuple(await self.ledger.page(wanted, limit=ask.limit, before=ask.before)))

    async def show(self, principal: Principal, ask: DeadRef) -> DeadShow:
        """Return all that is known of a dead letter, with a piece of its bytes."""
        authorise(principal, Action.READ_JOBS)
        found = await self.ledger.page(_reached(principal, DeadFilter()), limit=1, ids=[ask.id])
        if not found:
            message = (
                f"there is no dead letter {ask.id} (any more); `infermq job show` finds a job, whatever became of it"
            )
            raise Refusal(Problem("unknown_dead_letter", message, "id"))
        headers, piece = await self.ledger.piece(found[0], offset=ask.offset, length=PIECE)
        return DeadShow(letter=found[0], headers=headers, advice=advice(found[0].cause), piece=piece)

    async def drop(self, principal: Principal, ask: DeadDrop) -> DeadDone:
        """Delete messages, and take jobs out of the dead letters."""
        authorise(principal, Action.CONTROL_JOBS)
        letters, more, skipped = await self._chosen(principal, ask)
        messages, jobs = _ids(letters, DeadWhat.MESSAGE), _ids(letters, DeadWhat.JOB)
        count = len(messages), len(jobs)
        if not ask.dry_run and letters:
            count = await self.ledger.drop(messages, jobs, self._audited(principal), _asked(ask))
        return _done(count[0], count[1], skipped, more=more, dry_run=ask.dry_run)

    async def requeue(self, principal: Principal, ask: DeadRequeue) -> DeadDone:
        """Publish messages again, to the stream that they came from, and submit jobs again as new ones."""
        authorise(principal, Action.CONTROL_JOBS)
        if (problem := forbidden(principal, Action.CONTROL_JOBS, model=ask.model, lane=ask.lane)) is not None:
            raise Refusal(problem)
        edit = _edit(ask)
        letters, more, skipped = await self._chosen(principal, ask)
        if ask.payload is not None and [letter.what for letter in letters] != [DeadWhat.MESSAGE]:
            message = "other bytes are sent instead of one message only: name it"
            raise Refusal(Problem("bad_request", message, "payload"))
        messages, impossible = await self._publish_again(principal, ask, edit, _ids(letters, DeadWhat.MESSAGE))
        jobs = [letter for letter in letters if letter.what is DeadWhat.JOB]
        instructions = () if ask.dry_run else await self._submit_again(principal, ask, jobs)
        done = _done(messages, len(jobs), [*skipped, *impossible], more=more, dry_run=ask.dry_run)
        return replace(done, instructions=instructions)

    async def _publish_again(
        self, principal: Principal, ask: DeadRequeue, edit: Edit, ids: Sequence[UUID]
    ) -> tuple[int, Sequence[DeadSkipped]]:
        """Publish messages, unless it is a dry run. Return how many, and those that cannot be."""
        fit, impossible = 0, []

        async def publish(held: Sequence[DeadLetter]) -> Sequence[DeadLetter]:
            nonlocal fit
            ready: list[DeadLetter] = []
            for one in held:
                try:
                    ready.append(
                        again(
                            one, model=ask.model, edit=edit, payload=ask.payload, by=(principal.tenant, principal.key)
                        )
                    )
                except CannotRequeue as error:
                    impossible.append(DeadSkipped(one.id, str(error)))
            fit += len(ready)
            return await self.publish(ready) if ready and not ask.dry_run else ()

        sent = 0
        for start in range(0, len(ids), _TOGETHER):
            part = ids[start : start + _TOGETHER]
            sent += len(await self.ledger.requeue(part, publish, self._audited(principal), _asked(ask)))
        return fit if ask.dry_run else sent, impossible

    async def _submit_again(
        self, principal: Principal, ask: DeadRequeue, letters: Sequence[DeadLine]
    ) -> tuple[UUID, ...]:
        """Give an instruction for the jobs of each tenant, and return their ids."""
        by_tenant: dict[str, list[UUID]] = defaultdict(list)
        for letter in letters:
            by_tenant[letter.tenant or ""].append(letter.id)
        instructions = []
        for tenant, jobs in sorted(by_tenant.items()):
            what = RequeuedJobs(
                id=uuid7(self.clock(), self.entropy()),
                tenant=tenant,
                jobs=tuple(jobs),
                lane=ask.lane,
                model=ask.model,
                max_tokens=ask.max_tokens,
                patch=ask.patch,
            )
            await self.ledger.requeue_jobs(what, self._audited(principal), _asked(ask))
            instructions.append(what.id)
        if instructions:
            await self.tell()
        return tuple(instructions)

    async def _chosen(
        self, principal: Principal, ask: DeadDrop | DeadRequeue
    ) -> tuple[list[DeadLine], bool, list[DeadSkipped]]:
        """Return the dead letters that are meant, whether there are more, and those that are not there. Raises: Refusal."""
        if bool(ask.ids) == (ask.filter is not None):
            raise Refusal(Problem("bad_request", "name dead letters by their ids, or by a filter", "ids"))
        if ask.filter is not None:
            wanted = _reached(principal, ask.filter)
            found = await self.ledger.page(wanted, limit=ask.limit + 1)
            return found[: ask.limit], len(found) > ask.limit, []
        found = await self.ledger.page(_reached(principal, DeadFilter()), limit=len(ask.ids), ids=ask.ids)
        missing = set(ask.ids) - {letter.id for letter in found}
        why = "there is no such dead letter (any more)"
        return found, False, [DeadSkipped(one, why) for one in sorted(missing)]

    def _audited(self, principal: Principal) -> Audited:
        return audited(principal, self.clock, self.entropy)


def _reached(principal: Principal, wanted: DeadFilter) -> DeadFilter:
    """Return the filter with the tenant whose dead letters the principal may reach. Raises: Refusal."""
    if wanted.tenant is None and principal.role is Role.OPERATOR:
        return wanted
    return replace(wanted, tenant=tenant_of(principal, wanted.tenant))


def _edit(ask: DeadRequeue) -> Edit:
    """Return what to change of bodies. Raises: Refusal."""
    if (problem := patch_problem(ask.patch)) is not None:
        raise Refusal(problem)
    return Edit(patch=None if ask.patch is None else ask.patch.encode(), max_tokens=ask.max_tokens)


def _asked(ask: DeadDrop | DeadRequeue) -> object:
    """Return what the audit says was asked, without what was sent instead, which may hold a prompt."""
    if ask.ids:
        return {"ids": ask.ids[:_SHOWN]} if len(ask.ids) <= _SHOWN else {"ids": f"{len(ask.ids)} dead letters"}
    return {"filter": ask.filter}


def _ids(letters: Sequence[DeadLine], what: DeadWhat) -> list[UUID]:
    return [letter.id for letter in letters if letter.what is what]


def _done(messages: int, jobs: int, skipped: Sequence[DeadSkipped], *, more: bool, dry_run: bool) -> DeadDone:
    return DeadDone(
        messages=messages,
        jobs=jobs,
        skipped=tuple(skipped[:_SHOWN]),
        left=len(skipped),
        more=more,
        dry_run=dry_run,
    )
