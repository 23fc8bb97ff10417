"""What the ledger of a simulated system must have on record: what was sent to it, what engines did and what that costs."""

import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any

import msgspec

from broker.simulate.faults.kinds import FaultKind
from broker.simulate.ledger.statements.reading import failure_kind
from broker.simulate.ledger.stored import DeliveryRow, ExecutionRow
from broker.simulate.network import STREAMS
from broker.simulate.system import System
from schemas.outcome import Succeeded

_SERVERS = (FaultKind.NATS_AWAY, FaultKind.STORE_LOST)
_LATE = (FaultKind.STOP, FaultKind.STOP_IN_TRANSACTION, FaultKind.SLOW, FaultKind.STALL)
"""After which a broker may publish an attempt that it dispatched long ago, when another has published it, too."""
_ENDED = ("succeeded", "failed")
_MOST_DEATHS = 20
"""Of workers by one job. About 5 are promised while brokers are there and nobody else ends workers (`core.suspects`)."""


def broken_records(system: System) -> Iterator[str]:
    yield from system.ran.wrong
    for job, times in system.ran.deaths.items():
        if times > _MOST_DEATHS and not system.outcomes_lost:  # with them it is lost who died of what
            yield f"job {job} ended {times} workers"
    yield from _jobs_as_sent(system)
    yield from _same_by_key(system)
    for row in system.tables.executions:
        yield from _execution(system, row)
    yield from _unrecorded(system)
    yield from _given_up(system)
    yield from _ran_once(system)
    yield from _requests_alone(system)
    yield from _results(system)
    yield from _orders(system)
    yield from _deliveries(system)


def _jobs_as_sent(system: System) -> Iterator[str]:
    """A job is its producer's, in the batch that it was sent in, and ran with the request that was sent."""
    told, ran = system.told, system.ran
    for job, one in told.sent.items():
        row = system.tables.jobs.get(job)
        if row is None:
            continue
        sent, most = one.submission, one.submission.job.max_attempts
        should = (told.tenant[job], told.batch_of.get(job), sent.model, str(job), most or row.max_attempts)
        has = (row.tenant, row.batch, row.model, row.custom_id, row.max_attempts)
        if has != should:
            yield f"job {job} was sent as {should}, and is recorded as {has}"
        if ran.bodies.get(job, sent.job.body) != sent.job.body:
            yield f"job {job} was sent with {sent.job.body!r} and ran with {ran.bodies[job]!r}"


def _same_by_key(system: System) -> Iterator[str]:
    """Of two jobs that are the same by their key there is one, and the other stands for it."""
    for pair in system.told.twice:
        rows = [row for job in pair if (row := system.tables.jobs.get(job)) is not None]
        if any('"type":"refused"' in (row.failure or "") for row in rows):
            continue  # no key is kept of what is refused
        there = [row.id for row in rows]
        known = [row for row in system.tables.repeated if row.id in pair]
        if len(there) > 1:
            yield f"jobs {pair[0]} and {pair[1]} are the same by their key, and both are there"
        elif not there and not system.submissions_lost:
            yield f"of the jobs {pair[0]} and {pair[1]}, which are the same by their key, none is there"
        for one in known:
            if [one.job] != there:
                yield f"job {one.id} is said to be {one.job}, and there is {there}"


def _execution(system: System, row: ExecutionRow) -> Iterator[str]:
    """An execution is recorded as its engine did it, and costs what its tokens cost."""
    done = system.ran.done.get(row.id)
    if row.outcome == "succeeded" and done is None:
        yield f"execution {row.id} of job {row.job} is recorded as succeeded, and no engine ended it"
    if row.outcome in _ENDED and done is not None:
        if (row.outcome == "succeeded") != isinstance(done.outcome, Succeeded):
            yield f"execution {row.id} of job {row.job} is recorded as {row.outcome}, and was {done.outcome}"
        used, has = done.outcome.usage, (row.input_tokens, row.output_tokens)
        if (used.input_tokens, used.output_tokens) != has:
            yield f"execution {row.id} used {used} and is recorded with {has}"
    if row.cost_source.startswith("catalog:") and not row.cost_source.endswith("estimate"):
        yield from _price(system, row)


def _price(system: System, row: ExecutionRow) -> Iterator[str]:
    """An execution costs what the catalog says that is named as the source."""
    catalog = system.tables.catalog[int(row.cost_source.split(":")[1])]
    price = _deployments(catalog.toml)[row.deployment]["price"]
    cost = 1000 * (row.input_tokens * price["input"] + row.output_tokens * price["output"])
    if row.cost_nano_usd != cost:
        yield f"execution {row.id} on {row.deployment} ({row.cost_source}) costs {row.cost_nano_usd}, its tokens {cost}"


