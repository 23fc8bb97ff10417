"""The statements of `broker/ledger/sql` as functions over the tables in memory, each with the name of its file.

They take the same values in the same order, and answer rows with the same columns. What Postgres leaves open, such as the
order of rows that nobody asked to be sorted, is by id here.

intake     new jobs and the keys of producers                  attempts      queued → running, and what runs
backlog    what waits, now or for its time                     settlement    ends, executions and what they cost
results    batches with their results and retries              leading       the leader, pauses, catalog, key of the seals
named      finds a function by the text of its statement       reading       ranges of ids, filters, kinds of failures
jobs       what is recorded of jobs, and pages of them         cancels       ends what waits, and marks what runs
changes    moves what waits to another place                   batches       counters and states of batches
instructions                                                   repeats       what retries, replays and requeues read and link
dead_letters                                                   files         files, and batches that are made of them
accounts   tenants, keys, the audit                            webhooks      endpoints, and what they are told
retention  drops what is old
"""

from broker.simulate.ledger.statements import (
    accounts,
    attempts,
    backlog,
    batches,
    cancels,
    changes,
    dead_letters,
    files,
    instructions,
    intake,
    jobs,
    leading,
    repeats,
    results,
    retention,
    settlement,
    webhooks,
)
from broker.simulate.ledger.statements.named import STATEMENTS

__all__ = [
    "STATEMENTS",
    "accounts",
    "attempts",
    "backlog",
    "batches",
    "cancels",
    "changes",
    "dead_letters",
    "files",
    "instructions",
    "intake",
    "jobs",
    "leading",
    "repeats",
    "results",
    "retention",
    "settlement",
    "webhooks",
]
