"""Opens a ledger in memory for one process: the areas of `broker.ledger` over the tables in memory."""

from collections.abc import Mapping
from functools import partial

from broker.blobs.stores import Stores
from broker.ledger.areas import STEPS, areas_over
from broker.ledger.instructions import Step
from broker.ports import Clock, Ledger
from broker.simulate.ledger.blobs import MemoryBlobs
from broker.simulate.ledger.connection import database_of
from broker.simulate.ledger.sums import MemorySums
from broker.simulate.ledger.tables import Tables
from broker.simulate.ledger.transactions import Gate, OpenGate, Session
from broker.simulate.timers import Timers
from schemas.instructions import InstructionKind
from schemas.units import Ms


def ledger_of(
    tables: Tables,
    timers: Timers,
    gate: Gate,
    clock: Clock | None = None,
    *,
    steps: Mapping[InstructionKind, Step] = STEPS,
) -> Ledger:
    """Return the ledger as one process has it. `timers` are the server's; `clock` is its own, if it may be wrong."""

    def server_clock() -> Ms:
        return Ms(timers.wall_ns() // 1_000_000)

    session = Session(tables=tables, timers=timers, gate=gate, clock=clock or server_clock)
    # a page that reads a file does so within its transaction, so no gate is before that
    within = Session(tables=tables, timers=timers, gate=OpenGate(), clock=session.clock)
    return areas_over(
        partial(database_of, session),
        clock=session.clock,
        stores=Stores(MemoryBlobs(session)),
        expanded=Stores(MemoryBlobs(within)),
        sums=MemorySums(session),
        steps=steps,
    )
