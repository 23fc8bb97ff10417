"""The ledger in memory, as tests open it."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from broker.ledger.areas import STEPS
from broker.ledger.connection import Database
from broker.ledger.instructions import Step
from broker.ports import Clock, Ledger
from broker.simulate.ledger.areas import ledger_of
from broker.simulate.ledger.connection import database_of
from broker.simulate.ledger.tables import Tables
from broker.simulate.ledger.transactions import OpenGate, Session
from broker.simulate.timers import LoopTimers
from schemas.instructions import InstructionKind
from tests.builders import SEAL_KEY, an_entropy, now


@asynccontextmanager
async def a_memory_ledger(
    clock: Clock = now, *, steps: Mapping[InstructionKind, Step] = STEPS
) -> AsyncIterator[Ledger]:
    """A ledger in memory, whose server goes by the loop's clock. What it holds in the end must agree with itself."""
    timers = LoopTimers(asyncio.get_running_loop(), wall_ns=time.time_ns())
    ledger = ledger_of(Tables(timers, an_entropy), timers, OpenGate(), clock, steps=steps)
    await ledger.days.keep()
    await ledger.seal_keys.agree(SEAL_KEY)
    yield ledger
    check = await ledger.sums.check(within_s=1.0)
    assert not check.disagreements, "\n".join(check.disagreements)


def a_memory_database(area: str) -> Database:
    """What one area of a ledger in memory runs on, as long as a loop runs."""
    timers = LoopTimers(asyncio.get_running_loop(), wall_ns=time.time_ns())
    tables = Tables(timers, an_entropy)
    return database_of(Session(tables=tables, timers=timers, gate=OpenGate(), clock=now), area)
