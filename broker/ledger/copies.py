"""Rows of jobs, bodies and results, as an admission or a settlement writes them."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from broker.core.records import Entry
from broker.ledger.connection import Connection
from broker.ledger.rows import JOB_COLUMNS, columns
from broker.ledger.sql import query


async def copy_jobs(connection: Connection, rows: Sequence[tuple[object, ...]]) -> None:
    await connection.copy_records_to_table("jobs", records=rows, columns=JOB_COLUMNS, schema_name="infermq")


async def insert_jobs(connection: Connection, rows: Sequence[tuple[object, ...]]) -> set[UUID]:
    """The ids that were not known."""
    return {row["id"] for row in await connection.fetch(query("insert_jobs"), *columns(rows, len(JOB_COLUMNS)))}


async def copy_bodies(connection: Connection, entries: Sequence[Entry]) -> None:
    records = [(entry.id, entry.body) for entry in entries]
    await connection.copy_records_to_table("bodies", records=records, columns=("job", "body"), schema_name="infermq")


async def copy_results(
    connection: Connection,
    ended: Sequence[tuple[UUID, UUID | None, bytes | None]],
    ended_before: Mapping[UUID, int],
) -> None:
    """Jobs that end, with their batches and bodies, in this order; those of a batch with the next ordinals of it."""
    last: dict[UUID | None, int] = dict(ended_before.items())
    rows = []
    for job, batch, body in ended:
        if batch in last:
            last[batch] += 1
        rows.append((job, batch, last.get(batch), body))
    await connection.copy_records_to_table(
        "results", records=rows, columns=("job", "batch", "ordinal", "body"), schema_name="infermq"
    )
