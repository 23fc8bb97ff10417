"""The areas in which people and producers say what is to happen, and those that tell what has: the classes of
`broker.ledger` over the tables in memory.
"""

from collections.abc import Mapping
from typing import TypedDict

from broker.blobs.stores import Stores
from broker.ledger.api_keys import PgApiKeys
from broker.ledger.areas import STEPS
from broker.ledger.audit import PgAudit
from broker.ledger.cancel_orders import PgCancelOrders
from broker.ledger.cancels import PgCancels
from broker.ledger.changes import PgChanges
from broker.ledger.days import Days
from broker.ledger.dead_letters import PgDeadLetters
from broker.ledger.file_batches import PgFileBatches, expanding
from broker.ledger.files import PgFiles
from broker.ledger.instructions import PgInstructions, Step
from broker.ledger.replays import PgReplays
from broker.ledger.retention import PgRetention
from broker.ledger.retries import PgRetries
from broker.ledger.tenants import PgTenants
from broker.ledger.webhooks import PgDeliveries, PgWebhooks
from broker.ports import (
    AuditLedger,
    BlobStores,
    CancelLedger,
    CancelOrderLedger,
    ChangeLedger,
    DeadLetterLedger,
    DeliveryLedger,
    FileBatchLedger,
    FileLedger,
    InstructionLedger,
    KeyLedger,
    ReplayLedger,
    RetentionLedger,
    RetryLedger,
    TenantLedger,
    WebhookLedger,
)
from broker.simulate.ledger.blobs import MemoryBlobs
from broker.simulate.ledger.connection import database_of
from broker.simulate.ledger.transactions import OpenGate, Session
from schemas.instructions import InstructionKind


class ControlAreas(TypedDict):
    """Areas by their names in `broker.ports.Ledger`."""

    cancels: CancelLedger
    cancel_orders: CancelOrderLedger
    changes: ChangeLedger
    instructions: InstructionLedger
    retries: RetryLedger
    replays: ReplayLedger
    dead_letters: DeadLetterLedger
    files: FileLedger
    stores: BlobStores
    file_batches: FileBatchLedger
    audit: AuditLedger
    tenants: TenantLedger
    api_keys: KeyLedger
    webhooks: WebhookLedger
    deliveries: DeliveryLedger
    retention: RetentionLedger


def control_areas(session: Session, *, steps: Mapping[InstructionKind, Step] = STEPS) -> ControlAreas:
    """Return these areas as one process has them."""
    return ControlAreas(
        cancels=PgCancels(database_of(session, "cancels")),
        cancel_orders=PgCancelOrders(database_of(session, "cancel_orders")),
        changes=PgChanges(database_of(session, "changes")),
        instructions=_instructions(session, steps),
        retries=PgRetries(database_of(session, "retries")),
        replays=PgReplays(database_of(session, "replays")),
        dead_letters=PgDeadLetters(database_of(session, "dead_letters")),
        files=PgFiles(database_of(session, "files")),
        stores=Stores(MemoryBlobs(session)),
        file_batches=PgFileBatches(database_of(session, "file_batches")),
        audit=PgAudit(database_of(session, "audit")),
        tenants=PgTenants(database_of(session, "tenants")),
        api_keys=PgApiKeys(database_of(session, "api_keys")),
        webhooks=PgWebhooks(database_of(session, "webhooks")),
        deliveries=PgDeliveries(database_of(session, "deliveries")),
        retention=PgRetention(database_of(session, "retention")),
    )


def _instructions(session: Session, steps: Mapping[InstructionKind, Step]) -> PgInstructions:
    """A page that reads a file does so within its transaction, so no gate is before that."""
    within = Session(tables=session.tables, timers=session.timers, gate=OpenGate(), clock=session.clock)
    database = database_of(session, "instructions")
    expand = {InstructionKind.EXPAND: expanding(Stores(MemoryBlobs(within)))}
    return PgInstructions(database, Days(database, session.clock), {**steps, **expand})
