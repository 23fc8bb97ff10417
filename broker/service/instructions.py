"""Use-cases of instructions, once they are given. A principal reaches those of its tenant only."""

from dataclasses import dataclass

from broker.core.authorise import Action
from broker.core.principal import Principal
from broker.ports import InstructionLedger
from broker.service.refusal import authorise, found
from schemas.instructions import Instruction, InstructionList, InstructionRef, Instructions


@dataclass(frozen=True, slots=True, kw_only=True)
class InstructionService:
    """Each method raises Refusal or Unavailable."""

    ledger: InstructionLedger

    async def show(self, principal: Principal, ask: InstructionRef) -> Instruction:
        """Return how far an instruction is."""
        authorise(principal, Action.READ_JOBS)
        return found(await self.ledger.find(ask.id, principal.tenant), f"instruction {ask.id}")

    async def list(self, principal: Principal, ask: InstructionList) -> Instructions:
        """Return a page of the tenant's instructions, newest first."""
        authorise(principal, Action.READ_JOBS)
        return Instructions(await self.ledger.page(principal.tenant, ask.limit, ask.before))
