"""A row of each table of the ledger (`broker/ledger/migrations`), with the same columns.

As from the driver, JSON is text. Columns can be read by name as those of the driver's rows, so that what turns rows into
values (`broker.ledger.rows`) serves both.
"""

from datetime import date
from typing import Any
from uuid import UUID

import msgspec


class MemoryRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row of a table."""

    def __getitem__(self, column: str, /) -> Any:
        return getattr(self, column)


class JobRow(MemoryRow, frozen=True, kw_only=True):
    id: UUID
    tenant: str
    key: str
    lane: str
    model: str
    endpoint: str
    state: str
    max_attempts: int
    attempts: int = 0
    priority: int = 0
    batch: UUID | None = None
    line: int | None = None
    custom_id: str | None = None
    admitted_ms: int
    deadline_ms: int
    settled_ms: int | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost_nano_usd: int = 0
    failure: str | None = None
    metadata: str | None = None
    traceparent: str | None = None
    body_hash: bytes


class BodyRow(MemoryRow, frozen=True, kw_only=True):
    job: UUID
    body: bytes


class ExecutionRow(MemoryRow, frozen=True, kw_only=True):
    job: UUID
    id: UUID
    attempt: int
    delivery: int
    deployment: str
    worker: str
    outcome: str
    failure: str | None = None
    waste: bool
    mended: bool = False
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cost_nano_usd: int
    cost_source: str
    started_ms: int
    queue_ms: int
    ttft_ms: int | None = None
    run_ms: int


class ResultRow(MemoryRow, frozen=True, kw_only=True):
    job: UUID
    batch: UUID | None = None
    ordinal: int | None = None
    body: bytes | None = None


class WaitingRow(MemoryRow, frozen=True, kw_only=True):
    model: str
    lane: str
    tenant: str
    rank: int = 0
    deadline_ms: int
    job: UUID
    attempt: int = 0
    uncounted: int = 0
    tried: tuple[str, ...] | None = None
    batch: UUID | None = None
    tokens: int = 1


class DelayedRow(MemoryRow, frozen=True, kw_only=True):
    job: UUID
    not_before_ms: int
    model: str
    lane: str
    tenant: str
    rank: int
    deadline_ms: int
    attempt: int
    uncounted: int
    tried: tuple[str, ...] | None = None
    batch: UUID | None = None
    tokens: int
    suspicion: str | None = None
    is_parked: bool = False


class RunningRow(MemoryRow, frozen=True, kw_only=True):
    job: UUID
    attempt: int
    uncounted: int
    deployment: str
    dispatched_ms: int
    deadline_ms: int
    model: str
    lane: str
    tenant: str
    tried: tuple[str, ...] | None = None
    tokens: int
    suspicion: str | None = None
    ward: str | None = None
    cancel_ms: int | None = None


class EarlyCancelRow(MemoryRow, frozen=True, kw_only=True):
    job: UUID
    tenant: str
    made_ms: int


class BatchRow(MemoryRow, frozen=True, kw_only=True):
    id: UUID
    tenant: str
    lane: str
    created_ms: int
    deadline_ms: int | None = None
    priority: int = 0
    submit_lane: str | None = None
    change: str | None = None
    sealed_ms: int | None = None
    completed_ms: int | None = None
    cancel_ms: int | None = None
    jobs: int | None = None
    admitted: int = 0
    succeeded: int = 0
    failed: int = 0
    expired: int = 0
    cancelled: int = 0
    dead: int = 0
    refused: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost_nano_usd: int = 0
    metadata: str
    retry_of: UUID | None = None
    root: UUID | None = None
    took: str | None = None
    is_replay: bool = False
    of_file: bool = False
    webhook: UUID | None = None


class ReplayRow(MemoryRow, frozen=True, kw_only=True):
    job: UUID
    source: UUID
    root: UUID | None = None


class InstructionBodyRow(MemoryRow, frozen=True, kw_only=True):
    instruction: UUID
    custom_id: str
    body: bytes
    model: str | None = None
    endpoint: str | None = None


class IdempotencyRow(MemoryRow, frozen=True, kw_only=True):
    tenant: str
    key: str
    job: UUID


class RepeatedRow(MemoryRow, frozen=True, kw_only=True):
    id: UUID
    tenant: str
    job: UUID


class FailureRow(MemoryRow, frozen=True, kw_only=True):
    job: UUID
    tenant: str
    model: str
    batch: UUID | None = None
    state: str
    kind: str
    ended_ms: int
    dropped_ms: int | None = None


class SpendRow(MemoryRow, frozen=True, kw_only=True):
    day: date
    deployment: str
    executions: int
    cost_nano_usd: int


class DeadLetterRow(MemoryRow, frozen=True, kw_only=True):
    id: UUID
    stream: str
    sequence: int
    received_ms: int
    subject: str
    cause: str
    reason: str
    tenant: str | None = None
    model: str | None = None
    headers: str
    payload: bytes
    requeued_ms: int | None = None


class InstructionRow(MemoryRow, frozen=True, kw_only=True):
    id: UUID
    kind: str
    tenant: str
    key: str
    made_ms: int
    what: str
    cursor: str | None = None
    counts: str = "{}"
    next_ms: int
    ended_ms: int | None = None
    failure: str | None = None


class CatalogRow(MemoryRow, frozen=True, kw_only=True):
    number: int
    applied_ms: int
    applied_by: str
    toml: str


class LeaderRow(MemoryRow, frozen=True, kw_only=True):
    shard: int
    holder: str
    term: int
    until_ns: int


class PauseRow(MemoryRow, frozen=True, kw_only=True):
    kind: str
    name: str
    paused_ms: int
    tenant: str
    key: str
    reason: str | None = None


class TenantRow(MemoryRow, frozen=True, kw_only=True):
    name: str
    created_ms: int
    made_by: str
    label: str | None = None
    disabled_ms: int | None = None


class ApiKeyRow(MemoryRow, frozen=True, kw_only=True):
    id: str
    tenant: str
    role: str
    hash: bytes
    models: tuple[str, ...] | None = None
    endpoints: tuple[str, ...] | None = None
    lanes: tuple[str, ...] | None = None
    deployments: tuple[str, ...] | None = None
    created_ms: int
    made_by: str
    expires_ms: int | None = None
    revoked_ms: int | None = None
    label: str | None = None
    replaces: str | None = None


class KeyUseRow(MemoryRow, frozen=True, kw_only=True):
    id: str
    used_ms: int


class FileRow(MemoryRow, frozen=True, kw_only=True):
    id: UUID
    tenant: str
    key: str
    purpose: str
    name: str
    store: str
    sha256: Any = None
    bytes: int = 0
    created_ms: int
    stored_ms: int | None = None
    expires_ms: int | None = None
    deleted_ms: int | None = None
    dropped_ms: int | None = None


class BlobRow(MemoryRow, frozen=True, kw_only=True):
    file: UUID
    number: int
    data: bytes
    by: Any
    """The gate of the process that has put it."""
    troubles: float
    """What that process had of them by then."""


class FileBatchRow(MemoryRow, frozen=True, kw_only=True):
    batch: UUID
    file: UUID
    endpoint: str
    window: str
    skips_bad: bool
    lines: int = 0
    bad: int = 0
    checked_ms: int | None = None
    expanded_ms: int | None = None
    failed_ms: int | None = None
    output_bytes: int | None = None
    error_bytes: int | None = None
    sized_retries: int | None = None
    model: str | None = None
    files_last_ms: int | None = None
    output_deleted_ms: int | None = None
    errors_deleted_ms: int | None = None


class BadLineRow(MemoryRow, frozen=True, kw_only=True):
    batch: UUID
    line: int
    fault: str


class LineNameRow(MemoryRow, frozen=True, kw_only=True):
    batch: UUID
    name: bytes
    line: int


class WebhookRow(MemoryRow, frozen=True, kw_only=True):
    id: UUID
    tenant: str
    url: str
    events: tuple[str, ...]
    label: str | None = None
    secret: bytes
    old_secret: bytes | None = None
    old_until_ms: int | None = None
    created_ms: int
    made_by: str
    disabled_ms: int | None = None
    disabled_why: str | None = None


class DeliveryRow(MemoryRow, frozen=True, kw_only=True):
    id: UUID
    tenant: str
    webhook: UUID
    event: UUID
    type: str
    data: str
    made_ms: int
    next_ms: int | None = None
    attempts: int = 0
    delivered_ms: int | None = None
    tries: str = "[]"


class AuditRow(MemoryRow, frozen=True, kw_only=True):
    id: UUID
    at_ms: int
    tenant: str
    key: str
    action: str
    target: str
    before: str | None = None
    after: str | None = None
