"""Makes new jobs that repeat others, for retries and replays."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from uuid import UUID

from msgspec.structs import replace

from broker.core.admit import AdmissionContext
from broker.core.instructions import Carried, OpenInstruction
from broker.core.principal import Principal
from broker.core.records import Admitted, BatchInfo, Entry
from broker.core.repeat import Source, repeat_id
from broker.errors import Conflict, Unavailable
from broker.ledger.connection import Connection
from broker.ledger.intake import record_entries
from broker.ledger.rows import Row, change_of, columns, metadata_of
from broker.ledger.sql import query
from schemas.accounts import Role
from schemas.catalog import Catalog, CatalogError, parse
from schemas.job import Lane
from schemas.units import Ms

PAGE = 500
"""How many jobs a page makes at most. A guess: their insertion takes some tens of milliseconds."""
PAGE_BYTES = 8 * 1024 * 1024
"""How many bytes of bodies a page reads, unless the first job alone has more."""


@dataclass(frozen=True, slots=True)
class Repeat:
    """A new job, the one that it repeats, and the first of its line if it is a retry."""

    entry: Entry
    source: UUID
    root: UUID | None = None


async def read_sources(
    connection: Connection, jobs: Sequence[UUID], *, page_bytes: int = PAGE_BYTES
) -> list[Source | None]:
    """Read the jobs, in this order, or as many of the first as fit into a page. None: it is gone with its day."""
    if not jobs:
        return []
    rows = await connection.fetch(query("sources"), list(jobs), min(jobs), max(jobs), page_bytes)
    return [None if row["body"] is None else _source_of(row) for row in rows]


async def record_repeats(connection: Connection, repeats: Sequence[Repeat]) -> Admitted:
    """Record new jobs, and which ones they repeat. Must be the last that locks anything in its transaction."""
    if not repeats:
        return Admitted(waiting=(), refused=(), conflicts=())
    links = [(one.entry.id, one.source, one.root) for one in repeats]
    await connection.execute(query("insert_replays"), *columns(links, 3))
    return await record_entries(connection, [one.entry for one in repeats])


async def create_batch(
    connection: Connection,
    batch: UUID,
    *,
    tenant: str,
    lane: Lane,
    now: Ms,
    deadline_ms: int | None = None,
    metadata: str = "{}",
    retry_of: UUID | None = None,
    root: UUID | None = None,
) -> None:
    """Create the batch of an instruction: of a retry, if it says of what; else of a replay.

    Raises: Conflict, if there is a batch with its id.
    """
    row = (batch, tenant, lane, now, deadline_ms, metadata, retry_of, root, retry_of is None)
    if await connection.fetchval(query("create_repeat_batch"), *row) is None:
        raise Conflict(f"the id {batch} is taken: make another")


CLOSED = Carried(is_last=True, failure="its batch was sealed or cancelled meanwhile")
"""What a page comes to whose batch takes no more jobs."""


async def open_batch(connection: Connection, instruction: OpenInstruction) -> Row | None:
    """Read the batch of an instruction. None: it takes no more jobs."""
    batch = await connection.fetchrow(query("batch"), instruction.id, instruction.tenant)
    return None if batch is None or batch["sealed_ms"] is not None else batch


async def seal(connection: Connection, instruction: OpenInstruction, jobs: int, now: Ms) -> None:
    """Seal the batch of an instruction with all the jobs that it made."""
    await connection.execute(query("seal_batch"), instruction.id, instruction.tenant, jobs, now)


async def context_of(
    connection: Connection, instruction: OpenInstruction, batch: Row, now: Ms
) -> Callable[[str], AdmissionContext]:
    """Return what makes the context in which a job for a model is admitted to the instruction's batch.

    That the key may give it was decided before; here each job is held to the models, endpoints and lanes of the key.

    Raises: Unavailable.
    """
    lane = Lane(batch["lane"])
    info = BatchInfo(
        id=batch["id"],
        tenant=batch["tenant"],
        lane=lane,
        deadline_ms=batch["deadline_ms"],
        priority=batch["priority"],
        change=change_of(batch),
    )
    principal = await _principal(connection, instruction)
    catalog = await _active_catalog(connection)

    def context(model: str) -> AdmissionContext:
        return AdmissionContext(
            principal=principal,
            lane=lane,
            model=model,
            catalog=catalog,
            now=now,
            new_id=lambda _: instruction.id,
            batches={info.id: info},
        )

    return context


async def _principal(connection: Connection, instruction: OpenInstruction) -> Principal:
    row = await connection.fetchrow(query("limits_of_key"), instruction.key)
    anyone = Principal(tenant=instruction.tenant, key=instruction.key, role=Role.OPERATOR)
    if row is None:
        return anyone
    return replace(
        anyone,
        models=None if row["models"] is None else frozenset(row["models"]),
        endpoints=None if row["endpoints"] is None else frozenset(row["endpoints"]),
        lanes=anyone.lanes if row["lanes"] is None else frozenset(map(Lane, row["lanes"])),
    )


def new_id(instruction: OpenInstruction, source: UUID) -> UUID:
    return repeat_id(instruction.id, instruction.made_ms, source)


def carried(
    admitted: Admitted, *, cursor: str, is_last: bool, counts: dict[str, int], not_before_ms: int = 0
) -> Carried:
    """Return what a page came to that made these jobs."""
    refused = {"refused": len(admitted.refused)} if admitted.refused else {}
    return Carried(
        cursor=cursor,
        is_last=is_last,
        counts={name: number for name, number in counts.items() if number} | refused,
        not_before_ms=Ms(not_before_ms),
        waiting=admitted.waiting,
        ended=admitted.refused,
    )


async def _active_catalog(connection: Connection) -> Catalog:
    row = await connection.fetchrow(query("active_catalog"))
    try:
        return Catalog() if row is None else _parsed(row["toml"])
    except CatalogError as error:
        raise Unavailable("the catalog", f"a newer broker wrote it: {error}") from error


_parsed = lru_cache(maxsize=4)(parse)


def _source_of(row: Row) -> Source:
    return Source(
        id=row["id"],
        model=row["model"],
        endpoint=row["endpoint"],
        max_attempts=row["max_attempts"],
        priority=row["priority"],
        line=row["line"],
        custom_id=row["custom_id"],
        metadata=metadata_of(row),
        body=row["body"],
    )
