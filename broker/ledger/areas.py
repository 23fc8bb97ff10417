"""Opens all areas over one database."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from broker.blobs.stores import Stores
from broker.ledger.api_keys import PgApiKeys
from broker.ledger.attempts import PgAttempts
from broker.ledger.audit import PgAudit
from broker.ledger.backlog import PgBacklog
from broker.ledger.batches import PgBatches
from broker.ledger.cancel_orders import PgCancelOrders, cancel_page
from broker.ledger.cancels import PgCancels
from broker.ledger.catalogs import PgCatalogs
from broker.ledger.changes import PgChanges, change_page
from broker.ledger.connection import Database
from broker.ledger.controls import PgControls
from broker.ledger.days import Days
from broker.ledger.dead_letters import PgDeadLetters
from broker.ledger.file_batches import PgFileBatches, expanding
from broker.ledger.files import PgBlobs, PgFiles
from broker.ledger.instructions import PgInstructions, Step
from broker.ledger.intake import PgIntake
from broker.ledger.jobs import PgJobs
from broker.ledger.leadership import PgLeadership
from broker.ledger.migrate import check_up_to_date
from broker.ledger.replays import PgReplays, replay_page
from broker.ledger.requeues import requeue_page
from broker.ledger.retention import PgRetention
from broker.ledger.retries import PgRetries, retry_page
from broker.ledger.seal_keys import PgSealKeys
from broker.ledger.settlement import PgSettlement
from broker.ledger.spend import PgSpend
from broker.ledger.status import PgStatus
from broker.ledger.sums import PgSums
from broker.ledger.suspects import PgSuspects
from broker.ledger.tenants import PgTenants
from broker.ledger.webhooks import PgDeliveries, PgWebhooks
from broker.ports import Blobs, BlobStores, Clock, Ledger
from schemas.instructions import InstructionKind

STEPS: Mapping[InstructionKind, Step] = {
    InstructionKind.CHANGE: change_page,
    InstructionKind.CANCEL: cancel_page,
    InstructionKind.RETRY: retry_page,
    InstructionKind.REPLAY: replay_page,
    InstructionKind.REQUEUE: requeue_page,
}
"""What does a page of each kind of instruction."""


@asynccontextmanager
async def open_ledger(
    url: str,
    *,
    clock: Clock,
    connections: int = 8,
    databases: type[Database] = Database,
    steps: Mapping[InstructionKind, Step] = STEPS,
    stores: Callable[[Blobs], BlobStores] = Stores,
) -> AsyncIterator[Ledger]:
    """Open the ledger. While Postgres is away, or its schema is not up to date, every call raises Unavailable.

    `stores` adds other stores of files to the one in Postgres, and chooses that for new files.
    """
    async with databases.open(url, connections=connections, check=check_up_to_date) as database:
        days = Days(database, clock)
        seal_keys = PgSealKeys(database)
        of_files = stores(PgBlobs(database))
        yield Ledger(
            intake=PgIntake(database, days),
            dead_letters=PgDeadLetters(database),
            backlog=PgBacklog(database),
            attempts=PgAttempts(database, seal_keys),
            settlement=PgSettlement(database, days),
            suspects=PgSuspects(database, seal_keys),
            leadership=PgLeadership(database),
            spend=PgSpend(database),
            batches=PgBatches(database),
            jobs=PgJobs(database),
            retries=PgRetries(database),
            instructions=PgInstructions(database, days, {**steps, InstructionKind.EXPAND: expanding(of_files)}),
            files=PgFiles(database),
            stores=of_files,
            file_batches=PgFileBatches(database),
            cancels=PgCancels(database),
            changes=PgChanges(database),
            cancel_orders=PgCancelOrders(database),
            replays=PgReplays(database),
            catalogs=PgCatalogs(database),
            controls=PgControls(database),
            audit=PgAudit(database),
            status=PgStatus(database),
            sums=PgSums(database),
            retention=PgRetention(database),
            days=days,
            seal_keys=seal_keys,
            tenants=PgTenants(database),
            api_keys=PgApiKeys(database),
            webhooks=PgWebhooks(database),
            deliveries=PgDeliveries(database),
        )
