"""Use-cases of what holds jobs back: pause and resume, and the record of who changed what."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import assert_never
from uuid import UUID

from broker.bus.catalogs import Catalogs
from broker.core.authorise import Action
from broker.core.principal import Principal
from broker.core.records import Audited
from broker.ports import AuditLedger, BatchLedger, Clock, ControlLedger, Entropy
from broker.service.refusal import Refusal, authorise, found
from schemas.accounts import Role
from schemas.api import Problem
from schemas.control import AuditList, AuditPage, Pause, PauseAnswer, PauseAsk, PauseKind, Pauses, ResumeAsk
from schemas.ids import uuid7
from schemas.job import Lane


def audited(principal: Principal, clock: Clock, entropy: Entropy) -> Audited:
    """Begin the record of a change that the principal makes now."""
    now = clock()
    return Audited(uuid7(now, entropy()), now, principal.tenant, principal.key)


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlService:
    """Each method raises Refusal or Unavailable."""

    ledger: ControlLedger
    audit: AuditLedger
    batches: BatchLedger
    catalogs: Catalogs
    announce: Callable[[], Awaitable[None]]
    """Lets all brokers know that the controls have changed."""
    clock: Clock
    entropy: Entropy

    async def pause(self, principal: Principal, ask: PauseAsk) -> PauseAnswer:
        """Start nothing of it from the next dispatch on. What runs goes on. If it is paused already, it stays as it is."""
        name = await self._checked(principal, ask.kind, ask.name)
        now = self.clock()
        pause = Pause(
            kind=ask.kind, name=name, paused_ms=now, tenant=principal.tenant, key=principal.key, reason=ask.reason
        )
        answer = await self.ledger.pause(pause, audited(principal, self.clock, self.entropy))
        await self.announce()
        return answer

    async def resume(self, principal: Principal, ask: ResumeAsk) -> PauseAnswer:
        """Let it start again. What is paused in another way stays so."""
        name = await self._checked(principal, ask.kind, ask.name, must_exist=False)
        answer = await self.ledger.resume(ask.kind, name, audited(principal, self.clock, self.entropy))
        await self.announce()
        return answer

    async def pauses(self, principal: Principal) -> Pauses:
        """List what is paused; to a tenant, what it may pause itself, and what all share."""
        authorise(principal, Action.READ_JOBS)
        pauses = (await self.ledger.read()).pauses
        return Pauses(tuple([pause for pause in pauses if await self._may_see(principal, pause)]))

    async def changes(self, principal: Principal, ask: AuditList) -> AuditPage:
        """List who changed what, the newest first: to an operator all changes, to others their tenant's."""
        authorise(principal, Action.READ_AUDIT)
        tenant = None if principal.role is Role.OPERATOR else principal.tenant
        return AuditPage(await self.audit.page(tenant, ask.limit, ask.before))

    async def _may_see(self, principal: Principal, pause: Pause) -> bool:
        if principal.role is Role.OPERATOR:
            return True
        match pause.kind:
            case PauseKind.TENANT:
                return pause.name == principal.tenant
            case PauseKind.BATCH:
                return await self.batches.find(UUID(pause.name), principal.tenant) is not None
            case PauseKind.MODEL | PauseKind.LANE | PauseKind.DEPLOYMENT:
                return True
            case _:
                assert_never(pause.kind)

    async def _checked(self, principal: Principal, kind: PauseKind, name: str, *, must_exist: bool = True) -> str:
        """Check that there is such a thing, and that the principal may pause it. Return its name as it is written.

        Raises: Refusal.
        """
        if kind is PauseKind.BATCH:
            authorise(principal, Action.CONTROL_JOBS)
            batch = _uuid(name)
            found(await self.batches.find(batch, principal.tenant), f"batch {batch}")
            return str(batch)
        is_own = kind is PauseKind.TENANT and name == principal.tenant
        authorise(principal, Action.CONTROL_JOBS if is_own else Action.CONTROL_SYSTEM)
        if must_exist and (known := self._known(kind)) is not None and name not in known:
            names = ", ".join(sorted(known)[:10]) or "none"
            raise Refusal(Problem(f"unknown_{kind}", f"there is no {kind} {name!r}; there are: {names}", "name"))
        return name

    def _known(self, kind: PauseKind) -> frozenset[str] | None:
        """Name all there are of a kind. None: nobody keeps a list."""
        catalog = self.catalogs.catalog
        match kind:
            case PauseKind.MODEL:
                return frozenset(catalog.models)
            case PauseKind.DEPLOYMENT:
                return frozenset(catalog.deployments)
            case PauseKind.LANE:
                return frozenset(str(lane) for lane in Lane)
            case PauseKind.TENANT | PauseKind.BATCH:
                return None
            case _:
                assert_never(kind)


def _uuid(name: str) -> UUID:
    try:
        return UUID(name)
    except ValueError as error:
        raise Refusal(Problem("bad_id", f"{name!r} is not the id of a batch", "name")) from error
