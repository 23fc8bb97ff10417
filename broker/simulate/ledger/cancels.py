"""Cancels jobs and batches: ends what waits, and marks what runs."""

from collections.abc import Collection
from uuid import UUID

from broker.core.records import Recorded
from broker.ledger.counts import Deltas
from broker.ledger.rows import recorded_of
from broker.simulate.ledger.copies import copy_results
from broker.simulate.ledger.counts import write_deltas
from broker.simulate.ledger.failures import record_failures
from broker.simulate.ledger.tables import Tables
from schemas.api import State
from schemas.units import Ms


def cancel_waiting(tables: Tables, jobs: Collection[UUID], *, now: Ms) -> list[Recorded]:
    """End those of the jobs that wait, with their results and their batches' counts. Return them."""
    ended = []
    deltas = Deltas()
    for job in sorted(set(jobs)):
        row = tables.jobs.get(job)
        if row is None or row.state != "open" or (stood := tables.wait_no_more(job)) is None:
            continue
        ended.append(
            recorded_of(tables.jobs.change(job, state=State.CANCELLED, attempts=stood.attempt, settled_ms=now))
        )
        deltas.ended(row.batch, State.CANCELLED)
    if ended:
        record_failures(tables, [one.job for one in ended])
        ended_before = write_deltas(tables, deltas, now=now)
        copy_results(tables, [(one.job, one.batch, None) for one in ended], ended_before)
    return ended
