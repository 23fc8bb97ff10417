"""What retries, replays and requeues read, and how they link new jobs to those that they repeat."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from broker.simulate.ledger.statements.named import Rows, statement
from broker.simulate.ledger.statements.reading import Columns, columns_of, failure_kind
from broker.simulate.ledger.stored import ExecutionRow, FailureRow, InstructionBodyRow, JobRow, ReplayRow
from broker.simulate.ledger.tables import Tables

_BESIDE = 1024
"""What a row of a page counts beside its body, in bytes."""


@statement
def put_bodies(
    t: Tables,
    instruction: UUID,
    custom_ids: Sequence[str],
    bodies: Sequence[bytes],
    models: Sequence[str | None],
    endpoints: Sequence[str | None],
) -> Rows:
    for custom_id, body, model, endpoint in zip(custom_ids, bodies, models, endpoints, strict=True):
        row = InstructionBodyRow(
            instruction=instruction, custom_id=custom_id, body=body, model=model, endpoint=endpoint
        )
        t.instruction_bodies.put(row)
    return []


@statement
def bodies_put(t: Tables, instruction: UUID) -> Rows:
    return [{"count": sum(row.instruction == instruction for row in t.instruction_bodies)}]


@statement
def bodies_for(t: Tables, instruction: UUID, custom_ids: Sequence[str]) -> Rows:
    found = [t.instruction_bodies.get((instruction, custom_id)) for custom_id in custom_ids]
    return [row for row in found if row is not None]


@statement
def drop_bodies(t: Tables, instruction: UUID) -> Rows:
    for row in t.instruction_bodies:
        if row.instruction == instruction:
            t.instruction_bodies.remove((row.instruction, row.custom_id))
    return []


@statement
def lock_retries(t: Tables, root: str) -> Rows:
    """Nothing else runs meanwhile in any case."""
    del t, root
    return []


@statement
def retryable(
    t: Tables,
    batch: UUID,
    after: UUID,
    limit: int,
    states: Sequence[str],
    kinds: Sequence[str],
    custom_ids: Sequence[str] | None,
) -> Rows:
    found = []
    for id_ in t.failures_by_batch.after(batch, (after.int,)):
        job = t.jobs.get(id_)
        if job is None or (custom_ids is not None and job.custom_id not in custom_ids):
            continue
        root = (link.root if (link := t.replays.get(id_)) is not None else None) or id_
        newest = _newest_failure(t, root)
        if newest is not None and (newest.state not in states or (kinds and newest.kind not in kinds)):
            newest = None
        found.append(
            {
                "job": id_,
                "custom_id": job.custom_id,
                "root": root,
                "source": newest and newest.job,
                "state": newest and newest.state,
            }
        )
        if len(found) == limit:
            break
    return found


def _newest_failure(t: Tables, root: UUID) -> FailureRow | None:
    """Return the failure of a line that ended last. None: a job of the line is open or has succeeded, or none failed."""
    repeats = t.replays_by_root.keys(root)
    if any((job := t.jobs.get(id_)) is not None and job.state in ("open", "succeeded") for id_ in repeats):
        return None
    failures = [row for id_ in (root, *repeats) if (row := t.failures.get(id_)) is not None]
    return max(failures, key=lambda row: (row.ended_ms, row.job.int), default=None)


@statement
def sources(t: Tables, jobs: Sequence[UUID], low: UUID, high: UUID, page_bytes: int) -> Rows:
    del low, high
    rows: list[Columns] = []
    total = 0
    for id_ in jobs:
        job, body = t.jobs.get(id_), t.bodies.get(id_)
        total += _BESIDE + (len(body.body) if body is not None else 0)
        if rows and total > page_bytes:
            break
        rows.append({"body": None} if job is None or body is None else columns_of(job) | {"body": body.body})
    return rows


@statement
def insert_replays(t: Tables, jobs: Sequence[UUID], sources: Sequence[UUID], roots: Sequence[UUID | None]) -> Rows:
    for job, source, root in zip(jobs, sources, roots, strict=True):
        t.replays.insert(ReplayRow(job=job, source=source, root=root))
    return []


@statement
def limits_of_key(t: Tables, key: str) -> Rows:
    row = t.api_keys.get(key)
    return [] if row is None else [row]


@statement
def active_catalog(t: Tables) -> Rows:
    return sorted(t.catalog, key=lambda row: row.number, reverse=True)[:1]


@statement
def replayed_pairs(t: Tables, batch: UUID, read_to: int, limit: int, page_bytes: int) -> Rows:
    pairs: list[Columns] = []
    total = 0
    for id_ in t.results_by_batch.after(batch, (read_to, (1 << 128)), limit=limit):
        link, new, result = t.replays.get(id_), t.jobs.get(id_), t.results[id_]
        if link is None or new is None:
            continue
        old, old_result = t.jobs.get(link.source), t.results.get(link.source)
        old_body = None if old_result is None else old_result.body
        total += _BESIDE + len(result.body or b"") + len(old_body or b"")
        if pairs and total > page_bytes:
            break
        pairs.append(
            {"ordinal": result.ordinal, "n_custom_id": new.custom_id, "n_line": new.line}
            | _side(t, "n", new, result.body, id_)
            | _side(t, "o", old, old_body, link.source)
        )
    return pairs


def _side(t: Tables, which: str, job: JobRow | None, body: bytes | None, id_: UUID) -> Columns:
    ran = _best_execution(t, id_)
    values: dict[str, Any] = {
        "id": job and job.id,
        "state": job and job.state,
        "model": job and job.model,
        "failure": failure_kind(job.state, job.failure) if job is not None and job.state != "succeeded" else None,
        "input": job and job.input_tokens,
        "output": job and job.output_tokens,
        "cached": job and job.cached_tokens,
        "cost": job and job.cost_nano_usd,
        "deployment": ran and ran.deployment,
        "run_ms": ran and ran.run_ms,
        "body": body,
    }
    return {f"{which}_{name}": value for name, value in values.items()}


def _best_execution(t: Tables, job: UUID) -> ExecutionRow | None:
    """Return the last execution that was not waste, else the last."""
    ran = [t.executions[key] for key in t.executions_by_job.keys(job)]
    return min(ran, key=lambda row: (row.waste, -row.attempt, -row.id.int), default=None)
