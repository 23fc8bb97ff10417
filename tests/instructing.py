"""Instructions that nobody gave, as tests record them."""

from uuid import UUID

import asyncpg
import msgspec

from broker.ledger.connection import SETTINGS, Connection
from broker.ledger.instructions import record_instruction
from schemas.instructions import InstructionKind
from tests.builders import an_id, now


class What(msgspec.Struct, frozen=True):
    """What the instructions of these tests ask."""

    of: str = "a test"


async def an_instruction(url: str, *, tenant: str = "default") -> UUID:
    connection = await asyncpg.connect(url, server_settings=SETTINGS)
    try:
        return await recorded_instruction(connection, tenant=tenant)
    finally:
        await connection.close()


async def recorded_instruction(
    connection: Connection, *, tenant: str = "default", kind: InstructionKind = InstructionKind.CHANGE
) -> UUID:
    instruction = an_id()
    await record_instruction(connection, instruction, kind, tenant=tenant, key="k", what=What(), now=now())
    return instruction