@cache
def _deployments(toml: str) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads(toml)["deployments"]
    return found


def _unrecorded(system: System) -> Iterator[str]:
    """What an engine did is recorded if its worker still lives, which reports until it is heard."""
    if system.outcomes_lost:
        return
    known = {row.id: row for row in system.tables.executions}
    for execution, done in system.ran.done.items():
        if done.by.is_dead or done.by.is_over:
            continue
        row = known.get(execution)
        if row is None or row.outcome == "lost":
            yield f"execution {execution} was done by {done.by}, which lives, and is {row and row.outcome}"


def _given_up(system: System) -> Iterator[str]:
    """A job is given up only once all of its attempts have failed. One that was thought lost may have failed as well."""
    attempts = {(row.job, row.attempt) for row in system.tables.executions if row.outcome == "failed"}
    failed = Counter(job for job, _ in attempts)
    for row in system.tables.jobs:
        is_given_up = row.state == "dead" and failure_kind(row.state, row.failure) != "worker_lost"
        if is_given_up and failed[row.id] < row.max_attempts:
            yield f"job {row.id} is dead after {failed[row.id]} failed attempts, and may have {row.max_attempts}"


def _ran_once(system: System) -> Iterator[str]:
    """What a worker begins with which nothing goes wrong runs nowhere else, whatever becomes of all others."""
    touched = {fault.who for fault in system.happened}
    is_broker_late = any(one.who.startswith("broker") and one.kind in _LATE for one in system.happened)
    if is_broker_late or touched & {*STREAMS} or any(one.kind in _SERVERS for one in system.happened):
        return
    for (job, attempt), begun in system.ran.attempts.items():
        first = begun[0]
        is_well = first.name not in touched and not first.is_dead and not first.is_over
        if len(begun) > 1 and is_well:
            where = ", ".join(f"{one} ({one.number})" for one in begun)
            yield f"attempt {attempt} of job {job} ran in {where}, and nothing was wrong with the first"
    for row in system.tables.executions:
        if row.outcome == "lost" and system.size.spares_workers:
            yield f"execution {row.id} of job {row.job} is taken for lost, although no worker had any trouble"


def _requests_alone(system: System) -> Iterator[str]:
    """No worker runs a request twice at once, unless it was cut off: then it may not have heard that an attempt is over."""
    for job, what in system.ran.overlapping.items():
        if job not in system.starts.started and not system.network.was_cut:
            yield what


def _results(system: System) -> Iterator[str]:
    """The result of a job is what the engine answered in the execution that counts."""
    counts = {row.job: row.id for row in system.tables.executions if row.outcome == "succeeded" and not row.waste}
    for row in system.tables.results:
        done = system.ran.done.get(counts.get(row.job, row.job))
        if row.body is not None and done is not None and row.body != getattr(done.outcome, "body", None):
            yield f"the result of job {row.job} is not what its engine answered"


def _orders(system: System) -> Iterator[str]:
    """Every order that was taken is on record as its giver's, and every change has its row in the audit."""
    for order, tenant in system.told.orders.items():
        row = system.tables.instructions.get(order)
        if row is None or row.ended_ms is None or row.tenant != tenant:
            yield f"order {order} of {tenant} is {row}"
    audited = Counter(row.action for row in system.tables.audit)
    for action, times in system.told.did.items():
        if audited[action] < times:
            yield f"{action} was done {times} times, and audited {audited[action]} times"


def _deliveries(system: System) -> Iterator[str]:
    """Each endpoint is told once of each batch of its tenant."""
    for row in system.tables.deliveries:
        if row.delivered_ms is not None and f"evt_{row.event.hex}" not in system.endpoint.taken:
            yield f"{row.type} of {_about(row)} is recorded as delivered, and came to nobody"
    told = Counter((row.webhook, _about(row)) for row in system.tables.deliveries)
    for (webhook, about), times in told.items():
        if times > 1:
            yield f"webhook {webhook} is told {times} times of {about}"
    for batch, hooks in system.ends.listening.items():
        for hook in sorted(hooks):
            if not told[hook, str(batch)]:
                yield f"webhook {hook} is told nothing of the end of batch {batch}"


def _about(row: DeliveryRow) -> str:
    told = msgspec.json.decode(row.data)
    return str(told.get("batch_id", told["id"]))
