"""Postgres: the record of jobs, executions, costs and results.

pg         PgLedger, which opens the areas and is those of them that have no class of their own yet
intake     entries into the record        dispatch   fronts of flows, queued → running, leadership
settle     verdicts into the record       batches    batches and their results
jobs       what is recorded of a job      catalogs   the revisions of the catalog
status     how things stand now
rows       columns to values and back     days       the partitions of a day, made when an id first needs them
sql        named queries, one file each   migrate    numbered migrations, forward only
errors     the driver's exceptions end here

Roles and the composition root use PgLedger; nothing else of the system talks to Postgres.
"""

from broker.ledger.migrate import migrate, pending
from broker.ledger.pg import PgLedger

__all__ = ["PgLedger", "migrate", "pending"]
