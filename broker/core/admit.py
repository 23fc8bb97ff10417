"""Admits jobs: turns a submitted job into a ledger entry that waits, or is refused with a reason."""

from collections.abc import Callable, Iterator, Mapping
from uuid import UUID

import msgspec
from msgspec.structs import replace

from broker.core.authorise import Action, forbidden
from broker.core.body import body_hash, fault
from broker.core.principal import Principal
from broker.core.records import BatchInfo, Entry
from broker.core.retry import DEFAULT, policy_of
from schemas.api import Problem
from schemas.catalog import Catalog
from schemas.changes import Change
from schemas.codec import JobNames
from schemas.endpoints import ENDPOINTS
from schemas.ids import id_problem
from schemas.job import Job, Lane
from schemas.outcome import Refused
from schemas.units import Ms

_HOUR_MS = 3_600_000
DEFAULT_DEADLINE_MS = {
    Lane.INTERACTIVE: Ms(120_000),
    Lane.STANDARD: Ms(_HOUR_MS),
    Lane.BULK: Ms(24 * _HOUR_MS),
}
"""Counted from admission. Bulk has the window of OpenAI's Batch API; the others are how long a person or a service waits."""
LONGEST_MS = Ms(7 * 24 * _HOUR_MS)
"""The longest deadline: the ledger keeps its days open for ids this long."""
_NAMES_SHOWN = 8
_CHARACTERS_SHOWN = 100
_IN_SECONDS = 10**11
"""An instant below this is probably in seconds: read as milliseconds it would be in 1973 or earlier."""


class AdmissionContext(msgspec.Struct, frozen=True, kw_only=True):
    """What admission must know besides the job. All jobs of one message share one."""

    principal: Principal
    denied: Problem | None = None
    """Why the key is not let in: then the principal stands for its names only, and every job is refused."""
    lane: Lane
    model: str
    """The model as the principal names it. The catalog may have no such model."""
    catalog: Catalog
    now: Ms
    new_id: Callable[[int | None], UUID]
    """Makes an id for a job that has none, or a bad one, from the job's place in a message of several."""
    batches: Mapping[UUID, BatchInfo] = {}
    """Those batches that the jobs name and the ledger knows, of any tenant."""
    traceparent: str | None = None
    streams: bool = False
    """Whether somebody would read the chunks of a streamed answer."""


def admit(job: Job, context: AdmissionContext, *, place: int | None = None) -> Entry:
    """Return the entry for a job, with `refused` set if it must not run. `place` is its place in a message of several."""
    principal, now = context.principal, context.now
    bad_id = None if job.id is None else id_problem(job.id, now)
    batch = _own_batch(job.batch, context)
    deadline = _deadline(job, context.lane, batch=batch, now=now)
    full = batch if batch is not None and batch.is_full else None
    refused = _full(full) if full is not None else _refused(job, context, batch=batch, deadline=deadline)
    if bad_id is not None and refused is None:
        refused = Refused("bad_id", f"the id {job.id} {bad_id}", "id")
    model = context.catalog.models.get(context.model)
    policy = policy_of(context.model, context.catalog) if model is None else model.retry
    entry = Entry(
        id=context.new_id(place) if job.id is None or bad_id is not None else job.id,
        tenant=_storable(principal.tenant),
        key=_storable(principal.key),
        lane=context.lane,
        model=_storable(context.model)[:200],
        endpoint=_storable(job.endpoint)[:200],
        body=job.body,
        body_hash=body_hash(job.endpoint, job.body),
        admitted_ms=now,
        deadline_ms=deadline,
        max_attempts=job.max_attempts or policy.max_attempts,
        priority=job.priority if job.priority is not None else batch.priority if batch is not None else 0,
        batch=batch.id if batch is not None and full is None else None,
        too_late_for=full.id if full is not None else None,
        line=job.line,
        custom_id=None if job.custom_id is None else _storable(job.custom_id),
        metadata=job.metadata and {_storable(name): _storable(text) for name, text in job.metadata.items()},
        traceparent=None if context.traceparent is None else _storable(context.traceparent)[:512],
        idempotency_key=None if job.idempotency_key is None else _storable(job.idempotency_key),
        refused=refused,
    )
    return entry if batch is None or batch.change is None else _changed(entry, batch.change)


