"""The part of the client that looks at instructions: orders over many jobs, which brokers carry out in pages."""

from uuid import UUID

from broker.client.session import Session
from schemas.instructions import Instruction, InstructionList, InstructionRef, Instructions
from schemas.subjects import Verb


class InstructionClient(Session):
    """Reads how far instructions are. Raises: RequestRefused, NoBroker, Unavailable."""

    async def instruction(self, instruction: UUID) -> Instruction:
        """Return how far an instruction is."""
        return await self._call(Verb.INSTRUCTION_SHOW, InstructionRef(instruction), Instruction)

    async def instructions(self, *, limit: int = 20, before: UUID | None = None) -> tuple[Instruction, ...]:
        """List the tenant's instructions, newest first."""
        return (await self._call(Verb.INSTRUCTION_LIST, InstructionList(limit, before), Instructions)).instructions
