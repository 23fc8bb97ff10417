"""All tables of a ledger in memory, which every process of a simulated world shares."""

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from datetime import date
from typing import Protocol
from uuid import UUID

import msgspec

from broker.ports import Entropy
from broker.simulate.ledger.locks import Locks
from broker.simulate.ledger.stored import (
    ApiKeyRow,
    AuditRow,
    BadLineRow,
    BatchRow,
    BlobRow,
    BodyRow,
    CatalogRow,
    DeadLetterRow,
    DelayedRow,
    DeliveryRow,
    EarlyCancelRow,
    ExecutionRow,
    FailureRow,
    FileBatchRow,
    FileRow,
    IdempotencyRow,
    InstructionBodyRow,
    InstructionRow,
    JobRow,
    KeyUseRow,
    LeaderRow,
    LineNameRow,
    PauseRow,
    RepeatedRow,
    ReplayRow,
    ResultRow,
    RunningRow,
    SpendRow,
    TenantRow,
    WaitingRow,
    WebhookRow,
)
from broker.simulate.ledger.table import ALL, Index, Log, Order, Table, Value
from broker.simulate.timers import Timers
from schemas.ids import uuid7
from schemas.units import Ms

FlowKey = tuple[str, str, str]
"""The model, lane and tenant of a flow."""
Stands = tuple[Hashable, Order] | None