def _changed(entry: Entry, change: Change) -> Entry:
    """Return the entry of a job whose batch was changed before it came."""
    priority = entry.priority if change.priority is None else change.priority
    return replace(entry, lane=change.lane or entry.lane, priority=priority)


def unreadable(names: JobNames, why: str, context: AdmissionContext, *, place: int | None) -> Entry:
    """Return the entry for a job that cannot be decoded, so that its producer sees it fail, by what can be read of it."""
    batch = _own_batch(names.batch, context)
    full = batch if batch is not None and batch.is_full else None
    broken = Refused("unreadable_job", _storable(why).encode(errors="backslashreplace").decode())
    is_good = names.id is not None and id_problem(names.id, context.now) is None
    return Entry(
        id=names.id if names.id is not None and is_good else context.new_id(place),
        tenant=_storable(context.principal.tenant),
        key=_storable(context.principal.key),
        lane=context.lane,
        model=_storable(context.model)[:200],
        endpoint="",
        body=b"",
        body_hash=body_hash("", why.encode(errors="backslashreplace")),
        admitted_ms=context.now,
        deadline_ms=Ms(context.now + DEFAULT_DEADLINE_MS[context.lane]),
        max_attempts=DEFAULT.max_attempts,
        batch=batch.id if batch is not None and full is None else None,
        too_late_for=full.id if full is not None else None,
        line=names.line,
        custom_id=None if names.custom_id is None else _storable(names.custom_id),
        refused=broken if full is None else _full(full),
    )


def under_another_id(entry: Entry, own: UUID) -> Entry:
    """Return the entry for a job whose id is another job's, so that its producer sees it fail, under an id of its own."""
    message = f"the id {entry.id} is another job's already: ids are never used twice"
    refused = entry.refused or Refused("id_in_use", message, "id")
    return replace(entry, id=own, refused=refused, idempotency_key=None)


def key_conflict(entry: Entry, owner: UUID) -> Refused:
    """Say that the key of a job stands for another one, which asks for something else."""
    message = (
        f"the key {_shown(entry)} stands for the job {owner}, which has another model or body than this one ({entry.id}): "
        "use another key for another job, or none"
    )
    return Refused("key_conflict", message, "idempotency_key")


def duplicate_key(entry: Entry, owner: UUID) -> Refused:
    """Say that a job of a batch is another job once more, by its key."""
    message = f"the key {_shown(entry)} stands for the job {owner}, the same as this one ({entry.id}): see its result"
    return Refused("duplicate_key", message, "idempotency_key")


def _shown(entry: Entry) -> str:
    return repr((entry.idempotency_key or "")[:_CHARACTERS_SHOWN])


def unstorable(entry: Entry, own: UUID, why: str) -> Entry:
    """Return the entry for a job that the ledger cannot store, without what may be the reason."""
    refused = Refused("unstorable", f"the job cannot be recorded: {_storable(why)}")
    return replace(
        entry,
        id=own,
        refused=refused,
        body=b"",
        custom_id=None,
        metadata=None,
        traceparent=None,
        idempotency_key=None,
    )


def _full(batch: BatchInfo) -> Refused:
    jobs = "its job" if batch.jobs == 1 else f"its {batch.jobs} jobs"
    return Refused(
        "batch_sealed", f"the batch {batch.id} was sealed with {jobs}: submit this one in another", "batch"
    )


def _storable(text: str) -> str:
    """Replace NUL characters, which Postgres does not store. A job that has one is refused, and recorded without it."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}") if "\0" in text else text


def _own_batch(named: UUID | None, context: AdmissionContext) -> BatchInfo | None:
    """Return the batch that a job names, if it belongs to the job's tenant."""
    batch = None if named is None else context.batches.get(named)
    return batch if batch is not None and batch.tenant == context.principal.tenant else None


