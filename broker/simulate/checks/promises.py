"""What must hold of a simulated system: what was promised, compared with the ledger, the engines and what is left over."""

import json
from collections import Counter
from collections.abc import Iterator
from uuid import UUID

from broker.simulate.checks.ends import ENDED
from broker.simulate.checks.records import broken_records
from broker.simulate.checks.requests import broken_requests
from broker.simulate.checks.results import broken_reads
from broker.simulate.ledger.stored import DeliveryRow, JobRow
from broker.simulate.network import STREAMS
from broker.simulate.system import System

_UNBEGUN_MS = 10
"""How long an attempt may take that is cancelled before its engine begins."""


def what_is_open(system: System) -> list[str]:
    """List what is still under way; nothing, if the system is quiet."""
    tables, now_ms = system.tables, system.tables.timers.wall_ns() // 1_000_000
    counts = {
        "waiting": len(tables.waiting),
        "delayed": len(tables.delayed),
        "running": len(tables.running),
        "instructions": sum(row.ended_ms is None for row in tables.instructions),
        **{name: system.network.messages(name) for name in STREAMS},
        "deliveries": sum(_is_due(row, now_ms) for row in tables.deliveries),
        "callers": sum(not (one.is_over or one.is_dead) for one in system.callers),
    }
    found = [f"{count} in {name}" for name, count in counts.items() if count]
    for member in system.members.values():
        worker = getattr(member.life, "worker", None)
        if worker is not None and worker.pool.running:
            found.append(f"{worker.pool.running} in {member.name}")
        if member.process is not None and (member.process.is_dead or member.process.is_over):
            found.append(f"{member.name} is not there")
    return found


def _is_due(row: DeliveryRow, now_ms: int) -> bool:
    return row.delivered_ms is None and row.next_ms is not None and row.next_ms <= now_ms


def broken_now(system: System) -> Iterator[str]:
    """Find what must never be, not even for a moment."""
    yield from system.told.wrong
    yield from system.keys.wrong
    for member in system.members.values():
        worker = getattr(member.life, "worker", None)
        if worker is None or member.process is None or member.process.is_dead:
            continue
        capacity = worker._engine.capacity()  # noqa: SLF001 - nobody else looks
        if worker.pool.running > capacity.slots + capacity.reserve:
            yield f"{member.name} runs {worker.pool.running} with {capacity.slots}+{capacity.reserve} slots"


def broken(system: System) -> Iterator[str]:
    """Find what is wrong once everything is quiet, beside what the ledger finds by comparing itself with itself."""
    yield from system.told.wrong
    yield from _promises(system)
    yield from _replies(system)
    yield from _texts(system)
    yield from _announced(system)
    yield from _batches(system)
    yield from _executions(system)
    yield from _told_by_webhooks(system)
    yield from broken_records(system)
    yield from broken_requests(system)
    yield from broken_reads(system)


def _promises(system: System) -> Iterator[str]:
    """Every accepted job has ended, once, in a way that it may."""
    told, jobs = system.told, system.tables.jobs
    for job, ends in told.accepted.items():
        row = jobs.get(job)
        if row is None:
            if job not in system.lost:
                yield f"job {job} was accepted and is not in the ledger"
        elif row.state not in ENDED:
            yield f"job {job} was accepted and is {row.state}"
        elif row.state not in ends and not _is_excused(system, row):
            yield f"job {job} may end as {', '.join(sorted(ends))}, and is {row.state}: {row.failure}"


def _is_excused(system: System, row: JobRow) -> bool:
    told = system.told
    is_meddled = (row.model, row.tenant) in told.meddled_models or row.id in told.meddled or row.batch in told.meddled
    return row.state == "cancelled" and is_meddled


