"""The ledger in memory, as tests open it."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from broker.ports import Clock, Ledger
from broker.simulate.ledger.areas import ledger_of
from broker.simulate.ledger.tables import Tables
from broker.simulate.ledger.transactions import OpenGate
from broker.simulate.timers import LoopTimers
from tests.builders import SEAL_KEY, an_entropy, now


@asynccontextmanager
async def a_memory_ledger(clock: Clock = now) -> AsyncIterator[Ledger]:
    """A ledger in memory, whose server goes by the loop's clock. What it holds in the end must agree with itself."""
    timers = LoopTimers(asyncio.get_running_loop(), wall_ns=time.time_ns())
    ledger = ledger_of(Tables(timers, an_entropy), timers, OpenGate(), clock)
    await ledger.days.keep()
    await ledger.seal_keys.agree(SEAL_KEY)
    yield ledger
    check = await ledger.sums.check(within_s=1.0)
    assert not check.disagreements, "\n".join(check.disagreements)
