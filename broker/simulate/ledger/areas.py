"""Opens the areas of a ledger in memory for one process: the classes of `broker.ledger` over the tables in memory."""

from collections.abc import Mapping

from broker.ledger.areas import STEPS
from broker.ledger.attempts import PgAttempts
from broker.ledger.backlog import PgBacklog
from broker.ledger.batches import PgBatches
from broker.ledger.catalogs import PgCatalogs
from broker.ledger.controls import PgControls
from broker.ledger.days import Days
from broker.ledger.instructions import Step
from broker.ledger.intake import PgIntake
from broker.ledger.jobs import PgJobs
from broker.ledger.leadership import PgLeadership
from broker.ledger.seal_keys import PgSealKeys
from broker.ledger.settlement import PgSettlement
from broker.ledger.spend import PgSpend
from broker.ledger.status import PgStatus
from broker.ledger.suspects import PgSuspects
from broker.ports import Clock, Ledger
from broker.simulate.ledger.connection import database_of
from broker.simulate.ledger.control import control_areas
from broker.simulate.ledger.sums import MemorySums
from broker.simulate.ledger.tables import Tables
from broker.simulate.ledger.transactions import Gate, Session
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
    days = Days(database_of(session, "days"), session.clock)
    seal_keys = PgSealKeys(database_of(session, "seal_keys"))
    return Ledger(
        intake=PgIntake(database_of(session, "intake"), days),
        backlog=PgBacklog(database_of(session, "backlog")),
        attempts=PgAttempts(database_of(session, "attempts"), seal_keys),
        settlement=PgSettlement(database_of(session, "settlement"), days),
        suspects=PgSuspects(database_of(session, "suspects"), seal_keys),
        leadership=PgLeadership(database_of(session, "leadership")),
        spend=PgSpend(database_of(session, "spend")),
        batches=PgBatches(database_of(session, "batches")),
        jobs=PgJobs(database_of(session, "jobs")),
        catalogs=PgCatalogs(database_of(session, "catalogs")),
        controls=PgControls(database_of(session, "controls")),
        status=PgStatus(database_of(session, "status")),
        sums=MemorySums(session),
        seal_keys=seal_keys,
        days=days,
        **control_areas(session, steps=steps),
    )
