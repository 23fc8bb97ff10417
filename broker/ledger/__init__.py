"""Postgres: the record of jobs, executions, costs and results.

areas         opens them, over one database
intake        jobs into the record           dead_letters   messages that are no jobs or no outcomes
backlog       what waits                     attempts       queued → running, and what runs
settlement    verdicts into the record       usual_ends     those that nearly all are, in a shorter way
requests      jobs of interactive requests   spend          what deployments cost, by day
seal_keys     the key of the brokers' seals  suspects      those whose worker died, and that run apart
leadership    the lease of the leader        status         how things stand now
batches       batches and their results      jobs           all that is recorded of a job
instructions  orders over many jobs          retries        of what failed in a batch
files         stored files and their content  file_batches   batches whose jobs are the lines of a file
cancels       ends and marks what is cancelled
changes       lane, deadline and priority of what waits
cancel_orders  of many jobs, by instructions
repeats       new jobs that repeat others      replays        of settled jobs, and both side by side
catalogs      the revisions of the catalog    sums           compares the ledger with itself
controls      what is paused or cancelled      audit          who changed what
tenants       who pays and is isolated         api_keys       their keys, and when each was used last
webhooks      endpoints, and what they are told

connection    the connections that the areas share
requeues      dead jobs that run again
retention     drops what is kept no longer
selection     jobs by a filter, page by page
failures      a row of each job that did not succeed
copies        rows as several areas write them
counts        the counters of batches        days           the partitions of a day
rows          columns to values and back
sql           named queries, one file each   migrate        numbered migrations, forward only
errors        the driver's exceptions end here

Each area is a class that implements its port in broker.ports, which is all that roles and services know of it. Only
the composition root, commands, benchmarks and tests import from here. Beside it only `infermq doctor`, benchmarks and
`infermq up` (to make its database) talk to Postgres.
"""

from broker.ledger.areas import open_ledger
from broker.ledger.migrate import migrate, pending

__all__ = ["migrate", "open_ledger", "pending"]
