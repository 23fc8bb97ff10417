"""Records new jobs, with their batches' counts."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from operator import attrgetter
from uuid import UUID

from broker.core.records import Admitted, BatchInfo, Entry, Recorded
from broker.errors import Conflict
from broker.ledger.counts import Deltas
from broker.ledger.intake import REPEATED_KEPT_MS, answer_of, row_of, with_key_of
from broker.ledger.rows import change_of
from broker.simulate.ledger.cancels import cancel_waiting
from broker.simulate.ledger.copies import add_job, copy_bodies, copy_results, insert_job
from broker.simulate.ledger.counts import write_deltas
from broker.simulate.ledger.days import keep_days
from broker.simulate.ledger.failures import record_failures
from broker.simulate.ledger.stored import BatchRow, IdempotencyRow, RepeatedRow, WaitingRow
from broker.simulate.ledger.table import ALL
from broker.simulate.ledger.tables import Tables
from broker.simulate.ledger.transactions import Area, transaction
from schemas.api import State
from schemas.ids import uuid7
from schemas.job import Lane
from schemas.units import Ms


class MemoryIntake(Area):
    """Implements `broker.ports.IntakeLedger`."""

    @transaction
    def batches_of(self, ids: Collection[UUID]) -> dict[UUID, BatchInfo]:
        rows = [self._tables.batches.get(batch) for batch in sorted(set(ids))]
        return {row.id: _info_of(row) for row in rows if row is not None}

    @transaction
    def admit(self, entries: Sequence[Entry]) -> Admitted:
        keep_days(self._session)
        if not any(entry.idempotency_key is not None for entry in entries):
            try:
                with self._tables.transaction():
                    return record_entries(self._tables, entries)
            except Conflict:
                pass
        return _admit_known(self._tables, entries)


def _info_of(row: BatchRow) -> BatchInfo:
    is_admitted = row.jobs is not None and row.admitted >= row.jobs
    return BatchInfo(
        id=row.id,
        tenant=row.tenant,
        lane=Lane(row.lane),
        deadline_ms=None if row.deadline_ms is None else Ms(row.deadline_ms),
        priority=row.priority,
        submit_lane=None if row.submit_lane is None else Lane(row.submit_lane),
        change=change_of(row),
        jobs=row.jobs,
        is_full=row.cancel_ms is None and (row.completed_ms is not None or is_admitted),
    )


def record_entries(tables: Tables, entries: Sequence[Entry]) -> Admitted:
    """Record jobs that are certainly new, within the transaction. Raises: Conflict, if one is not."""
    for entry in sorted(entries, key=attrgetter("id.int")):
        insert_job(tables, row_of(entry))
    return answer_of(entries, [], _follow(tables, entries))


def _admit_known(tables: Tables, entries: Sequence[Entry]) -> Admitted:
    """Admit a group of which some jobs may be known, row by row."""
    first: dict[UUID, Entry] = {}
    for entry in entries:
        first.setdefault(entry.id, entry)
    keyed = [entry for entry in first.values() if entry.idempotency_key is not None and entry.refused is None]
    taken = {entry.id for entry in _others(tables, keyed)}
    owners = _owners(tables, [entry for entry in keyed if entry.id not in taken])
    first = _refuse_other_keys(tables, first, owners)
    stands_for = {job: owners.get(job, job) if entry.refused is None else job for job, entry in first.items()}
    new = {job for job in sorted(first) if stands_for[job] == job and add_job(tables, row_of(first[job]))}
    fresh = [entry for job, entry in first.items() if job in new]
    cancelled = _follow(tables, fresh)
    identities = _identities(tables, stands_for.values())
    conflicts = [e for e in entries if identities.get(stands_for[e.id]) != (e.tenant, e.body_hash)]
    _record_repeated(tables, [(e, owner) for e in keyed if (owner := stands_for[e.id]) != e.id])
    return answer_of(fresh, conflicts, cancelled)


def _others(tables: Tables, entries: Sequence[Entry]) -> list[Entry]:
    """Find the jobs whose id is another job's."""
    identities = _identities(tables, [entry.id for entry in entries])
    return [e for e in entries if identities.get(e.id, (e.tenant, e.body_hash)) != (e.tenant, e.body_hash)]


