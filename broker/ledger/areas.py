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
from broker.ports import Blobs, BlobStores, Clock, Ledger, SumsLedger
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
        of_files = stores(PgBlobs(database))
        yield areas_over(
            lambda _: database, clock=clock, stores=of_files, expanded=of_files, sums=PgSums(database), steps=steps
        )


def areas_over(
    database: Callable[[str], Database],
    *,
    clock: Clock,
    stores: BlobStores,
    expanded: BlobStores,
    sums: SumsLedger,
    steps: Mapping[InstructionKind, Step],
) -> Ledger:
    """Make all areas, each over the database that is returned for its name.

    `expanded` are the stores as a page that expands a file reads them, within its transaction.
    """
    days = Days(database("days"), clock)
    seal_keys = PgSealKeys(database("seal_keys"))
    steps = {**steps, InstructionKind.EXPAND: expanding(expanded)}
    return Ledger(
        intake=PgIntake(database("intake"), days),
        dead_letters=PgDeadLetters(database("dead_letters")),
        backlog=PgBacklog(database("backlog")),
        attempts=PgAttempts(database("attempts"), seal_keys),
        settlement=PgSettlement(database("settlement"), days),
        suspects=PgSuspects(database("suspects"), seal_keys),
        leadership=PgLeadership(database("leadership")),
        spend=PgSpend(database("spend")),
        batches=PgBatches(database("batches")),
        jobs=PgJobs(database("jobs")),
        retries=PgRetries(database("retries")),
        instructions=PgInstructions(database("instructions"), days, steps),
        files=PgFiles(database("files")),
        stores=stores,
        file_batches=PgFileBatches(database("file_batches")),
        cancels=PgCancels(database("cancels")),
        changes=PgChanges(database("changes")),
        cancel_orders=PgCancelOrders(database("cancel_orders")),
        replays=PgReplays(database("replays")),
        catalogs=PgCatalogs(database("catalogs")),
        controls=PgControls(database("controls")),
        audit=PgAudit(database("audit")),
        status=PgStatus(database("status")),
        sums=sums,
        retention=PgRetention(database("retention")),
        days=days,
        seal_keys=seal_keys,
        tenants=PgTenants(database("tenants")),
        api_keys=PgApiKeys(database("api_keys")),
        webhooks=PgWebhooks(database("webhooks")),
        deliveries=PgDeliveries(database("deliveries")),
    )