def _replies(system: System) -> Iterator[str]:
    """Who was answered finds the same answer in the ledger, or that of a second attempt that succeeded too.

    If a worker dies between its report and its reply, another attempt answers, and is recorded as waste.
    """
    wasted = [row.id.hex.encode() for row in system.tables.executions if row.waste and row.outcome == "succeeded"]
    for job, body in system.told.replies.items():
        row = system.tables.jobs.get(job)
        if row is None:
            if not system.outcomes_lost:
                yield f"request {job} was answered and is not in the ledger"
        elif row.state != "succeeded":
            if not system.outcomes_lost:
                yield f"request {job} was answered and is {row.state}"
        elif (result := system.tables.results.get(job)) is None or (
            result.body != body and not any(name in body for name in wasted)
        ):
            yield f"request {job} was answered with something else than its result"


def _texts(system: System) -> Iterator[str]:
    """The same holds of answers that were translated: the text is that of the result."""
    wasted = {row.job for row in system.tables.executions if row.waste and row.outcome == "succeeded"}
    for job, text in system.told.texts.items():
        row, result = system.tables.jobs.get(job), system.tables.results.get(job)
        if row is None or result is None or row.state != "succeeded":
            if not system.outcomes_lost:
                yield f"request {job} was answered and is {row and row.state}"
        elif job not in wasted and (result.body is None or text != _text_of(result.body)):
            yield f"request {job} was answered with {text!r}, which is not its result"


def _text_of(chat: bytes) -> str:
    return str(json.loads(chat)["choices"][0]["message"]["content"])


def _announced(system: System) -> Iterator[str]:
    for job, state in system.told.announced.items():
        row = system.tables.jobs.get(job)
        if row is None or row.state != state:
            yield f"job {job} was announced as {state}, and is {row and row.state}"
    for job, batch in system.told.followed.items():
        row = system.tables.jobs.get(job)
        if row is None or row.batch != batch:
            yield f"job {job} was among the results of batch {batch}, and is of {row and row.batch}"
    for job in system.told.succeeded:
        row = system.tables.jobs.get(job)
        if row is None or row.state != "succeeded":
            yield f"job {job} was among the results of its batch as succeeded, and is {row and row.state}"


def _batches(system: System) -> Iterator[str]:
    """A batch is complete, with the jobs that it was sealed with."""
    late = Counter(batch for job, batch in system.told.late.items() if job in system.tables.jobs)
    lost = {system.told.batch_of.get(job) for job in system.lost}
    for batch, count in system.told.batches.items():
        row = system.tables.batches.get(batch)
        if row is None:
            yield f"batch {batch} was sealed and is not in the ledger"
        elif row.completed_ms is None and batch not in lost:
            yield f"batch {batch} of {count} jobs is not complete: {row.admitted} admitted"
        elif row.jobs != count and row.cancel_ms is None and not row.of_file:
            yield f"batch {batch} was sealed with {count} jobs, and has {row.jobs}"
        elif row.refused != late[batch]:
            yield f"batch {batch} refused {row.refused} jobs, and {late[batch]} came late"


def _executions(system: System) -> Iterator[str]:
    """The ledger has no execution that no engine began, and none twice."""
    for row in system.tables.executions:
        is_given_up = (
            row.outcome in ("cancelled", "expired") and not row.output_tokens
        )  # perhaps before its first step
        is_run = row.outcome not in ("lost", "released") and not is_given_up and row.run_ms > _UNBEGUN_MS
        if is_run and row.id not in system.ran.begun:
            yield f"execution {row.id} of job {row.job} is recorded as {row.outcome}, and no engine began it"
    for execution, times in system.ran.begun.items():
        if times > 1:
            yield f"execution {execution} began {times} times"


def _told_by_webhooks(system: System) -> Iterator[str]:
    """Endpoints were told only what is true."""
    for kind, about in system.endpoint.taken.values():
        if kind.startswith("batch."):
            row = system.tables.batches.get(UUID(about.removeprefix("batch_")))
            if row is None or row.completed_ms is None:
                yield f"a webhook told {kind} of {about}, which is not complete"
