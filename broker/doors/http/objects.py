"""The objects of OpenAI's API that files and batches are shown as, for the OpenAPI document.

`core.openai_batch` makes them. What OpenAI documents of them is in `tests/openai_shapes.toml`.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from broker.core.records import BadLine
from schemas.job import Metadata

Seconds = Annotated[int, Meta(ge=0, description="Since 1970.")]
Many = Annotated[int, Meta(ge=0)]


class FileObject(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file, as OpenAI's API shows it."""

    id: str
    object: Literal["file"]
    bytes: Many
    created_at: Seconds
    expires_at: Seconds | None
    """None: it is kept until somebody deletes it."""
    filename: str
    purpose: Literal["batch", "batch_output"]
    status: Literal["processed"]
    status_details: str | None


class FileObjects(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A page of files."""

    object: Literal["list"]
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class UploadObject(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much of a file is stored. Not OpenAI's."""

    object: Literal["upload"]
    bytes: Many
    file_id: str | None
    """None: it is not whole."""


class FileDeleted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    id: str
    object: Literal["file"]
    deleted: bool


class BatchFault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why a batch has failed: a line that cannot run."""

    code: str
    line: int | None
    """None: it is the file."""
    message: str
    param: str | None


class BatchFaults(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    object: Literal["list"]
    data: list[BatchFault]


class RequestCounts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    total: Many
    completed: Many
    failed: Many


class InputDetails(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    cached_tokens: Many


class OutputDetails(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    reasoning_tokens: Many


class BatchUsage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    input_tokens: Many
    input_tokens_details: InputDetails
    output_tokens: Many
    output_tokens_details: OutputDetails
    total_tokens: Many


class BatchMore(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What OpenAI does not have."""

    id: str
    """For `infermq batch show`."""
    lane: Literal["standard", "bulk"]
    cost_usd: float
    counts: dict[str, Many]
    """Its jobs by their states, and its bad lines."""
    on_bad_line: Literal["fail", "skip"]
    retry_of: str | None
    """The batch whose failures it runs again."""
    retries: list[str]
    webhook: str | None


Status = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]


class BatchObject(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A batch, as OpenAI's API shows it."""

    id: str
    object: Literal["batch"]
    endpoint: str
    model: str | None
    """The one that all its lines ask."""
    errors: BatchFaults | None
    input_file_id: str
    completion_window: str
    status: Status
    output_file_id: str | None
    error_file_id: str | None
    created_at: Seconds
    in_progress_at: Seconds | None
    expires_at: Seconds | None
    finalizing_at: Seconds | None
    completed_at: Seconds | None
    failed_at: Seconds | None
    expired_at: Seconds | None
    cancelling_at: Seconds | None
    cancelled_at: Seconds | None
    request_counts: RequestCounts
    usage: BatchUsage
    metadata: Metadata | None
    infermq: BatchMore


class BatchObjects(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A page of batches."""

    object: Literal["list"]
    data: list[BatchObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class BadLineObjects(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A page of lines that cannot run. Not OpenAI's."""

    object: Literal["list"]
    data: list[BadLine]
    has_more: bool
