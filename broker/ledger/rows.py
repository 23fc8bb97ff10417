"""Turns columns into values, and values into columns."""

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
from msgspec.structs import replace

from broker.core.records import Entry, Executed, Final, Flow, Place, Recorded, Verdict
from broker.core.seals import leased_seal
from schemas.api import Batch, BatchStatus, Counts, Execution, JobShow, Merged, Result, State, Waiting
from schemas.changes import Change
from schemas.codec import UNREADABLE
from schemas.job import Attempt, Lane
from schemas.listing import JobLine
from schemas.outcome import EngineFault, Failure, Usage
from schemas.ruling import Suspicion
from schemas.units import Ms, NanoUsd


class Row(Protocol):
    """The columns of a row by their names: the driver's, or one in memory."""

    def __getitem__(self, column: str, /) -> Any: ...


NEVER_MS = Ms(253_402_300_799_999)
"""The last instant that may be said: when the own time comes of a job that waits for something else."""


class _Kind(msgspec.Struct, frozen=True):
    """What every failure says of itself."""

    type: str = "unknown"


_failure = msgspec.json.Decoder(Failure)
_kind = msgspec.json.Decoder(_Kind)
_suspicion = msgspec.json.Decoder(Suspicion)
_change = msgspec.json.Decoder(Change)
_took = msgspec.json.Decoder(dict[str, int])
_metadata = msgspec.json.Decoder(dict[str, str])
_LANES = {str(lane): lane for lane in Lane}
_STATES = {str(state): state for state in State}
"""Members by their values, since Enum's own look-up is slow."""


def json_text(value: object | None) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()


def columns(rows: Sequence[tuple[object, ...]], width: int) -> list[list[object]]:
    """Turn rows into the arrays that unnest takes."""
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]


JOB_COLUMNS = (
    "id", "tenant", "key", "lane", "model", "endpoint", "state", "max_attempts", "attempts", "batch", "line",
    "custom_id", "admitted_ms", "deadline_ms", "settled_ms", "input_tokens", "output_tokens", "cached_tokens",
    "cost_nano_usd", "failure", "metadata", "traceparent", "body_hash", "priority",
)  # fmt: skip


def job_row(
    entry: Entry,
    *,
    state: str,
    attempts: int = 0,
    settled_ms: Ms | None = None,
    failure: Failure | None = None,
    executed: Executed | None = None,
) -> tuple[object, ...]:
    """Return the values of JOB_COLUMNS, in that order."""
    usage = executed.usage if executed else Usage()
    return (
        entry.id, entry.tenant, entry.key, entry.lane, entry.model, entry.endpoint, state, entry.max_attempts,
        attempts, entry.batch, entry.line, entry.custom_id, entry.admitted_ms, entry.deadline_ms, settled_ms,
        usage.input_tokens, usage.output_tokens, usage.cached_tokens, executed.cost_nano_usd if executed else 0,
        json_text(failure), json_text(entry.metadata), entry.traceparent, entry.body_hash,
        entry.priority,
    )  # fmt: skip


EXECUTION_COLUMNS = (
    "job", "id", "attempt", "delivery", "deployment", "worker", "outcome", "failure", "waste", "mended",
    "input_tokens", "output_tokens", "cached_tokens", "cost_nano_usd", "cost_source", "started_ms", "queue_ms",
    "ttft_ms", "run_ms",
)  # fmt: skip


def execution_row(verdict: Verdict, executed: Executed, *, waste: bool) -> tuple[object, ...]:
    """Return the values of EXECUTION_COLUMNS, in that order."""
    usage = executed.usage
    return (
        verdict.job, executed.id, executed.attempt, executed.delivery, executed.deployment, executed.worker,
        executed.outcome, executed.failure, waste, executed.mended, usage.input_tokens, usage.output_tokens,
        usage.cached_tokens, executed.cost_nano_usd, executed.cost_source, executed.started_ms, executed.queue_ms,
        executed.ttft_ms, executed.run_ms,
    )  # fmt: skip


