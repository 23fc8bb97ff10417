"""Cancels jobs and batches: ends what waits, and marks what runs.

A mark on a running attempt is the lasting order. Its job ends as cancelled where it would otherwise wait again; what the
attempt comes to meanwhile counts if it is recorded first.
"""

from collections.abc import Collection, Mapping, Sequence
from uuid import UUID

from broker.core.records import Audited, EarlyCancel, JobCancels, Marked, Recorded
from broker.errors import Unavailable
from broker.ledger import audit, controls
from broker.ledger.connection import Connection, Database
from broker.ledger.copies import copy_results
from broker.ledger.counts import Deltas
from broker.ledger.days import days_of
from broker.ledger.failures import record_failures
from broker.ledger.rows import Row, columns, recorded_of
from broker.ledger.sql import query
from schemas.api import State
from schemas.units import Ms

_TRIES = 5
"""How often to look again for a job that was dispatched or put back meanwhile. A guess: once is rare."""
_EARLY_PAGE = 500


class PgCancels:
    """Implements `broker.ports.CancelLedger`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def cancel_jobs(self, jobs: Collection[UUID], tenant: str, now: Ms) -> JobCancels:
        ended: list[Recorded] = []
        marked: dict[UUID, Marked] = {}
        async with self._database.connection() as connection:
            for _ in range(_TRIES):
                async with connection.transaction():
                    left = {job for job, state in (await _states(connection, jobs, tenant)).items() if state is None}
                    rows = await mark(connection, left - marked.keys(), tenant, now)
                    marked |= {row["job"]: _marked_of(row) for row in rows}
                    ended += await cancel_waiting(connection, left - marked.keys(), now=now)
                states = await _states(connection, jobs, tenant)
                if all(state is not None or job in marked for job, state in states.items()):
                    return JobCancels(tuple(ended), tuple(marked.values()), states)
        raise Unavailable("the ledger", "jobs start and wait again faster than they can be cancelled: try again")

    async def cancel_early(self, jobs: Collection[UUID], tenant: str, now: Ms) -> None:
        async with self._database.connection() as connection:
            await connection.execute(query("cancel_early"), list(jobs), tenant, now)

    async def early_cancels(self) -> list[EarlyCancel]:
        async with self._database.connection() as connection:
            rows = await connection.fetch(query("early_cancels"), _EARLY_PAGE)
        return [EarlyCancel(row["tenant"], row["job"]) for row in rows]

    async def forget_early(self, cancels: Sequence[EarlyCancel], *, made_before: Ms) -> None:
        named = columns([(one.tenant, one.job) for one in cancels], 2)
        async with self._database.connection() as connection:
            await connection.execute(query("forget_early_cancels"), *named, made_before)

    async def cancel_batch(self, batch: UUID, tenant: str, audited: Audited) -> bool:
        """The controls are changed first: that waits for starts, which must not wait for the batch's row meanwhile."""
        async with self._database.connection() as connection, connection.transaction():
            await controls.changed(connection)
            done = await connection.fetchval(query("cancel_batch"), batch, tenant, audited.at_ms)
            if done is None:
                return False
            await audit.record(connection, audited, "cancel", {"kind": "batch", "name": str(batch)})
        return True

    async def mark_batch(self, batch: UUID, now: Ms) -> list[Marked]:
        async with self._database.connection() as connection:
            rows = await connection.fetch(query("mark_batch_cancelled"), batch, now)
        return [_marked_of(row) for row in rows]

    async def end_page(self, batch: UUID, now: Ms, *, limit: int) -> tuple[Recorded, ...]:
        async with self._database.connection() as connection:
            rows = await connection.fetch(query("waiting_of_batch"), batch, limit)
            if not rows:
                return ()
            async with connection.transaction():
                return tuple(await cancel_waiting(connection, [row["job"] for row in rows], now=now))

    async def complete_without_lost(self, now: Ms, *, cancelled_before: Ms) -> list[UUID]:
        async with self._database.connection() as connection:
            rows = await connection.fetch(query("complete_without_lost"), now, cancelled_before)
        return [row["id"] for row in rows]

    async def marked(self) -> list[Marked]:
        async with self._database.connection() as connection:
            rows = await connection.fetch(query("to_be_cancelled"))
        return [_marked_of(row) for row in rows]


async def cancel_waiting(connection: Connection, jobs: Collection[UUID], *, now: Ms) -> list[Recorded]:
    """End those of the jobs that wait, with their results and their batches' counts. Return them.

    It needs a transaction of which only reads or locks of running attempts came before.
    """
    if not jobs:
        return []
    ids = sorted(jobs, key=_number)
    rows = await connection.fetch(query("cancel_waiting"), ids, now, *days_of(ids))
    ended = sorted((recorded_of(row) for row in rows), key=_job_number)
    deltas = Deltas()
    for one in ended:
        deltas.ended(one.batch, State.CANCELLED)
    await record_failures(connection, [one.job for one in ended])
    ended_before = await deltas.write(connection, now=now)
    await copy_results(connection, [(one.job, one.batch, None) for one in ended], ended_before)
    return ended


async def mark(connection: Connection, jobs: Collection[UUID], tenant: str, now: Ms) -> Sequence[Row]:
    """Mark those of a tenant's jobs that run, and return them; `is_new` says which were not marked before."""
    return await connection.fetch(query("mark_cancelled"), list(jobs), tenant, now) if jobs else []


async def _states(connection: Connection, jobs: Collection[UUID], tenant: str) -> Mapping[UUID, State | None]:
    """Read how jobs ended, None for those that are open. One that the tenant does not have is not in the answer."""
    rows = await connection.fetch(query("states_of"), list(jobs), tenant, min(jobs), max(jobs))
    return {row["id"]: None if row["state"] == "open" else State(row["state"]) for row in rows}


def _marked_of(row: Row) -> Marked:
    return Marked(row["job"], row["attempt"], row["deployment"], row["cancel_ms"])


def _number(job: UUID) -> int:
    """Sort as the ids sort, without their slower comparison."""
    return job.int


def _job_number(one: Recorded) -> int:
    return one.job.int
