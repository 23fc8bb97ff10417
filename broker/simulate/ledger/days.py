"""Drops a day, as an operator does who drops its partitions."""

from broker.ledger.days import day_of
from broker.simulate.ledger.table import ALL
from broker.simulate.ledger.tables import Tables


def drop_day(tables: Tables, day: int) -> None:
    """Drop the rows of all jobs of a day, counted from 1970. No job of it is taken any more."""
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