class Tables:
    """The tables by their names in Postgres. An index has the name of what it finds rows by, and of what they wait for."""

    def __init__(self, timers: Timers, entropy: Entropy) -> None:
        self.timers = timers
        """The server's."""
        self._entropy = entropy
        self._log: Log = []
        self.locks = Locks()
        self._make_jobs()
        self._make_batches()
        self._make_control()
        self._make_accounts()
        self._make_files()
        self._make_webhooks()
        now = Ms(timers.wall_ns() // 1_000_000)
        self.tenants.insert(TenantRow(name="default", created_ms=now, made_by="infermq"))
        self._log.clear()

    def id_at(self, at_ms: int) -> UUID:
        """Make an id of an instant (`infermq.id_at`)."""
        return uuid7(Ms(at_ms), self._entropy())

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Keep all that the block changes, or nothing of it if it raises. It holds for a block within one as well."""
        began = len(self._log)
        try:
            yield
        except BaseException:
            while len(self._log) > began:
                table, key, old = self._log.pop()
                table.restore(key, old)
            raise
        if not began:
            self._log.clear()

    @property
    def is_changing(self) -> bool:
        """Whether a transaction has changed something and is not over."""
        return bool(self._log)

    def place_of(self, job: UUID) -> WaitingRow | DelayedRow | None:
        """Return where a job waits, now or for its time."""
        return self.waiting.get(job) or self.delayed.get(job)

    def wait_no_more(self, job: UUID) -> WaitingRow | DelayedRow | None:
        """Take a job from where it waits. Return the row; None: it waits nowhere."""
        if job in self.waiting:
            return self.waiting.remove(job)
        return self.delayed.remove(job) if job in self.delayed else None

    def _make_jobs(self) -> None:
        """Make the tables that hold a row a job, or several."""
        log = self._log
        self.days: Value[frozenset[int]] = Value(log, frozenset())
        """The days whose jobs are kept, counted from 1970."""
        self.jobs_by_id: Index[UUID, JobRow] = Index(_by_id)
        self.jobs_by_batch: Index[UUID, JobRow] = Index(lambda row: _of(row.batch, (row.id.int,)))
        self.jobs: Table[UUID, JobRow] = Table("jobs", log, _id, self.jobs_by_id, self.jobs_by_batch)
        self.bodies: Table[UUID, BodyRow] = Table("bodies", log, _job)
        self.executions_by_job: Index[tuple[UUID, UUID], ExecutionRow] = Index(
            lambda row: (row.job, (row.attempt, row.id.int))
        )
        self.executions: Table[tuple[UUID, UUID], ExecutionRow] = Table(
            "executions", log, lambda row: (row.job, row.id), self.executions_by_job
        )
        self.results_by_batch: Index[UUID, ResultRow] = Index(lambda row: _of(row.batch, (row.ordinal, row.job.int)))
        self.results: Table[UUID, ResultRow] = Table("results", log, _job, self.results_by_batch)
        self.results.trigger = self._tell_of_job
        self.failures_by_id: Index[UUID, FailureRow] = Index(_by_job)
        self.failures_by_tenant: Index[UUID, FailureRow] = Index(lambda row: (row.tenant, (row.job.int,)))
        self.failures_by_batch: Index[UUID, FailureRow] = Index(lambda row: _of(row.batch, (row.job.int,)))
        self.failures_dead: Index[UUID, FailureRow] = Index(
            lambda row: _by_job(row) if row.state == "dead" and row.dropped_ms is None else None
        )
        self.failures: Table[UUID, FailureRow] = Table(
            "failures",
            log,
            _job,
            self.failures_by_id,
            self.failures_by_tenant,
            self.failures_by_batch,
            self.failures_dead,
        )
        self.replays_by_root: Index[UUID, ReplayRow] = Index(lambda row: _of(row.root, (row.job.int,)))
        self.replays: Table[UUID, ReplayRow] = Table("replays", log, _job, self.replays_by_root)
        self.idempotency_by_age: Index[tuple[str, str], IdempotencyRow] = Index(
            lambda row: (ALL, (row.job.int, row.tenant, row.key))
        )
        self.idempotency: Table[tuple[str, str], IdempotencyRow] = Table(
            "idempotency", log, lambda row: (row.tenant, row.key), self.idempotency_by_age
        )
        self.repeated_by_id: Index[UUID, RepeatedRow] = Index(_by_id)
        self.repeated: Table[UUID, RepeatedRow] = Table("repeated", log, _id, self.repeated_by_id)
        self.early_cancels: Table[tuple[str, UUID], EarlyCancelRow] = Table(
            "early_cancels", log, lambda row: (row.tenant, row.job)
        )
        self._make_places()

    def _make_places(self) -> None:
        """Make the tables in one of which each open job stands, by its id."""
        log = self._log
        self.waiting_by_flow: Index[UUID, WaitingRow] = Index(
            lambda row: ((row.model, row.lane, row.tenant), (row.rank, row.deadline_ms, row.job.int))
        )
        """In the order of dispatch, each flow (FlowKey) apart."""
        self.waiting_by_batch: Index[UUID, WaitingRow] = Index(lambda row: _of(row.batch, (row.job.int,)))
        self.waiting: Table[UUID, WaitingRow] = Table(
            "waiting", log, _job, self.waiting_by_flow, self.waiting_by_batch
        )
        self.delayed_by_due: Index[UUID, DelayedRow] = Index(
            lambda row: (ALL, (min(row.not_before_ms, row.deadline_ms), row.job.int))
        )
        self.delayed_by_batch: Index[UUID, DelayedRow] = Index(lambda row: _of(row.batch, (row.job.int,)))
        self.delayed_suspects: Index[UUID, DelayedRow] = Index(
            lambda row: None if row.suspicion is None else _by_job(row)
        )
        self.delayed_parked: Index[UUID, DelayedRow] = Index(
            lambda row: (ALL, (row.batch.int if row.batch else 0, row.job.int)) if row.is_parked else None
        )
        self.delayed: Table[UUID, DelayedRow] = Table(
            "delayed",
            log,
            _job,
            self.delayed_by_due,
            self.delayed_by_batch,
            self.delayed_suspects,
            self.delayed_parked,
        )
        self.running_by_job: Index[UUID, RunningRow] = Index(_by_job)
        self.running: Table[UUID, RunningRow] = Table("running", log, _job, self.running_by_job)

    def _make_batches(self) -> None:
        log = self._log
        self.batches_by_tenant: Index[UUID, BatchRow] = Index(_by_tenant)
        self.batches_by_root: Index[UUID, BatchRow] = Index(lambda row: _of(row.root, (row.id.int,)))
        self.batches_cancelling: Index[UUID, BatchRow] = Index(
            lambda row: _by_id(row) if row.cancel_ms is not None and row.completed_ms is None else None
        )
        self.batches: Table[UUID, BatchRow] = Table(
            "batches", log, _id, self.batches_by_tenant, self.batches_by_root, self.batches_cancelling
        )
        self.batches.trigger = self._tell_of_batch
        self.instruction_bodies: Table[tuple[UUID, str], InstructionBodyRow] = Table(
            "instruction_bodies", log, lambda row: (row.instruction, row.custom_id)
        )
        self.instructions_by_tenant: Index[UUID, InstructionRow] = Index(_by_tenant)
        self.instructions_open: Index[UUID, InstructionRow] = Index(
            lambda row: (ALL, (row.next_ms, row.id.int)) if row.ended_ms is None else None
        )
        self.instructions: Table[UUID, InstructionRow] = Table(
            "instructions", log, _id, self.instructions_by_tenant, self.instructions_open
        )
        self.spend: Table[tuple[date, str], SpendRow] = Table("spend", log, lambda row: (row.day, row.deployment))

    def _make_control(self) -> None:
        log = self._log
        self.catalog: Table[int, CatalogRow] = Table("catalog", log, lambda row: row.number)
        self.seal_key: Value[bytes | None] = Value(log, None)
        self.leader: Table[int, LeaderRow] = Table("leader", log, lambda row: row.shard)
        self.pauses: Table[tuple[str, str], PauseRow] = Table("pauses", log, lambda row: (row.kind, row.name))
        self.control_version: Value[int] = Value(log, 1)
        self.dead_letters_by_id: Index[UUID, DeadLetterRow] = Index(_by_id)
        self.dead_letters_by_tenant: Index[UUID, DeadLetterRow] = Index(
            lambda row: None if row.tenant is None else _by_tenant(row)
        )
        self.dead_letters: Table[UUID, DeadLetterRow] = Table(
            "dead_letters", log, _id, self.dead_letters_by_id, self.dead_letters_by_tenant
        )
        self.audit_by_id: Index[UUID, AuditRow] = Index(_by_id)
        self.audit_by_tenant: Index[UUID, AuditRow] = Index(_by_tenant)
        self.audit: Table[UUID, AuditRow] = Table("audit", log, _id, self.audit_by_id, self.audit_by_tenant)

    def _make_accounts(self) -> None:
        log = self._log
        self.tenants: Table[str, TenantRow] = Table("tenants", log, lambda row: row.name)
        self.api_keys_by_tenant: Index[str, ApiKeyRow] = Index(lambda row: (row.tenant, (row.id,)))
        self.api_keys: Table[str, ApiKeyRow] = Table("api_keys", log, lambda row: row.id, self.api_keys_by_tenant)
        self.key_uses: Table[str, KeyUseRow] = Table("key_uses", log, lambda row: row.id)
        self.key_version: Value[int] = Value(log, 1)

    def _make_files(self) -> None:
        log = self._log
        self.files_by_tenant: Index[UUID, FileRow] = Index(_by_tenant)
        self.files: Table[UUID, FileRow] = Table("files", log, _id, self.files_by_tenant)
        self.blobs_by_file: Index[tuple[UUID, int], BlobRow] = Index(lambda row: (row.file, (row.number,)))
        self.blobs: Table[tuple[UUID, int], BlobRow] = Table(
            "blobs", log, lambda row: (row.file, row.number), self.blobs_by_file
        )
        self.file_batches: Table[UUID, FileBatchRow] = Table("file_batches", log, lambda row: row.batch)
        self.bad_lines_by_batch: Index[tuple[UUID, int], BadLineRow] = Index(lambda row: (row.batch, (row.line,)))
        self.bad_lines: Table[tuple[UUID, int], BadLineRow] = Table(
            "bad_lines", log, lambda row: (row.batch, row.line), self.bad_lines_by_batch
        )
        self.line_names_by_batch: Index[tuple[UUID, bytes], LineNameRow] = Index(
            lambda row: (row.batch, (row.line, row.name))
        )
        self.line_names: Table[tuple[UUID, bytes], LineNameRow] = Table(
            "line_names", log, lambda row: (row.batch, row.name), self.line_names_by_batch
        )

    def _make_webhooks(self) -> None:
        log = self._log
        self.webhooks_by_tenant: Index[UUID, WebhookRow] = Index(_by_tenant)
        self.webhooks: Table[UUID, WebhookRow] = Table("webhooks", log, _id, self.webhooks_by_tenant)
        self.deliveries_by_tenant: Index[UUID, DeliveryRow] = Index(_by_tenant)
        self.deliveries_due: Index[UUID, DeliveryRow] = Index(
            lambda row: None if row.next_ms is None else (row.webhook, (row.next_ms, row.id.int))
        )
        """Those that are sent again, each endpoint apart, in the order of their times."""
        self.deliveries: Table[UUID, DeliveryRow] = Table(
            "deliveries", log, _id, self.deliveries_by_tenant, self.deliveries_due
        )

    def _tell_of_batch(self, old: BatchRow | None, new: BatchRow | None) -> None:
        """Tell endpoints that a batch is complete (the trigger `tell_of_batch`). Change what its files are before that."""
        if old is None or new is None or old.completed_ms is not None or new.completed_ms is None:
            return
        of_file = self.file_batches.get(new.id)
        if of_file is not None and of_file.failed_ms is not None:
            what = "batch.failed"
        elif new.cancel_ms is not None:
            what = "batch.cancelled"
        else:
            what = "batch.expired" if new.expired > 0 else "batch.completed"
        name = str(new.id) if of_file is None else f"batch_{new.id.hex}"
        self._tell(new.tenant, new.webhook, what, {"id": name, "batch_id": str(new.id)}, new.completed_ms)

    def _tell_of_job(self, old: ResultRow | None, new: ResultRow | None) -> None:
        """Tell endpoints that a job has ended which is in no batch and nobody waits for (the trigger `tell_of_job`)."""
        if old is not None or new is None or new.batch is not None or not len(self.webhooks):
            return
        job = self.jobs[new.job]
        if job.lane != "interactive" and job.settled_ms is not None:
            data = {"id": str(job.id), "state": job.state, "custom_id": job.custom_id}
            self._tell(job.tenant, None, "job.settled", data, job.settled_ms)

    def _tell(self, tenant: str, named: UUID | None, what: str, data: dict[str, str | None], at_ms: int) -> None:
        """Write what the endpoints of a tenant are told of an event: those that listen to it, and the one that is named."""
        event = None
        for key in self.webhooks_by_tenant.keys(tenant):
            webhook = self.webhooks[key]
            if webhook.disabled_ms is None and (webhook.id == named or what in webhook.events):
                event = event or self.id_at(at_ms)
                self.deliveries.insert(
                    DeliveryRow(
                        id=self.id_at(at_ms),
                        tenant=tenant,
                        webhook=webhook.id,
                        event=event,
                        type=what,
                        data=msgspec.json.encode(data).decode(),
                        made_ms=at_ms,
                        next_ms=at_ms,
                    )
                )


class _HasId(Protocol):
    @property
    def id(self) -> UUID: ...


class _OfTenant(_HasId, Protocol):
    @property
    def tenant(self) -> str | None: ...


class _HasJob(Protocol):
    @property
    def job(self) -> UUID: ...


def _id(row: _HasId) -> UUID:
    return row.id


def _job(row: _HasJob) -> UUID:
    return row.job


def _of(group: Hashable | None, order: Order) -> Stands:
    return None if group is None else (group, order)


def _by_id(row: _HasId) -> Stands:
    return ALL, (row.id.int,)


def _by_job(row: _HasJob) -> Stands:
    return ALL, (row.job.int,)


def _by_tenant(row: _OfTenant) -> Stands:
    return row.tenant, (row.id.int,)
