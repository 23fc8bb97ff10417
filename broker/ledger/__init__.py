"""Postgres: the record of jobs, executions, costs and results.

pg         PgLedger, the one face of it: a method a question
intake     entries into the record        dispatch   fronts of flows, queued → running, leadership
settle     verdicts into the record       reads      batches, results, jobs, catalog for the API
rows       columns to values and back     days       the partitions of a day, made when an id first needs them
sql        named queries, one file each   migrate    numbered migrations, forward only
errors     the driver's exceptions end here

Roles and the composition root use PgLedger; nothing else of the system talks to Postgres.
"""

from broker.ledger.migrate import migrate, pending
from broker.ledger.pg import PgLedger

__all__ = ["PgLedger", "migrate", "pending"]
