"""Opens a ledger in memory for one process: the areas of `broker.ledger` over the tables in memory."""

from collections.abc import Mapping
from functools import partial

from broker.ledger.areas import STEPS, areas_over
from broker.ledger.instructions import Step
from broker.ports import Clock, Ledger
from broker.simulate.ledger.blobs import MemoryBlobs, MemoryStores
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
    beside: Gate | None = None,
) -> Ledger:
    """Return the ledger as one process has it. `timers` are the server's; `clock` is its own, if it may be wrong.

    `beside`: what lies between the process and a store beside Postgres, where files are kept then.
    """

    def server_clock() -> Ms:
        return Ms(timers.wall_ns() // 1_000_000)

    session = Session(tables=tables, timers=timers, gate=gate, clock=clock or server_clock)
    # a page that reads a file does so within its transaction, so no gate is before that
    within = Session(tables=tables, timers=timers, gate=OpenGate(), clock=session.clock)
    files = None if beside is None else Session(tables=tables, timers=timers, gate=beside, clock=session.clock)
    store = None if files is None else MemoryBlobs(files)
    return areas_over(
        partial(database_of, session),
        clock=session.clock,
        stores=MemoryStores(MemoryBlobs(session), store),
        expanded=MemoryStores(MemoryBlobs(within), store),
        sums=MemorySums(session),
        steps=steps,
    )