def _deadline(job: Job, lane: Lane, *, batch: BatchInfo | None, now: Ms) -> Ms:
    if batch is not None and batch.change is not None and batch.change.deadline_ms is not None:
        return Ms(batch.change.deadline_ms)
    if job.deadline_ms is not None:
        return Ms(job.deadline_ms)
    if job.deadline_in_ms is not None:
        return Ms(now + job.deadline_in_ms)
    if batch is not None and batch.deadline_ms is not None:
        return batch.deadline_ms
    return Ms(now + DEFAULT_DEADLINE_MS[lane])


def _refused(job: Job, context: AdmissionContext, *, batch: BatchInfo | None, deadline: Ms) -> Refused | None:
    model, name, problem = context.catalog.models.get(context.model), context.model, context.denied
    if model is None and (pin := context.catalog.pin(name)) is not None:
        name, model = pin[0], context.catalog.models[pin[0]]
        problem = problem or forbidden(context.principal, Action.PIN)
    problem = problem or forbidden(
        context.principal, Action.SUBMIT, model=name, lane=context.lane, endpoint=job.endpoint
    )
    if problem is not None:
        return Refused(problem.code, problem.message, problem.field, problem.limit)
    if model is None:
        return _unknown_model(context.model, context.catalog)
    endpoint = ENDPOINTS.get(job.endpoint)
    if endpoint is None or job.endpoint not in model.endpoints:
        served, other = ", ".join(model.endpoints), job.endpoint[:_CHARACTERS_SHOWN]
        return Refused("endpoint_not_served", f"{context.model} serves {served}, not {other!r}", "endpoint")
    return next(
        _faults(job, context, batch=batch, deadline=deadline),
        fault(job.body, endpoint, model, streams=context.streams),
    )


def _unknown_model(name: str, catalog: Catalog) -> Refused:
    known = sorted(catalog.models)
    names = ", ".join(known[:_NAMES_SHOWN]) + (", …" if len(known) > _NAMES_SHOWN else "")
    return Refused("unknown_model", f"there is no model {name[:200]!r}; known: {names or 'none, see apply'}", "model")


def _faults(job: Job, context: AdmissionContext, *, batch: BatchInfo | None, deadline: Ms) -> Iterator[Refused]:
    lane, now = context.lane, context.now
    if job.batch is not None and batch is None:
        yield Refused("unknown_batch", f"there is no batch {job.batch}: create it first", "batch")
    if batch is not None and lane is not batch.lane and lane is not batch.submit_lane:
        yield Refused("wrong_lane", f"the batch is of lane {batch.lane}, the subject says {lane}", "batch")
    if job.deadline_ms is not None and job.deadline_in_ms is not None:
        yield Refused("two_deadlines", "send deadline_ms or deadline_in_ms, not both", "deadline_in_ms")
    if deadline <= now:
        hint = ": deadline_ms is in milliseconds since the epoch" if deadline < _IN_SECONDS else ""
        yield Refused("deadline_past", f"the deadline was {now - deadline} ms ago{hint}", "deadline_ms")
    if deadline > now + LONGEST_MS:
        days, field = LONGEST_MS // (24 * _HOUR_MS), "deadline_ms" if job.deadline_in_ms is None else "deadline_in_ms"
        yield Refused("deadline_too_far", f"the deadline is more than {days} days ahead", field, LONGEST_MS)
    for field, text in _texts(job):
        if "\0" in text:
            yield Refused("nul_character", f"{field} holds a NUL character", field)


def _texts(job: Job) -> Iterator[tuple[str, str]]:
    if job.custom_id is not None:
        yield "custom_id", job.custom_id
    if job.idempotency_key is not None:
        yield "idempotency_key", job.idempotency_key
    for name, text in (job.metadata or {}).items():
        yield "metadata", name
        yield "metadata", text