def attempt_of(row: Row, key: bytes, now: Ms) -> Attempt:
    """Return the attempt, sealed with the key."""
    return Attempt(
        job=row["job"],
        number=row["attempt"],
        tenant=row["tenant"],
        lane=_LANES[row["lane"]],
        model=row["model"],
        deployment=row["deployment"],
        endpoint=row["endpoint"],
        body=row["body"],
        admitted_ms=row["admitted_ms"],
        deadline_ms=row["deadline_ms"],
        dispatched_ms=row["dispatched_ms"],
        left_ms=Ms(max(0, row["deadline_ms"] - now)),
        traceparent=row["traceparent"],
        seal=leased_seal(row["job"], row["attempt"], row["deployment"], key),
    )


def flow_of(row: Row) -> Flow:
    return Flow(row["model"], _LANES[row["lane"]], row["tenant"])


def place_of(row: Row) -> Place:
    return Place(row["rank"], row["deadline_ms"], row["job"])


def recorded_of(row: Row) -> Recorded:
    return Recorded(
        job=row["id"],
        tenant=row["tenant"],
        batch=row["batch"],
        custom_id=row["custom_id"],
        state=_STATES[row["state"]],
        model=row["model"],
        lane=_LANES[row["lane"]],
    )


def recorded_request(verdict: Verdict, entry: Entry) -> Recorded:
    """Return the end of an interactive request."""
    return Recorded(
        job=entry.id,
        tenant=entry.tenant,
        batch=entry.batch,
        custom_id=entry.custom_id,
        state=end_of(verdict).state,
        model=entry.model,
        lane=entry.lane,
    )


def end_of(verdict: Verdict) -> Final:
    """Return the transition of a verdict that ends its job."""
    assert isinstance(verdict.transition, Final)  # noqa: S101 - the caller chose those
    return verdict.transition


def _total_ms(row: Row) -> Ms:
    return Ms(max(0, row["settled_ms"] - row["admitted_ms"]))


def usage_of(row: Row) -> Usage:
    return Usage(row["input_tokens"], row["output_tokens"], row["cached_tokens"])


def suspicion_of(row: Row) -> Suspicion | None:
    return None if row["suspicion"] is None else _suspicion.decode(row["suspicion"])


def failure_of(row: Row) -> Failure | None:
    """Read why a job failed. A kind that this broker does not know was recorded by a newer one."""
    if row["failure"] is None:
        return None
    try:
        failure: Failure = _failure.decode(row["failure"])
    except UNREADABLE:
        kind = _kind.decode(row["failure"]).type
        return EngineFault(f"it failed as {kind!r}, of which this broker knows no more: it is older than the record")
    return failure


def change_of(row: Row) -> Change | None:
    return None if row["change"] is None else _change.decode(row["change"])


def metadata_of(row: Row) -> dict[str, str]:
    return {} if row["metadata"] is None else _metadata.decode(row["metadata"])


def batch_of(row: Row) -> Batch:
    return Batch(
        id=row["id"],
        status=_status(row),
        lane=Lane(row["lane"]),
        created_ms=row["created_ms"],
        sealed_ms=row["sealed_ms"],
        completed_ms=row["completed_ms"],
        deadline_ms=row["deadline_ms"],
        priority=row["priority"],
        jobs=row["jobs"],
        counts=Counts(**{name: row[name] for name in Counts.__struct_fields__}),
        usage=usage_of(row),
        cost_nano_usd=NanoUsd(row["cost_nano_usd"]),
        metadata=metadata_of(row),
        refused=row["refused"],
        retry_of=row["retry_of"],
        root=row["root"],
        is_replay=row["is_replay"],
        of_file=row["of_file"],
        cancel_ms=row["cancel_ms"],
        webhook=row["webhook"],
    )


def with_ahead(batch: Batch, ahead: int | None) -> Batch:
    """Add how many jobs come before a batch. None: none of it waits. More than AHEAD_MOST means that there are more."""
    if ahead is None:
        return batch
    return replace(batch, ahead=min(ahead, AHEAD_MOST), more_ahead=ahead > AHEAD_MOST)


