"""Shows files and batches as the objects of OpenAI's API."""

from typing import Any, Final
from uuid import UUID

from broker.core.records import BadLine, FileBatchState
from schemas.api import Batch, BatchStatus, Counts
from schemas.files import File, Purpose
from schemas.units import Ms

ERRORS_SHOWN: Final = 100
"""How many bad lines a batch names. All of them are in its error file."""
OUTPUT, ERRORS = "output", "errors"
"""What the ids of a batch's two files say of them."""


def file_id(file: UUID) -> str:
    return f"file-{file.hex}"


def output_id(batch: UUID, which: str) -> str:
    """Name a file that is what a batch came to: its `output` or its `errors`."""
    return f"file-{which}-{batch.hex}"


def batch_id(batch: UUID) -> str:
    return f"batch_{batch.hex}"


def read_id(text: str, prefix: str) -> UUID | None:
    """Read the id that follows a prefix. None: it is none. The plain text of a UUID is one too."""
    try:
        return UUID(text.removeprefix(prefix))
    except ValueError:
        return None


def read_file_id(text: str) -> tuple[UUID, str | None] | None:
    """Read the id of a file; the second is `output` or `errors`, and the first then a batch's. None: it is none."""
    for which in (OUTPUT, ERRORS):
        if text.startswith(f"file-{which}-"):
            batch = read_id(text, f"file-{which}-")
            return None if batch is None else (batch, which)
    file = read_id(text, "file-")
    return None if file is None else (file, None)


def shown_file(file: File, name: str) -> dict[str, Any]:
    """Return OpenAI's object of a file; `name` is its id."""
    return {
        "id": name,
        "object": "file",
        "bytes": file.bytes,
        "created_at": file.created_ms // 1000,
        "expires_at": _seconds(file.expires_ms),
        "filename": file.name,
        "purpose": str(file.purpose),
        "status": "processed",
        "status_details": None,
    }


def output_file(state: FileBatchState, which: str, size: int) -> dict[str, Any]:
    """Return OpenAI's object of a file that is what a batch came to."""
    batch = state.batch
    file = File(
        id=batch.id,
        purpose=Purpose.BATCH_OUTPUT,
        name=f"{batch_id(batch.id)}_{which}.jsonl",
        bytes=size,
        created_ms=state.ended_ms or batch.created_ms,
        expires_ms=_expires_ms(state),
    )
    return shown_file(file, output_id(batch.id, which))


def is_gone(state: FileBatchState, which: str, now: Ms) -> bool:
    """Tell whether a file that is what a batch came to was deleted, or kept for as long as was asked."""
    deleted = state.files.output_deleted_ms if which == OUTPUT else state.files.errors_deleted_ms
    expires = _expires_ms(state)
    return deleted is not None or (expires is not None and expires <= now)


def _expires_ms(state: FileBatchState) -> Ms | None:
    ended, last = state.ended_ms, state.files.last_ms
    return None if ended is None or last is None else Ms(ended + last)


def status_of(state: FileBatchState) -> str:
    """Return the status in OpenAI's words; others never appear.

    A batch that is being retried is in progress again, and then what is left of it: one whose lines expired is completed if
    they succeeded in the end.
    """
    batch = state.batch
    if state.failed_ms is not None:
        return "failed"
    if batch.completed_ms is not None and state.ended_ms is None:
        return "in_progress"
    if batch.status is BatchStatus.CANCELLED:
        return "cancelled"
    if batch.status is BatchStatus.CANCELLING:
        return "cancelling"
    if batch.completed_ms is not None:
        return "expired" if _counts(batch).expired else "completed"
    return "validating" if state.checked_ms is None else "in_progress"


def shown_batch(state: FileBatchState, bad: list[BadLine]) -> dict[str, Any]:
    """Return OpenAI's object of a batch. `bad` are its first bad lines. What OpenAI does not have is under `infermq`."""
    batch, status = state.batch, status_of(state)
    counts, ended = _counts(batch), status in {"completed", "expired", "cancelled"}
    left_out = state.bad if state.failed_ms is None else 0
    failed = counts.settled() - counts.succeeded + left_out
    completed_at = _seconds(state.ended_ms)
    return {
        "id": batch_id(batch.id),
        "object": "batch",
        "endpoint": state.endpoint,
        "model": state.model,
        "errors": {"object": "list", "data": [_error(one) for one in bad]} if status == "failed" else None,
        "input_file_id": file_id(state.file),
        "completion_window": state.window,
        "status": status,
        "output_file_id": output_id(batch.id, OUTPUT) if ended and counts.succeeded else None,
        "error_file_id": output_id(batch.id, ERRORS) if ended and failed else None,
        "created_at": batch.created_ms // 1000,
        "in_progress_at": _seconds(state.checked_ms) if state.failed_ms is None else None,
        "expires_at": _seconds(batch.deadline_ms),
        "finalizing_at": completed_at if status == "completed" else None,
        "completed_at": completed_at if status == "completed" else None,
        "failed_at": _seconds(state.failed_ms),
        "expired_at": completed_at if status == "expired" else None,
        "cancelling_at": _seconds(batch.cancel_ms),
        "cancelled_at": completed_at if status == "cancelled" else None,
        "request_counts": {
            "total": 0 if status == "failed" else state.lines,
            "completed": counts.succeeded,
            "failed": failed,
        },
        "usage": _usage(state),
        "metadata": batch.metadata or None,
        "infermq": _more(state),
    }


def _usage(state: FileBatchState) -> dict[str, Any]:
    usage = (state.batch.merged or state.batch).usage
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


def _more(state: FileBatchState) -> dict[str, Any]:
    batch, counts = state.batch, _counts(state.batch)
    return {
        "id": str(batch.id),
        "lane": str(batch.lane),
        "cost_usd": (batch.merged or batch).cost_nano_usd / 1e9,
        "counts": {**{name: getattr(counts, name) for name in counts.__struct_fields__}, "bad": state.bad},
        "on_bad_line": "skip" if state.skips_bad else "fail",
        "retry_of": None if batch.retry_of is None else batch_id(batch.retry_of),
        "retries": [batch_id(retry) for retry in batch.retries],
        "webhook": None if batch.webhook is None else str(batch.webhook),
    }


def _counts(batch: Batch) -> Counts:
    """Return how the lines of a batch have ended, also in its retries."""
    return batch.counts if batch.merged is None else batch.merged.counts


def _error(bad: BadLine) -> dict[str, Any]:
    return {"code": bad.code, "line": bad.number or None, "message": bad.message, "param": bad.field}


def _seconds(instant: Ms | None) -> int | None:
    return None if instant is None else instant // 1000