def _identities(tables: Tables, jobs: Iterable[UUID]) -> dict[UUID, tuple[str, bytes]]:
    return {job: (row.tenant, row.body_hash) for job in jobs if (row := tables.jobs.get(job)) is not None}


def _refuse_other_keys(tables: Tables, first: Mapping[UUID, Entry], owners: Mapping[UUID, UUID]) -> dict[UUID, Entry]:
    """Refuse the jobs whose idempotency key stands for another job, unless they are that very job once more."""
    answer = {}
    for job, entry in first.items():
        owner = owners.get(job, job)
        if owner != job:
            known = tables.jobs.get(owner) or first[owner]
            answer[job] = with_key_of(entry, owner, (known.model, known.body_hash))
        else:
            answer[job] = entry
    return answer


def _record_repeated(tables: Tables, repeated: Sequence[tuple[Entry, UUID]]) -> None:
    """Let the ids of jobs that were submitted again name the first. A few old ones go."""
    if not repeated:
        return
    oldest = uuid7(Ms(max(0, min(entry.admitted_ms for entry, _ in repeated) - REPEATED_KEPT_MS)), 0)
    for old in reversed(tables.repeated_by_id.before(ALL, (oldest.int,))[-_REPEATED_DROPPED:]):
        tables.repeated.remove(old)
    for entry, owner in repeated:
        tables.repeated.add(RepeatedRow(id=entry.id, tenant=entry.tenant, job=owner))


_REPEATED_DROPPED = 100
"""As many as record_repeated.sql drops at a time, the oldest first."""


def _owners(tables: Tables, keyed: Sequence[Entry]) -> dict[UUID, UUID]:
    """Find the job that each key stands for: the one that used it first. A key of a dropped job is free again."""
    owners = _claimed(tables, keyed)
    dropped = [entry for entry in keyed if (owner := owners[entry.id]) not in owners and owner not in tables.jobs]
    if not dropped:
        return owners
    for entry in dropped:
        row = tables.idempotency.get(_key_of(entry))
        if row is not None and row.job == owners[entry.id]:
            tables.idempotency.remove(_key_of(entry))
    return _claimed(tables, keyed)


def _claimed(tables: Tables, keyed: Sequence[Entry]) -> dict[UUID, UUID]:
    for entry in sorted(keyed, key=_key_of):
        tenant, key = _key_of(entry)
        tables.idempotency.add(IdempotencyRow(tenant=tenant, key=key, job=entry.id))
    return {entry.id: tables.idempotency[_key_of(entry)].job for entry in keyed}


def _key_of(entry: Entry) -> tuple[str, str]:
    return entry.tenant, entry.idempotency_key or ""


def _follow(tables: Tables, fresh: Sequence[Entry]) -> Sequence[Recorded]:
    """Record what comes with new jobs: their bodies, their place in the backlog or their end, their batches' counts.

    Those of cancelled batches end at once, and are returned.
    """
    copy_bodies(tables, fresh)
    deltas = Deltas()
    for batch, count in Counter([entry.batch for entry in fresh]).items():
        deltas.admitted(batch, count)
    for entry in fresh:
        if entry.refused is None:
            tables.waiting.insert(_waiting_of(entry))
        else:
            deltas.ended(entry.batch, State.FAILED)
            deltas.refused(entry.too_late_for)
    refused = [entry for entry in fresh if entry.refused is not None]
    record_failures(tables, [entry.id for entry in refused])
    latest = max([entry.admitted_ms for entry in fresh], default=Ms(0))
    ended_before = write_deltas(tables, deltas, now=latest)
    copy_results(tables, [(entry.id, entry.batch, None) for entry in refused], ended_before)
    if not deltas.cancelled:
        return ()
    late = [entry.id for entry in fresh if entry.refused is None and entry.batch in deltas.cancelled]
    return cancel_waiting(tables, late, now=latest)


def _waiting_of(entry: Entry) -> WaitingRow:
    return WaitingRow(
        model=entry.model,
        lane=entry.lane,
        tenant=entry.tenant,
        rank=-entry.priority,
        deadline_ms=entry.deadline_ms,
        job=entry.id,
        batch=entry.batch,
    )
