"""Writes rows of jobs, bodies and results, for admission and settlement."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from broker.core.records import Entry
from broker.ledger.connection import Connection
from broker.ledger.rows import JOB_COLUMNS, columns
from broker.ledger.sql import query


async def copy_jobs(connection: Connection, rows: Sequence[tuple[object, ...]]) -> None:
    await connection.copy_records_to_table("jobs", records=rows, columns=JOB_COLUMNS, schema_name="infermq")


async def insert_jobs(connection: Connection, rows: Sequence[tuple[object, ...]]) -> set[UUID]:
    """Insert those that are not known, and return their ids."""
    return {row["id"] for row in await connection.fetch(query("insert_jobs"), *columns(rows, len(JOB_COLUMNS)))}


async def copy_bodies(connection: Connection, entries: Sequence[Entry]) -> None:
    records = [(entry.id, entry.body) for entry in entries]
    await connection.copy_records_to_table("bodies", records=records, columns=("job", "body"), schema_name="infermq")


async def copy_results(
    connection: Connection,
    ended: Sequence[tuple[UUID, UUID | None, bytes | None]],
    ended_before: Mapping[UUID, int],
) -> None:
    """Copy in the results of `ended` (job, batch, body), in this order."""
    rows = numbered(ended, ended_before)
    await connection.copy_records_to_table(
        "results", records=rows, columns=("job", "batch", "ordinal", "body"), schema_name="infermq"
    )


def numbered(
    ended: Sequence[tuple[UUID, UUID | None, bytes | None]], ended_before: Mapping[UUID, int]
) -> list[tuple[UUID, UUID | None, int | None, bytes | None]]:
    """Give the results of a batch its next ordinals: job, batch, ordinal, body."""
    last: dict[UUID | None, int] = dict(ended_before.items())
    rows = []
    for job, batch, body in ended:
        if batch in last:
            last[batch] += 1
        rows.append((job, batch, last.get(batch), body))
    return rows
