"""Keeps a row of each job that ended otherwise than succeeded."""

from collections.abc import Collection, Sequence
from uuid import UUID

import msgspec

from broker.simulate.ledger.stored import FailureRow
from broker.simulate.ledger.tables import Tables
from schemas.units import Ms


class _Said(msgspec.Struct, frozen=True):
    type: str | None = None
    code: str | None = None


_said = msgspec.json.Decoder(_Said)


def failure_kind(state: str, failure: str | None) -> str:
    """Return the kind of a job's failure (`infermq.failure_kind`)."""
    if failure is None:
        return state
    said = _said.decode(failure)
    return (said.code if said.type == "refused" else said.type) or state


def record_failures(tables: Tables, jobs: Collection[UUID]) -> None:
    """Record these jobs, which have just ended and did not succeed, as their rows say."""
    for job in jobs:
        if (row := tables.jobs.get(job)) is not None:
            assert row.settled_ms is not None  # noqa: S101 - it has ended
            tables.failures.add(
                FailureRow(
                    job=job,
                    tenant=row.tenant,
                    model=row.model,
                    batch=row.batch,
                    state=row.state,
                    kind=failure_kind(row.state, row.failure),
                    ended_ms=row.settled_ms,
                )
            )


def take_dead_jobs(tables: Tables, jobs: Sequence[UUID], tenant: str, now: Ms) -> set[UUID]:
    """Take those of a tenant's jobs out of the dead letters that are there, since they run again. Return them."""
    taken = set()
    for job in jobs:
        row = tables.failures.get(job)
        if row is not None and row.tenant == tenant and row.state == "dead" and row.dropped_ms is None:
            tables.failures.change(job, dropped_ms=now)
            taken.add(job)
    return taken
