"""Opens the areas of a ledger in memory for one process."""

from broker.ports import Clock, Ledger
from broker.simulate.ledger.attempts import MemoryAttempts
from broker.simulate.ledger.backlog import MemoryBacklog
from broker.simulate.ledger.batches import MemoryBatches
from broker.simulate.ledger.catalogs import MemoryCatalogs
from broker.simulate.ledger.control import control_areas
from broker.simulate.ledger.controls import MemoryControls
from broker.simulate.ledger.days import MemoryDays
from broker.simulate.ledger.intake import MemoryIntake
from broker.simulate.ledger.jobs import MemoryJobs
from broker.simulate.ledger.leadership import MemoryLeadership
from broker.simulate.ledger.seal_keys import MemorySealKeys
from broker.simulate.ledger.settlement import MemorySettlement
from broker.simulate.ledger.spend import MemorySpend
from broker.simulate.ledger.status import MemoryStatus
from broker.simulate.ledger.sums import MemorySums
from broker.simulate.ledger.suspects import MemorySuspects
from broker.simulate.ledger.tables import Tables
from broker.simulate.ledger.transactions import Gate, Session
from broker.simulate.timers import Timers
from schemas.units import Ms


def ledger_of(tables: Tables, timers: Timers, gate: Gate, clock: Clock | None = None) -> Ledger:
    """Return the ledger as one process has it. `timers` are the server's; `clock` is its own, if it may be wrong."""
    session = Session(
        tables=tables, timers=timers, gate=gate, clock=clock or (lambda: Ms(timers.wall_ns() // 1_000_000))
    )
    return Ledger(
        intake=MemoryIntake(session),
        backlog=MemoryBacklog(session),
        attempts=MemoryAttempts(session),
        settlement=MemorySettlement(session),
        suspects=MemorySuspects(session),
        leadership=MemoryLeadership(session),
        spend=MemorySpend(session),
        batches=MemoryBatches(session),
        jobs=MemoryJobs(session),
        catalogs=MemoryCatalogs(session),
        controls=MemoryControls(session),
        status=MemoryStatus(session),
        sums=MemorySums(session),
        seal_keys=MemorySealKeys(session),
        days=MemoryDays(session),
        **control_areas(session),
    )
