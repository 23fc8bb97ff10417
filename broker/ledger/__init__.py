"""Postgres: the record of jobs, executions, costs and results.

pg            PgLedger, which opens the areas and is those of them that have no class of their own yet
intake        jobs into the record           dead_letters   messages that are no jobs or no outcomes
dispatch      heads of flows, queued → running
settle        verdicts into the record       spend          what deployments cost, by day
leadership    the lease of the leader        status         how things stand now
batches       batches and their results      jobs           all that is recorded of a job
catalogs      the revisions of the catalog

connection    the connections that the areas share
copies        rows as several areas write them
counts        the counters of batches        days           the partitions of a day
rows          columns to values and back
sql           named queries, one file each   migrate        numbered migrations, forward only
errors        the driver's exceptions end here

Roles and the composition root use PgLedger; nothing else of the system talks to Postgres.
"""

from broker.ledger.migrate import migrate, pending
from broker.ledger.pg import PgLedger

__all__ = ["PgLedger", "migrate", "pending"]
