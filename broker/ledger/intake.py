"""Records new jobs, with their batches' counts."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from operator import attrgetter
from uuid import UUID

import asyncpg
from msgspec.structs import replace

from broker.core.admit import duplicate_key, key_conflict
from broker.core.records import Admitted, BatchInfo, Entry, Recorded
from broker.ledger.cancels import cancel_waiting
from broker.ledger.connection import Connection, Database
from broker.ledger.copies import copy_bodies, copy_jobs, copy_results, insert_jobs
from broker.ledger.counts import Deltas
from broker.ledger.days import Days
from broker.ledger.failures import record_failures
from broker.ledger.rows import change_of, columns, job_row
from broker.ledger.sql import query
from schemas.api import State
from schemas.ids import uuid7
from schemas.job import Lane
from schemas.units import Ms


class PgIntake:
    """Implements `broker.ports.IntakeLedger`."""

    def __init__(self, database: Database, days: Days) -> None:
        self._database = database
        self._days = days

    async def batches_of(self, ids: Collection[UUID]) -> dict[UUID, BatchInfo]:
        async with self._database.connection() as connection:
            rows = await connection.fetch(query("batches_of"), list(ids))
        return {
            row["id"]: BatchInfo(
                id=row["id"],
                tenant=row["tenant"],
                lane=Lane(row["lane"]),
                deadline_ms=row["deadline_ms"],
                priority=row["priority"],
                submit_lane=None if row["submit_lane"] is None else Lane(row["submit_lane"]),
                change=change_of(row),
                jobs=row["jobs"],
                is_full=row["is_full"],
            )
            for row in rows
        }

    async def admit(self, entries: Sequence[Entry]) -> Admitted:
        """Copy a group in, as most are all new. If one is not, insert it row by row.

        Jobs are written in the order of their ids, so that two brokers with the same jobs never wait for each other.
        """
        async with self._database.connection() as connection:
            await self._days.keep_on(connection)
            if [entry for entry in entries if entry.idempotency_key is not None]:
                return await _admit_known(connection, entries)
            try:
                async with connection.transaction():
                    return await record_entries(connection, entries)
            except asyncpg.UniqueViolationError:
                return await _admit_known(connection, entries)


async def record_entries(connection: Connection, entries: Sequence[Entry]) -> Admitted:
    """Record jobs that are certainly new, within the connection's transaction. Nothing may be locked there afterwards."""
    await copy_jobs(connection, [row_of(entry) for entry in sorted(entries, key=attrgetter("id.int"))])
    cancelled = await _follow(connection, entries)
    return answer_of(entries, [], cancelled)


REPEATED_KEPT_MS = 30 * 24 * 3_600_000
"""How long the id of a repetition names the first job: a month, longer than the ids of jobs may be sent."""


class _ClaimedInVain(Exception):
    """While a job claimed its key, another broker recorded another job under its id."""


async def _admit_known(connection: Connection, entries: Sequence[Entry]) -> Admitted:
    """Admit a group of which some jobs may be known, row by row."""
    first: dict[UUID, Entry] = {}
    for entry in entries:
        first.setdefault(entry.id, entry)
    while True:
        with suppress(_ClaimedInVain):
            return await _admit_some(connection, entries, first)


async def _admit_some(connection: Connection, entries: Sequence[Entry], first: Mapping[UUID, Entry]) -> Admitted:
    """`first`: the first entry of each id. Raises: _ClaimedInVain, and nothing is changed."""
    async with connection.transaction():
        keyed = [entry for entry in first.values() if entry.idempotency_key is not None and entry.refused is None]
        taken = {entry.id for entry in await _others(connection, keyed)}
        owners = await _owners(connection, [entry for entry in keyed if entry.id not in taken])
        first = await _refuse_other_keys(connection, first, owners)
        stands_for = {job: owners.get(job, job) if entry.refused is None else job for job, entry in first.items()}
        rows = [row_of(first[job]) for job in sorted(first) if stands_for[job] == job]
        new = await insert_jobs(connection, rows)
        fresh = [entry for job, entry in first.items() if job in new]
        cancelled = await _follow(connection, fresh)
        identities = await _identities(connection, stands_for.values())
        conflicts = [e for e in entries if identities.get(stands_for[e.id]) != (e.tenant, e.body_hash)]
        if any(first[e.id] is e and owners.get(e.id) == e.id for e in conflicts):
            raise _ClaimedInVain
        await _record_repeated(connection, [(e, owner) for e in keyed if (owner := stands_for[e.id]) != e.id])
    return answer_of(fresh, conflicts, cancelled)


async def _others(connection: Connection, entries: Sequence[Entry]) -> list[Entry]:
    """Find the jobs whose id is another job's."""
    identities = await _identities(connection, [entry.id for entry in entries]) if entries else {}
    return [e for e in entries if identities.get(e.id, (e.tenant, e.body_hash)) != (e.tenant, e.body_hash)]


async def _identities(connection: Connection, jobs: Iterable[UUID]) -> dict[UUID, tuple[str, bytes]]:
    rows = await connection.fetch(query("identities"), list(jobs))
    return {row["id"]: (row["tenant"], row["body_hash"]) for row in rows}


