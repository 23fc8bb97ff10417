"""Files of tenants, and their content in compressed pieces."""

import asyncio
from collections.abc import Collection
from uuid import UUID

from broker.blobs.pieces import packed, unpacked
from broker.ledger.connection import Connection, Database
from broker.ledger.rows import Row
from broker.ledger.sql import query
from schemas.files import File, FileList, Files, Purpose, Upload
from schemas.units import Ms

UNFINISHED_MS = Ms(24 * 3_600_000)
"""How long an upload may take. What is older and not complete was cut off. A file that was dropped is known for as long."""
_DROPPED = 10
"""How many files are dropped in one transaction."""


class PgBlobs:
    """Keeps the content of files in Postgres: implements `broker.ports.Blobs`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, file: UUID, number: int, piece: bytes) -> bool:
        data = await asyncio.to_thread(packed, piece)
        async with self._database.connection() as connection:
            return await connection.execute(query("put_piece"), file, number, data) == "INSERT 0 1"

    async def get(self, file: UUID, number: int) -> bytes | None:
        async with self._database.connection() as connection:
            data = await connection.fetchval(query("piece"), file, number)
        return None if data is None else await asyncio.to_thread(unpacked, data, file)

    async def drop(self, files: Collection[UUID]) -> None:
        async with self._database.connection() as connection:
            await connection.execute(query("drop_pieces"), list(files))


class PgFiles:
    """Implements `broker.ports.FileLedger`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(self, file: File, store: str, tenant: str, key: str, *, sha256: bytes | None = None) -> None:
        row = (file.id, store, tenant, key, file.purpose, file.name, file.created_ms, file.expires_ms, sha256)
        async with self._database.connection() as connection:
            await connection.execute(query("begin_file"), *row)

    async def of_content(self, sha256: bytes, tenant: str, now: Ms) -> Upload | None:
        async with self._database.connection() as connection:
            row = await connection.fetchrow(query("file_of_content"), tenant, sha256, now, now - UNFINISHED_MS)
        return (
            None if row is None else Upload(_file_of(row), store=row["store"], is_whole=row["stored_ms"] is not None)
        )

    async def grew(self, file: UUID, size: int) -> None:
        async with self._database.connection() as connection:
            await connection.execute(query("file_grew"), file, size)

    async def discard(self, file: UUID, now: Ms) -> None:
        async with self._database.connection() as connection:
            await connection.execute(query("discard_file"), file, now)

    async def finish(self, file: UUID, size: int, now: Ms, *, kept_ms: int | None = None) -> File | None:
        async with self._database.connection() as connection:
            row = await connection.fetchrow(query("finish_file"), file, size, now, kept_ms)
        return None if row is None else _file_of(row)

    async def find(self, file: UUID, tenant: str, now: Ms) -> File | None:
        async with self._database.connection() as connection:
            return await find_file(connection, file, tenant, now)

    async def page(self, tenant: str, ask: FileList, now: Ms) -> Files:
        async with self._database.connection() as connection:
            rows = await connection.fetch(
                query("files"), tenant, now, ask.purpose, ask.after, ask.oldest_first, ask.limit + 1
            )
        return Files(tuple(map(_file_of, rows[: ask.limit])), len(rows) > ask.limit)

    async def expire(self, file: UUID, tenant: str, in_ms: int) -> File | None:
        async with self._database.connection() as connection:
            row = await connection.fetchrow(query("expire_file"), file, tenant, in_ms)
        return None if row is None else _file_of(row)

    async def delete(self, file: UUID, tenant: str, now: Ms) -> bool:
        async with self._database.connection() as connection:
            return await connection.fetchval(query("delete_file"), file, tenant, now) is not None

    async def store_of(self, file: UUID) -> str | None:
        async with self._database.connection() as connection:
            row = await connection.fetchrow(query("stored_in"), file)
        return None if row is None else row["store"]

    async def to_drop(self, now: Ms, *, away: Collection[str] = ()) -> dict[str, list[UUID]]:
        async with self._database.connection() as connection:
            rows = await connection.fetch(query("files_to_drop"), now, now - UNFINISHED_MS, _DROPPED, list(away))
        found: dict[str, list[UUID]] = {}
        for row in rows:
            found.setdefault(row["store"], []).append(row["id"])
        return found

    async def dropped(self, files: Collection[UUID], now: Ms) -> None:
        async with self._database.connection() as connection:
            await connection.execute(query("drop_files"), list(files), now, now - UNFINISHED_MS)


async def find_file(connection: Connection, file: UUID, tenant: str, now: Ms) -> File | None:
    row = await connection.fetchrow(query("file"), file, tenant, now)
    return None if row is None else _file_of(row)


def _file_of(row: Row) -> File:
    return File(
        id=row["id"],
        purpose=Purpose(row["purpose"]),
        name=row["name"],
        bytes=row["bytes"],
        created_ms=row["created_ms"],
        expires_ms=row["expires_ms"],
    )
