"""The days whose jobs are kept."""

from uuid import UUID

from broker.errors import DayNotKept
from broker.ledger.days import bounds, day_of, missing_days
from broker.simulate.ledger.table import ALL
from broker.simulate.ledger.tables import Tables
from broker.simulate.ledger.transactions import Area, Session, transaction


class MemoryDays(Area):
    """Implements `broker.ports.DayLedger`."""

    @transaction
    def keep(self) -> None:
        keep_days(self._session)


def keep_days(session: Session) -> None:
    """Make the days that an id may be of now, by the process's clock."""
    days = session.tables.days
    if missing := missing_days(days.now, session.clock()):
        days.set(days.now | set(missing))


def check_day(tables: Tables, job: UUID) -> None:
    """Raises: DayNotKept, for a job of a day that is not kept."""
    if day_of(job) not in tables.days.now:
        raise DayNotKept(f"no day is kept that the id {job} may be of")


def first_id(tables: Tables) -> UUID:
    """Return the least id that a job can have whose day is kept."""
    return bounds(min(tables.days.now, default=0))[0]


def drop_day(tables: Tables, day: int) -> None:
    """Drop all that is kept of the jobs of a day, as an operator does who drops its partitions."""
    with tables.transaction():
        tables.days.set(tables.days.now - {day})
        for job in [key for key in tables.jobs_by_id.keys(ALL) if day_of(key) == day]:
            tables.jobs.remove(job)
        for body in tables.bodies:
            if day_of(body.job) == day:
                tables.bodies.remove(body.job)
        for result in tables.results:
            if day_of(result.job) == day:
                tables.results.remove(result.job)
        for execution in tables.executions:
            if day_of(execution.job) == day:
                tables.executions.remove((execution.job, execution.id))