async def _refuse_other_keys(
    connection: Connection, first: Mapping[UUID, Entry], owners: Mapping[UUID, UUID]
) -> dict[UUID, Entry]:
    """Refuse the jobs whose idempotency key stands for another job, unless they are that very job once more.

    In a batch they are refused all the same: a batch counts its jobs, so none is left out.
    """
    others = {owner for job, owner in owners.items() if owner != job}
    rows = await connection.fetch(query("identities"), list(others)) if others else []
    known = {row["id"]: (row["model"], row["body_hash"]) for row in rows}
    known |= {job: (first[job].model, first[job].body_hash) for job in others & first.keys() - known.keys()}
    return {
        job: entry if (owner := owners.get(job, job)) == job else with_key_of(entry, owner, known[owner])
        for job, entry in first.items()
    }


def with_key_of(entry: Entry, owner: UUID, identity: tuple[str, bytes]) -> Entry:
    """Return the entry of a job whose key is another's."""
    if identity != (entry.model, entry.body_hash):
        return replace(entry, refused=key_conflict(entry, owner))
    return entry if entry.batch is None else replace(entry, refused=duplicate_key(entry, owner))


async def _record_repeated(connection: Connection, repeated: Sequence[tuple[Entry, UUID]]) -> None:
    """Let the ids of jobs that were submitted again name the first."""
    if not repeated:
        return
    rows = columns([(entry.id, entry.tenant, owner) for entry, owner in repeated], 3)
    oldest = uuid7(Ms(max(0, min(entry.admitted_ms for entry, _ in repeated) - REPEATED_KEPT_MS)), 0)
    await connection.execute(query("record_repeated"), *rows, oldest)


async def _owners(connection: Connection, keyed: Sequence[Entry]) -> dict[UUID, UUID]:
    """Find the job that each idempotency key stands for: the one that used it first.

    A key whose job was dropped with its day is free again.
    """
    if not keyed:
        return {}
    owners = await _claimed(connection, keyed)
    others = set(owners.values()) - owners.keys()
    known = {row["id"] for row in await connection.fetch(query("identities"), list(others))} if others else set()
    if not (gone := others - known):
        return owners
    dropped = [entry for entry in keyed if owners[entry.id] in gone]
    keys = [(entry.tenant, entry.idempotency_key, owners[entry.id]) for entry in dropped]
    await connection.execute(query("free_keys"), *columns(keys, 3))
    return await _claimed(connection, keyed)


async def _claimed(connection: Connection, keyed: Sequence[Entry]) -> dict[UUID, UUID]:
    tenants, keys = [entry.tenant for entry in keyed], [entry.idempotency_key for entry in keyed]
    while True:
        await connection.execute(query("claim_keys"), tenants, keys, [entry.id for entry in keyed])
        rows = await connection.fetch(query("key_owners"), tenants, keys)
        if len(rows) == len(keyed):  # else upkeep has dropped an old key in between
            return {entry.id: row["job"] for entry, row in zip(keyed, rows, strict=True)}


def row_of(entry: Entry) -> tuple[object, ...]:
    if entry.refused is None:
        return job_row(entry, state="open")
    return job_row(entry, state=State.FAILED, settled_ms=entry.admitted_ms, failure=entry.refused)


async def _follow(connection: Connection, fresh: Sequence[Entry]) -> Sequence[Recorded]:
    """Record what comes with new jobs: their bodies, their place in the backlog or their end, their batches' counts.

    Those of cancelled batches end at once, and are returned. Their batches' rows are locked since they were counted, so a
    cancel comes before that or finds them.
    """
    await copy_bodies(connection, fresh)
    waiting = [
        (e.model, e.lane, e.tenant, -e.priority, e.deadline_ms, e.id, e.batch) for e in fresh if e.refused is None
    ]
    await connection.copy_records_to_table(
        "waiting",
        records=waiting,
        columns=("model", "lane", "tenant", "rank", "deadline_ms", "job", "batch"),
        schema_name="infermq",
    )
    deltas = Deltas()
    for batch, count in Counter([entry.batch for entry in fresh]).items():
        deltas.admitted(batch, count)
    for entry in fresh:
        if entry.refused is not None:
            deltas.ended(entry.batch, State.FAILED)
            deltas.refused(entry.too_late_for)
    await record_failures(connection, [entry.id for entry in fresh if entry.refused is not None])
    latest = max([entry.admitted_ms for entry in fresh], default=Ms(0))
    ended_before = await deltas.write(connection, now=latest)
    if refused := [(entry.id, entry.batch, None) for entry in fresh if entry.refused is not None]:
        await copy_results(connection, refused, ended_before)
    if not deltas.cancelled:
        return ()
    late = [entry.id for entry in fresh if entry.refused is None and entry.batch in deltas.cancelled]
    return await cancel_waiting(connection, late, now=latest)


def answer_of(fresh: Sequence[Entry], conflicts: Sequence[Entry], cancelled: Sequence[Recorded]) -> Admitted:
    ended = {one.job for one in cancelled}
    return Admitted(
        waiting=tuple([(e.flow, e.place) for e in fresh if e.refused is None and not (ended and e.id in ended)]),
        cancelled=tuple(cancelled),
        refused=tuple([refusal_of(entry) for entry in fresh if entry.refused is not None]),
        conflicts=tuple(conflicts),
    )


def refusal_of(entry: Entry) -> Recorded:
    return Recorded(
        job=entry.id,
        tenant=entry.tenant,
        batch=entry.batch,
        custom_id=entry.custom_id,
        state=State.FAILED,
        model=entry.model,
        lane=entry.lane,
    )