def with_retries(row: Row, retries: Sequence[Row]) -> Batch:
    """Return a batch with what it and its retries came to together.

    A retry counts the jobs that it took over, by the states that they had; each counts where it ended there.
    """
    batch = batch_of(row)
    if not retries:
        return batch
    others = [batch_of(retry) for retry in retries]
    took = [_took.decode(retry["took"] or "{}") for retry in retries]
    counts = {
        state: getattr(batch.counts, state)
        + sum(getattr(other.counts, state) for other in others)
        - sum(some.get(state, 0) for some in took)
        for state in Counts.__struct_fields__
        if state != "admitted"
    }
    every = (batch, *others)
    merged = Merged(
        counts=Counts(admitted=batch.counts.admitted, **counts),
        usage=Usage(
            sum(one.usage.input_tokens for one in every),
            sum(one.usage.output_tokens for one in every),
            sum(one.usage.cached_tokens for one in every),
        ),
        cost_nano_usd=NanoUsd(sum(one.cost_nano_usd for one in every)),
        is_completed=all(one.completed_ms is not None for one in every),
    )
    return replace(batch, retries=tuple(other.id for other in others), merged=merged)


def _status(row: Row) -> BatchStatus:
    if row["cancel_ms"] is not None:
        return BatchStatus.CANCELLING if row["completed_ms"] is None else BatchStatus.CANCELLED
    if row["completed_ms"] is not None:
        return BatchStatus.COMPLETED
    return BatchStatus.OPEN if row["sealed_ms"] is None else BatchStatus.IN_PROGRESS


def result_of(row: Row) -> Result:
    return Result(
        job=row["id"],
        custom_id=row["custom_id"],
        line=row["line"],
        state=State(row["state"]),
        model=row["model"],
        body=_raw(row["body"]),
        failure=failure_of(row),
        usage=usage_of(row),
        cost_nano_usd=row["cost_nano_usd"],
        attempts=row["attempts"],
        total_ms=_total_ms(row),
    )


def job_line_of(row: Row) -> JobLine:
    return JobLine(
        id=row["id"],
        state=_STATES[row["state"]],
        lane=_LANES[row["lane"]],
        model=row["model"],
        batch=row["batch"],
        line=row["line"],
        custom_id=row["custom_id"],
        attempts=row["attempts"],
        admitted_ms=row["admitted_ms"],
        deadline_ms=row["deadline_ms"],
        settled_ms=row["settled_ms"],
        failure=failure_of(row),
        usage=usage_of(row),
        cost_nano_usd=row["cost_nano_usd"],
        metadata=metadata_of(row),
    )


def _raw(body: bytes | None) -> msgspec.Raw:
    return msgspec.Raw(b"null" if body is None else body)


def execution_of(row: Row) -> Execution:
    fields = {name: row[name] for name in Execution.__struct_fields__ if name != "usage"}
    return Execution(usage=usage_of(row), **fields)


AHEAD_MOST = 1000
"""How many of the jobs before a waiting one are counted at most."""


def show_of(row: Row, executions: tuple[Execution, ...], *, ahead: int | None) -> JobShow:
    """`ahead`: None unless it waits; more than AHEAD_MOST means that there are more."""
    state, attempt = _standing(row)
    return JobShow(
        id=row["id"],
        state=state,
        lane=Lane(row["lane"]),
        priority=row["priority"],
        model=row["model"],
        endpoint=row["endpoint"],
        batch=row["batch"],
        line=row["line"],
        custom_id=row["custom_id"],
        attempt=attempt,
        max_attempts=row["max_attempts"],
        admitted_ms=row["admitted_ms"],
        deadline_ms=row["deadline_ms"],
        dispatched_ms=row["dispatched_ms"],
        settled_ms=row["settled_ms"],
        not_before_ms=row["not_before_ms"] if row["not_before_ms"] != NEVER_MS else None,
        failure=failure_of(row),
        usage=usage_of(row),
        cost_nano_usd=row["cost_nano_usd"],
        metadata=metadata_of(row),
        executions=executions,
        body=_raw(row["body"]),
        waiting=None if ahead is None else _waiting(row, ahead),
        cancel_ms=row["cancel_ms"],
        replay_of=row["replay_of"],
    )


def _waiting(row: Row, ahead: int) -> Waiting:
    return Waiting(
        ahead=min(ahead, AHEAD_MOST),
        more_ahead=ahead > AHEAD_MOST,
        tried=tuple(row["tried"] or ()),
        suspected=row["suspicion"] is not None,
    )


def _standing(row: Row) -> tuple[State, int]:
    """Tell the state of an open job by the table that has its narrow row."""
    if row["state"] != "open":
        return State(row["state"]), row["attempts"]
    if row["running_attempt"] is not None:
        return State.RUNNING, row["running_attempt"]
    return State.QUEUED, row["waiting_attempt"] or 0
